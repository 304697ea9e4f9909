"""A layer that draws noise, compiled: whole, without a warning, again with another state."""

from __future__ import annotations

import pytest
import torch

from spikegrad import NoisyThreshold, nn


@pytest.mark.parametrize("delayed", [False, True])
def test_a_noisy_layer_compiles_without_a_warning(delayed):
    """A compiler that traced through a cache of functools warned of it."""
    torch.compiler.reset()
    layer = nn.Leaky(0.9, spike=NoisyThreshold(), reset_delay=delayed)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = torch.rand(4, 2, 3)
    torch.manual_seed(0)
    found = compiled(x), compiled(x, torch.rand(2, 3))
    torch.manual_seed(0)
    expected = layer(x), layer(x, torch.rand(2, 3))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[0], theirs[0])
        torch.testing.assert_close(ours[1], theirs[1])
