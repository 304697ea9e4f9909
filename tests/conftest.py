"""What test files share: registries, points, transforms, the values that a gradient must have; and how many kernels are compiled."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import pytest

# Before PyTorch is imported: its idle threads sleep, as in `spikegrad train`; those of two processes that spin keep each other waiting.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

if not torch.cuda.is_available():  # before Triton is imported, which decides then whether it compiles or interprets
    os.environ.setdefault("TRITON_INTERPRET", "1")

from spikegrad import Neuron, Surrogate, neurons
from spikegrad.formulas import CATALOGUE

POINTS = np.array([-1.73, -0.813, -0.313, -0.0413, 0.0227, 0.291, 0.777, 1.61])
"""Potentials of no special value: off every kink."""

DTYPES = ("float16", "bfloat16", "float32", "float64")


@pytest.fixture(params=CATALOGUE)
def surrogate(request: pytest.FixtureRequest) -> Surrogate:
    """Every surrogate of the catalogue, with its defaults."""
    return CATALOGUE[request.param]()


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def points() -> np.ndarray:
    return POINTS


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of 40 noisy samples of two classes, values 0 to 1."""
    y = np.arange(40) % 2
    x = np.clip(0.4 * y[:, None] + 0.5 * np.random.default_rng(0).random((40, 4)), 0, 1).astype("float32")
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x=x, y=y)
    return str(path)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, str, str]]:
    """Run a command line; give its exit code, what it printed and its one line of error."""
    from spikegrad.cli import main

    def told(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["spikegrad", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        assert printed.err.count("\n") == (caught.value.code == 2)
        return caught.value.code, printed.out, printed.err.strip()

    return told


@pytest.fixture
def by_events(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """``"auto"`` takes events however small a layer is and whatever spikes; the neurons that ran by them, one for each time."""
    from spikegrad.kernels import choice
    from spikegrad.nn import events

    ran: list[object] = []
    run = events.run

    def noted(neuron: Any, *given: Any) -> Any:
        ran.append(neuron)
        return run(neuron, *given)

    monkeypatch.setattr(choice, "FEWEST", 0)
    monkeypatch.setattr(choice, "crossing", lambda *given: 2.0)
    monkeypatch.setattr(events, "run", noted)
    return ran


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that spikegrad allocates without filling it is NaN, so that an output left unwritten fails its test."""
    torch = sys.modules.get("torch")
    if torch is None:
        return

    def poisoned(allocate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(allocate)
        def empty(*arguments: Any, **options: Any) -> Any:
            made = allocate(*arguments, **options)
            if torch.compiler.is_compiling() or not made.is_floating_point():
                return made
            ours = sys._getframe(1).f_globals.get("__name__", "").startswith("spikegrad")
            return made.fill_(float("nan")) if ours else made

        return empty

    results = sys.modules.get("spikegrad.kernels.cpu.results")
    owners = (torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"), (results, "empty")
    for owner, name in owners[: 3 if results is None else 4]:
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    memory = sys.modules.get("spikegrad.kernels.cpu.memory")
    if memory is not None:
        take_block = memory.take

        def take(size: int) -> Any:
            block = take_block(size)
            block.bytes.fill(255)  # NaN as float32 and as float64
            return block

        monkeypatch.setattr(memory, "take", take)


@pytest.fixture(autouse=True, scope="module")
def programs() -> Iterator[None]:
    """What JAX has compiled for the tests of a file goes with it; all of it together takes gigabytes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


def pytest_collection() -> None:
    """Whatever is made while tests are collected stays: the collector, a quarter of that time, would find nothing."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """The collector need not go through that again and again, a million objects, nor come every 700 new ones, and XLA's with it."""
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


KERNELS = 620
"""Different kernels that a run of the default suite may compile, over all its processes: its time goes to compiling."""

_loaded: list[set[str]] = []
"""Names of the modules that each process has loaded."""


def _modules() -> list[str]:
    """Generated modules of this process: kernels, and what shares them out, calls them from XLA or multiplies inside of them."""
    cache = sys.modules.get("spikegrad.kernels.cache")
    return [] if cache is None else sorted(name for name in cache._modules if "_triton_" not in name)


def _kernels(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith(("spikegrad_generated_forward_", "spikegrad_generated_backward_"))}


def _too_many(config: pytest.Config) -> bool:
    return config.getoption("markexpr") == "not slow and not gpu and not importers" and len(_kernels(set().union(*_loaded))) > KERNELS


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of xdist says what it has loaded; the one that collects it fails the run if that was too much."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["spikegrad"] = _modules()
        return
    _loaded.append(set(_modules()))
    if _too_many(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    _loaded.append(set(getattr(node, "workeroutput", {}).get("spikegrad", ())))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    loads, names = sum(len(_kernels(found)) for found in _loaded), set().union(*_loaded)
    if names:
        kernels = _kernels(names)
        terminalreporter.write_line(
            f"{len(kernels)} kernels (at most {KERNELS} in the default suite) in {loads} loads, and {len(names - kernels)} other modules "
            "of machine code",
            red=_too_many(config),
        )


FAST = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Options of `jax.jit` for what runs once: XLA makes it in a quarter of the time, and need not make it fast."""


def once(f: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of JAX arrays gives, compiled in one go: its operations one by one take far longer to compile."""
    import jax

    return jax.jit(f, compiler_options=FAST)(*arguments)


def pairwise(
    choices: Mapping[str, Sequence[Any]],
    *,
    without: Collection[tuple[str, str]] = (),
    allowed: Callable[[str, Any, Mapping[str, Any]], bool] = lambda name, value, row: True,
    once: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Few rows in which every two values of different choices meet: each row is the best of some random ones.

    Args:
        choices: the values of each choice; of the first, all others may depend.
        without: pairs of choices whose values need not meet.
        allowed: whether a choice may have a value, given the row's values before it; where it may have none it is None.
        once: choices each of whose values need only occur.
    """
    random, names = Random(0), list(choices)
    head = names[0]
    exempt = {frozenset(pair) for pair in without} | {frozenset((a, b)) for a in once for b in names}

    def pairs(row: Mapping[str, Any]) -> set[Any]:
        known = [(name, choices[name].index(value)) for name, value in row.items() if value is not None]
        met = {pair for pair in itertools.combinations(known, 2) if frozenset((pair[0][0], pair[1][0])) not in exempt}
        return met | {(each,) for each in known}

    missing: set[Any] = set()
    for first in choices[head]:
        own = {name: [v for v in values if allowed(name, v, {head: first})] for name, values in choices.items() if name != head}
        missing |= pairs({head: first})
        for a, b in itertools.combinations([head, *own], 2):
            for x, y in itertools.product([first] if a == head else own[a], own[b]):
                missing |= pairs({a: x, b: y})
    rows: list[dict[str, Any]] = []
    while missing:
        wanted = {name: choices[name][k] for name, k in min(missing, key=lambda each: (-len(each), each))}
        best: tuple[int, dict[str, Any]] = (0, {})
        for _ in range(100):
            row: dict[str, Any] = {}
            for name in names:
                fit = [v for v in choices[name] if allowed(name, v, row)]
                row[name] = wanted[name] if name in wanted and wanted[name] in fit else random.choice(fit) if fit else None
            best = max(best, (len(pairs(row) & missing), row), key=lambda each: each[0])
        assert best[0], f"no row has {wanted}"
        missing -= pairs(best[1])
        rows.append(best[1])
    return rows


def product(*choices: Sequence[Any]) -> list[Any]:
    """Parameters of a test: all combinations, of which only few in which every two choices meet are not slow."""
    few = [tuple(row.values()) for row in pairwise({str(k): values for k, values in enumerate(choices)})]
    return [each if each in few else pytest.param(*each, marks=pytest.mark.slow) for each in itertools.product(*choices)]


# Of every neuron: numbers with which it is compared, beside its defaults, and the mean and the deviation of each of its inputs, which make
# some of its neurons spike and some not.
_DRIVEN: dict[str, tuple[dict[str, float], tuple[tuple[float, float], ...]]] = {
    "AdEx": ({}, ((2.5, 2.0),)),
    "Adaptive": ({"beta": 0.8}, ((0.5, 1.0),)),
    "AdaptiveLeaky": ({}, ((6.0, 12.0),)),
    "Alpha": ({"alpha": 0.87, "beta": 0.74}, ((0.5, 0.75),)),
    "BalancedHarmonic": ({}, ((8.0, 48.0),)),
    "BalancedResonateAndFire": ({}, ((8.0, 48.0),)),
    "ComplementaryLeaky": ({}, ((0.75, 0.75),)),
    "ConductanceLeaky": ({}, ((0.5, 0.75), (0.125, 0.5))),
    "ExponentialIF": ({}, ((0.375, 0.75),)),
    "GatedLeaky": ({}, ((0.5, 0.5), (0.5, 0.25))),
    "IntegerLeaky": ({}, ((0.5, 1.5),)),
    "IntegrateAndFire": ({}, ((0.125, 0.75),)),
    "Izhikevich": ({"dt": 0.5}, ((20.0, 20.0),)),
    "KLIF": ({}, ((1.5, 1.0),)),
    "Lapicque": ({"capacitance": 0.0015, "dt": 0.003}, ((0.25, 0.25),)),
    "Leaky": ({"beta": 0.8}, ((0.4, 1.0),)),
    "LeakyIntegrator": ({"beta": 0.8}, ((0.5, 0.75),)),
    "QuadraticIF": ({}, ((0.375, 0.5),)),
    "RefractoryLeaky": ({"beta": 0.8}, ((1.0, 0.75),)),
    "ResonateAndFire": ({}, ((0.5, 0.75),)),
    "SigmaDelta": ({"threshold": 0.4}, ((0.0625, 0.5),)),
    "SymplecticAdaptiveLeaky": ({}, ((8.0, 16.0),)),
    "Synaptic": ({"alpha": 0.6, "beta": 0.8}, ((0.2, 0.7),)),
    "Ternary": ({}, ((0.0, 0.75),)),
    "TwoCompartment": ({}, ((0.25, 0.5),)),
}


def example(name: str, **options: Any) -> Neuron:
    """A neuron of the catalogue."""
    return neurons.CATALOGUE[name](**_DRIVEN[name][0], **options)


def driving(neuron: Neuron, *shape: int, seed: int = 0) -> list[np.ndarray]:
    """Inputs of a neuron."""
    random = np.random.default_rng(seed)
    return [random.normal(mean, deviation, shape) for mean, deviation in _DRIVEN[type(neuron).__name__][1]]


def spread(neuron: Neuron, name: str, features: int) -> np.ndarray:
    """A number of a neuron, different for each of some neurons, all within its range."""
    value, within = getattr(neuron, name), neuron.numbers[name]
    room = 0.1 * (min(value - within.low, within.high - value, abs(value)) or 0.5)
    return value + room * np.linspace(-1, 1, features)


VARYING = frozenset(("exp", "log", "sin", "cos", "tanh", "sigmoid", "arctan", "erf"))
"""Operations that are not rounded correctly, so that libraries differ in them."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a derivative must be: its value, the error of this value, and the size of what it is computed from.

    `terms` are the magnitudes of the summands where the value is a sum of several, which are rounded one by one.
    """

    value: np.ndarray
    error: float = 0.0
    size: float = 0.0
    terms: np.ndarray | None = None

    def check(self, got: np.ndarray, dtype: str, what: str = "") -> None:
        """Half types are computed in float32 and rounded, a few times where an outer derivative multiplies what was rounded."""
        info, wide = ml_dtypes.finfo(dtype), max(2.0**-52, min(2.0**-23, float(ml_dtypes.finfo(dtype).eps)))
        terms = np.abs(self.value) if self.terms is None else self.terms
        tolerance = 4 * float(info.eps) * terms + float(info.smallest_subnormal) + 32 * wide * self.size + self.error
        wrong = ~(np.abs(got - self.value) <= tolerance)  # also where NaN
        assert got.shape == self.value.shape, what
        assert not wrong.any(), f"{what} in {dtype}: got {got[wrong]}, expected {self.value[wrong]} within {tolerance[wrong]}"

    def sum(self, axis: int | None = None) -> Expected:
        count = self.value.size if axis is None else self.value.shape[axis]
        return Expected(np.asarray(self.value.sum(axis)), self.error * count, self.size * count)


def slope_of(f: Callable[[Any], np.ndarray], at: Any, h: float = 1e-4) -> Expected:
    """Derivative of `f` by central differences over five points; its error is what halving the step shows."""

    def stencil(h: float) -> np.ndarray:
        return (8 * (f(at + h) - f(at - h)) - (f(at + 2 * h) - f(at - 2 * h))) / (12 * h)

    value = stencil(h)
    error = float(np.max(np.abs(value - stencil(2 * h)))) + 3 * 2.0**-52 * float(np.max(np.abs(f(at)))) / h
    size = float(np.max(np.abs(value)))
    assert error <= 1e-5 * (1 + size), "a kink is in the way; choose other points"
    return Expected(value, error, size)


@pytest.fixture
def expected() -> Callable[[Surrogate, np.ndarray], dict[str, Expected]]:
    """``expected(surrogate, x)``: spikes s, first and second derivative g and g', and (s^2)'' = 2 g^2 + 2 s g'."""

    def of(surrogate: Surrogate, x: np.ndarray) -> dict[str, Expected]:
        g, spikes = surrogate.derivative(x), (x >= 0).astype(float)
        second = slope_of(surrogate.derivative, x)
        peak = float(np.max(np.abs(surrogate.derivative(np.linspace(-2, 2, 401)))))
        steep = float(np.max(np.abs(x))) * second.size
        size, curved = max(second.size, peak, peak**2), 2 * spikes * second.value
        return {
            "spikes": Expected(spikes),
            "first": Expected(g, size=peak + steep),
            "second": dataclasses.replace(second, size=size),
            "square": Expected(2 * g**2 + curved, 2 * second.error, 2 * size + 4 * peak * steep, 2 * g**2 + np.abs(curved)),
        }

    return of


@pytest.fixture
def expected_of_parameter() -> Callable[..., dict[str, Expected]]:
    """``expected_of_parameter(surrogate, name, x, p)``: from the primitive P and the derivative g: g, P_p, g_p and P_pp."""

    def of(surrogate: Surrogate, name: str, x: np.ndarray, p: np.ndarray) -> dict[str, Expected]:
        def primitive(p: Any) -> np.ndarray:
            return surrogate.bind({name: p}).primitive(x)

        h = 1e-3 * float(np.min(np.abs(p)))
        first = slope_of(primitive, p, h / 10)
        mixed = slope_of(lambda p: surrogate.bind({name: p}).derivative(x), p, h / 10)
        second = slope_of(lambda p: slope_of(primitive, p, h).value, p, h)
        second = dataclasses.replace(second, error=second.error + 3 * 2.0**-52 * float(np.max(np.abs(primitive(p)))) / h**2)
        derivative = Expected(surrogate.bind({name: p}).derivative(x))
        size = max(first.size, float(np.max(np.abs(derivative.value))), mixed.size, second.size, float(np.max(np.abs(primitive(p)))))
        orders = {"derivative": derivative, "first": first, "mixed": mixed, "second": second}
        return {order: dataclasses.replace(value, size=size) for order, value in orders.items()}

    return of


def _total(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: f(*arguments).sum()


def _square(f: Callable[..., Any]) -> Callable[..., Any]:
    def square(x: Any) -> Any:
        spikes = f(x)
        return spikes * spikes

    return square


# lib is torch.func or jax, f the elementwise function, x a vector of 8. Sums over rows show that entries off the diagonal are 0.
TRANSFORMS: dict[str, tuple[str, Callable[[Any, Any, Any], Any]]] = {
    "vmap": ("spikes", lambda lib, f, x: lib.vmap(f)(x)),
    "grad": ("first", lambda lib, f, x: lib.grad(_total(f))(x)),
    "vmap(grad)": ("first", lambda lib, f, x: lib.vmap(lib.grad(f))(x)),
    "vmap over columns": (
        "first",
        lambda lib, f, x: lib.vmap(lib.vmap(lib.grad(f)), 1, 1)(x.reshape(2, 4)).reshape(8),
    ),
    "jvp": ("first", lambda lib, f, x: lib.jvp(f, (x,), (x * 0 + 1,))[1]),
    "jacfwd": ("first", lambda lib, f, x: lib.jacfwd(f)(x).sum(0)),
    "jacrev": ("first", lambda lib, f, x: lib.jacrev(f)(x).sum(0)),
    "grad(grad)": ("second", lambda lib, f, x: lib.vmap(lib.grad(lib.grad(f)))(x)),
    "jvp(grad)": ("second", lambda lib, f, x: lib.jvp(lib.grad(_total(f)), (x,), (x * 0 + 1,))[1]),
    "jacfwd(jacfwd)": ("second", lambda lib, f, x: lib.vmap(lib.jacfwd(lib.jacfwd(f)))(x)),
    "jacrev(jacfwd)": ("second", lambda lib, f, x: lib.vmap(lib.jacrev(lib.jacfwd(f)))(x)),
    "hessian": ("second", lambda lib, f, x: lib.hessian(_total(f))(x).sum(0)),
    "hessian of the square": ("square", lambda lib, f, x: lib.hessian(_total(_square(f)))(x).sum(0)),
    "grad(grad) of the square": ("square", lambda lib, f, x: lib.vmap(lib.grad(lib.grad(_square(f))))(x)),
}

# The same with respect to a parameter p of the shape of x.
PARAMETER_TRANSFORMS: dict[str, tuple[str, Callable[[Any, Any, Any, Any], Any]]] = {
    "of the potential": ("derivative", lambda lib, f, x, p: lib.grad(_total(f))(x, p)),
    "grad": ("first", lambda lib, f, x, p: lib.grad(_total(f), 1)(x, p)),
    "vmap(grad)": ("first", lambda lib, f, x, p: lib.vmap(lib.grad(f, 1))(x, p)),
    "jvp": ("first", lambda lib, f, x, p: lib.jvp(lambda p: f(x, p), (p,), (p * 0 + 1,))[1]),
    "mixed": ("mixed", lambda lib, f, x, p: lib.grad(lambda p: lib.grad(_total(f))(x, p).sum())(p)),
    "mixed in the other order": ("mixed", lambda lib, f, x, p: lib.grad(lambda x: lib.grad(_total(f), 1)(x, p).sum())(x)),
    "second": ("second", lambda lib, f, x, p: lib.grad(lambda p: lib.grad(_total(f), 1)(x, p).sum())(p)),
}


@pytest.fixture
def transforms() -> dict[str, tuple[str, Callable[..., Any]]]:
    return TRANSFORMS


@pytest.fixture(params=TRANSFORMS)
def transform(request: pytest.FixtureRequest) -> tuple[str, str, Callable[..., Any]]:
    return request.param, *TRANSFORMS[request.param]


@pytest.fixture
def parameter_transforms() -> dict[str, tuple[str, Callable[..., Any]]]:
    return PARAMETER_TRANSFORMS


def structures(cls: type[Any]) -> list[Any]:
    """A neuron for each different record that a class has."""
    required = dict(zip((f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING), (0.8, 0.7), strict=False))
    found: dict[str, Any] = {}
    for key, (record, read) in cls._records.items():
        if record.key not in found:
            found[record.key] = cls(**required, **{name: value for name, _, value in key if name in read})
    return list(found.values())
