"""What goes on in a network: every layer seen, a diagnosis of why it does not learn, and a start from which it does."""

from spikegrad.insight.cost import Cost as Cost
from spikegrad.insight.cost import LayerCost as LayerCost
from spikegrad.insight.cost import cost as cost
from spikegrad.insight.diagnosis import Diagnosis as Diagnosis
from spikegrad.insight.diagnosis import diagnose as diagnose
from spikegrad.insight.findings import Change as Change
from spikegrad.insight.findings import Finding as Finding
from spikegrad.insight.initialising import fluctuation_driven as fluctuation_driven
from spikegrad.insight.matching import match as match
from spikegrad.insight.measuring import Measured as Measured
from spikegrad.insight.recording import LayerRecord as LayerRecord
from spikegrad.insight.recording import Recording as Recording
from spikegrad.insight.recording import record as record
from spikegrad.insight.schedule import SlopeSchedule as SlopeSchedule
