"""What goes on in a network: every layer seen, a diagnosis of why it does not learn, and a start from which it does."""

from spikegrad.insight.recording import LayerRecord as LayerRecord
from spikegrad.insight.recording import Recording as Recording
from spikegrad.insight.recording import record as record
