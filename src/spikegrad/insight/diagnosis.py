"""Why a network does not learn: one pass, measured in every layer, with a verdict in plain words."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spikegrad.insight.findings import Finding, joined
from spikegrad.insight.measuring import Loss, Measured, compared, detached_resets, measured, run, updated
from spikegrad.insight.verdicts import Verdicts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


@dataclass(frozen=True)
class Diagnosis:
    """What one pass through a network says of it. Printed, it is the findings; in a terminal of Rich, a table before them.

    Attributes:
        loss: of the batch.
        loss_after: of the same batch after one update, taken on copies; None without an optimiser.
        layers: what was measured of each, in the order in which the model has them.
        findings: what is wrong, causes first; empty for a network to which nothing was found to be wrong.
    """

    loss: float
    loss_after: float | None
    layers: tuple[Measured, ...]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "loss": self.loss,
            "loss_after": self.loss_after,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def table(self) -> Table:
        """One row for each layer, for Rich."""
        from spikegrad.insight.display import table

        return table(self)

    def figure(self) -> Figure:
        """One row for each layer: potentials around the threshold, firing rates, and the gradient over time."""
        from spikegrad.insight.display import figure

        return figure(self)

    def __rich__(self) -> Any:
        from spikegrad.insight.display import report

        return report(self)

    def __str__(self) -> str:
        if self.healthy:
            return "Nothing was found to be wrong."
        return "\n".join(f"{number}. {finding.kind}: {finding}" for number, finding in enumerate(self.findings, 1))


def diagnose(model: nn.Module, batch: tuple[Any, Any], loss: Loss, optimizer: torch.optim.Optimizer | None = None) -> Diagnosis:
    """Find out why a network does not learn, from one pass forward and backward.

    The model, its gradients, its states and statistics, the optimiser and the random numbers are left as they were. It is run in the mode
    in which it is: in training mode, with dropout. Where a reset passes gradients, it is run once more without that; with an optimiser,
    once more after one step of it, taken on copies.

    Args:
        model: with layers of `spikegrad.nn`, or neurons of snnTorch or `spikegrad.compat.snntorch`.
        batch: ``(x, y)``, for ``model(x)`` and ``loss(output, y)``. The more samples, the surer the verdict: 32 or more.
        loss: a function of the model's output and `y`. Of a model that returns a tuple, such as ``(spikes, state)``, it is given the first.
        optimizer: to judge the size of its updates as well.

    Returns:
        A `Diagnosis`: measurements of each layer, and findings with a cause and the next thing to try, in words and in numbers.

    Raises:
        ValueError: there is no spiking layer, or the optimiser has no parameter of the model or cannot take a step by itself.
        TypeError: the batch is no pair, or the loss no tensor of one number.

    Example:
        >>> import torch
        >>> import spikegrad
        >>> from spikegrad import Triangle, nn
        >>> _ = torch.manual_seed(0)
        >>> layer = nn.Leaky(0.9, spike=Triangle(0.5))
        >>> net = nn.Sequential(torch.nn.Linear(8, 16), layer, torch.nn.Linear(16, 2), nn.LeakyIntegrator(0.9))
        >>> _ = torch.nn.init.normal_(net[0].weight, std=0.01), torch.nn.init.zeros_(net[0].bias)
        >>> x, y = torch.rand(20, 32, 8), torch.arange(32) % 2
        >>> found = spikegrad.diagnose(net, (x, y), lambda out, y: torch.nn.functional.cross_entropy(out.mean(0), y))
        >>> found.findings[0].kind, found.findings[0].layers
        ('silent', ('1',))
        >>> found.findings[0].apply(net)
        >>> spikegrad.diagnose(net, (x, y), lambda out, y: torch.nn.functional.cross_entropy(out.mean(0), y)).healthy
        True
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"`batch` must be a pair, an input of the model and what the loss compares with, got {type(batch).__name__}")
    x, y = batch
    done = run(model, x, y, loss)
    calmer: dict[str, tuple[float, float]] = {}
    with detached_resets(model) as changed:
        if changed:
            calmer = {name: both for name, both in compared(done, run(model, x, y, loss)).items() if name in changed}
    step = None
    if optimizer is not None:
        step = functools.cache(functools.partial(updated, model, x, y, loss, optimizer, done.gradients))
    layers = measured(done, model, None if step is None else step(1.0).sizes)
    rates = () if optimizer is None else tuple(float(group["lr"]) for group in optimizer.param_groups)
    findings = [_to_the_end(each, model, x, y, loss) for each in Verdicts(done, layers, y, calmer, step, rates).all()]
    after = None if step is None else step(1.0).loss
    return Diagnosis(done.loss, after, tuple(layers.values()), tuple(findings))


def _to_the_end(finding: Finding, model: nn.Module, x: Any, y: Any, loss: Loss) -> Finding:
    """A finding whose consequences were looked at again with its advice followed: what is ill even so is treated along with it."""
    while finding.consequences and finding.change is not None and not finding.change.numbers:
        names = [*finding.change.scale]
        kept = {name: p.detach().clone() for name, p in model.named_parameters() if name in names}
        try:
            finding.change.apply(model)
            done = run(model, x, y, loss)
            found = Verdicts(done, measured(done, model, None), y, {}, None).stuck()
        finally:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    if name in kept:
                        p.copy_(kept[name])
        ill = next((each for each in found if each.change is not None and each.layers[0] not in finding.layers), None)
        if ill is None or not any(f"`{ill.layers[0]}` is" in said for said in finding.consequences):
            break
        finding = joined(finding, ill)
    return finding
