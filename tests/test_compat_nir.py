"""snnTorch's export to NIR does with our neurons what it does with its own: the same graph, or the same error of the nir that is there."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("snntorch")
pytest.importorskip("nir")
pytest.importorskip("nirtorch")

from spikegrad.compat import snntorch as ours  # noqa: E402


def network(library: Any, kind: str) -> Any:
    torch.manual_seed(0)

    def neurons(count: int, **options: Any) -> Any:
        numbers = {"beta": torch.linspace(0.5, 0.9, count), "threshold": torch.linspace(1.0, 2.0, count)}
        if kind == "Synaptic":
            numbers["alpha"] = torch.linspace(0.2, 0.4, count)
        return getattr(library, kind)(**numbers, init_hidden=True, **options)

    return torch.nn.Sequential(torch.nn.Linear(3, 4), neurons(4), torch.nn.Linear(4, 2), neurons(2, output=True))


def exported(library: Any, kind: str) -> Any:
    """The graph as comparable values, or the error."""
    from snntorch.export_nir import export_to_nir

    try:
        graph = export_to_nir(network(library, kind), torch.rand(1, 3), ignore_dims=[0])
    except TypeError as error:  # nir before 1.0.6 does not know `v_reset`
        return str(error)
    nodes = {
        name: (
            type(node).__name__,
            {field: np.asarray(value).tolist() for field, value in vars(node).items() if isinstance(value, np.ndarray)},
        )
        for name, node in graph.nodes.items()
    }
    return nodes, sorted(graph.edges)


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated")
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
def test_ours_is_exported_as_theirs(kind):
    expected = exported(theirs, kind)
    assert exported(ours, kind) == expected
    known = tuple(map(int, importlib.metadata.version("nir").split(".")[:3]))
    if known < (1, 0, 6):
        assert "v_reset" in expected
    else:
        assert {name for name, _ in expected[0].values()} >= {"Affine", "LIF" if kind == "Leaky" else "CubaLIF"}
