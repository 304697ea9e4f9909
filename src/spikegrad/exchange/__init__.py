"""Networks for other tools, and from them: NIR, ONNX, and the fixed-point numbers of chips."""

from spikegrad.exchange.nir_reading import from_nir as from_nir
from spikegrad.exchange.nir_writing import to_nir as to_nir
from spikegrad.exchange.onnx_writing import to_onnx as to_onnx
