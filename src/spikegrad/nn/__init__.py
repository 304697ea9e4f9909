"""PyTorch modules: spiking layers that take whole sequences and hand their state in and out, like `torch.nn.LSTM`."""

from spikegrad.kernels.spikes import Spikes as Spikes
from spikegrad.nn.backend import free_memory as free_memory
from spikegrad.nn.convolution import SpikingConv2d as SpikingConv2d
from spikegrad.nn.layer import Layer as Layer
from spikegrad.nn.layer import Stateful as Stateful
from spikegrad.nn.linear import SpikingLinear as SpikingLinear
from spikegrad.nn.neurons import Leaky as Leaky
from spikegrad.nn.neurons import LeakyIntegrator as LeakyIntegrator
from spikegrad.nn.neurons import RecurrentLeaky as RecurrentLeaky
from spikegrad.nn.neurons import RecurrentSynaptic as RecurrentSynaptic
from spikegrad.nn.neurons import Synaptic as Synaptic
from spikegrad.nn.quantize import Quantize as Quantize
from spikegrad.nn.sequential import Residual as Residual
from spikegrad.nn.sequential import Sequential as Sequential
from spikegrad.nn.spike import Spike as Spike
from spikegrad.nn.steps import Steps as Steps
