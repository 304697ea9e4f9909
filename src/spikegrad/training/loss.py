"""What training makes small: the cross entropy of the answer, and firing rates outside of their bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from spikegrad.training.config import Config
from spikegrad.training.network import Activity


def loss(activity: Activity, labels: Tensor, config: Config) -> Tensor:
    r"""Cross entropy of the scores, plus the penalty on activity.

    Args:
        activity: what the network did, see `Activity`.
        labels: right answers, whole numbers, (batch,).
        config: gives `smoothing`, `rate_weight`, `rate_lower`, `rate_upper`.

    Returns:
        A scalar.
    """
    total = torch.nn.functional.cross_entropy(activity.scores, labels, label_smoothing=config.smoothing)
    if config.rate_weight:
        total = total + config.rate_weight * sum(rate_penalty(s, config.rate_lower, config.rate_upper) for s in activity.fired)
    return total


def rate_penalty(spikes: Tensor, lower: float, upper: float) -> Tensor:
    r"""How far a layer's activity is outside of its bounds, after Zenke & Vogels 2021.

    .. math:: \frac{1}{N} \sum_i \max(0, \ell - r_i)^2 + \max(0, \tfrac{1}{N} \textstyle\sum_i r_i - u)^2

    with :math:`r_i` the spikes of neuron i per step and sample: the lower bound wakes every silent neuron, the upper one quiets the
    layer as a whole.

    Args:
        spikes: (time, batch, neuron); those of either sign count.
        lower: bound for each neuron, spikes per step.
        upper: bound for the mean of the layer, spikes per step.

    Returns:
        A scalar, 0 within the bounds.

    Example:
        >>> import torch
        >>> from spikegrad.training.loss import rate_penalty
        >>> round(float(rate_penalty(torch.zeros(10, 4, 3), lower=0.1, upper=0.5)), 4)
        0.01
    """
    # Whether one is negative is cheaper to see than to provide for; of a GPU it would have to be waited for. `abs` has no slope at 0.
    signed = spikes.device.type != "cpu" or bool(spikes.detach().amin() < 0)
    rates = (torch.where(spikes < 0, -spikes, spikes) if signed else spikes).float().mean((0, 1))
    return torch.relu(lower - rates).square().mean() + torch.relu(rates.mean() - upper).square()
