"""Recurrent weights inside of the kernels: what they make of spikes, few or many, of any size, in any layout, on any number of threads."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from llvmlite import binding  # noqa: E402
from tests.test_kernels import Outcome, agree, both, build, drive, leaves, outcome, randn, start  # noqa: E402

from spikegrad import ATan, nn  # noqa: E402
from spikegrad.kernels.cpu import products  # noqa: E402
from spikegrad.neurons import IntegerLeaky, Ternary  # noqa: E402

RATES = (0.0, 0.02, 0.09, 0.11, 0.39, 0.41, 0.7, 1.0)
"""Shares of neurons that spike, on both sides of where the kernels change their way."""
assert 0.09 < products.RARE_TO_LEARN < 0.11
assert 0.39 < products.RARE < 0.41
assert 100 < products.FEWEST_TO_LEARN <= 200
SIZES = ((1, 1), (3, 5), (17, 1), (65, 5), (128, 33), (200, 5), (257, 32))
"""Neurons, some of them no whole registers, and samples, some of them more than the rows of a product or of a block."""


def function(name: str, dtype: str) -> Callable[..., None]:
    """One of the functions that kernels call, which takes addresses."""
    symbol = re.search(rf"spikegrad_{name}_{dtype}_\w+", products.known(dtype))
    address = binding.address_of_symbol(symbol[0])
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * products._COUNTS[name])(address)
    return lambda *given: call(*(x.ctypes.data if isinstance(x, np.ndarray) else x for x in given))


def dyadic(random: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    """Numbers whose products and sums are exact."""
    return random.integers(-16, 17, shape).astype(dtype) / 16


def sending(random: np.random.Generator, dtype: str, rate: float, *shape: int) -> np.ndarray:
    """Spikes of a share of the neurons, exactly; not all of them are 1."""
    size = int(np.prod(shape))
    spikes = np.zeros(size, dtype)
    spikes[random.permutation(size)[: round(rate * size)]] = 1
    return (spikes * random.choice([1, 1, 1, -1, 0.5, 3], size)).astype(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("features", "samples"), SIZES)
def test_functions_are_products(features, samples, dtype):
    """Exactly, at every rate; what they are not given they do not touch."""
    random = np.random.default_rng(features)
    examine, feed, send, learn = (function(name, dtype) for name in ("examine", "feed", "send", "learn"))
    weights, count = dyadic(random, dtype, features, features), samples * features
    for rate in RATES:
        places = np.full(2 * (features + 16) + 8, 7, dtype)
        sent, gradient = sending(random, dtype, rate, samples, features), dyadic(random, dtype, samples, features)
        fed, back = (np.full(count + 8, np.nan, dtype) for _ in range(2))
        examine(weights, places, features)
        feed(count, sent, fed, weights, places, features)
        send(count, gradient, back, weights, features)
        total = dyadic(random, dtype, features, features)
        learned = np.concatenate([total.ravel(), np.full(8, np.nan, dtype)])
        learn(count, sent, gradient, learned, places, features)
        for got, wanted in ((fed, sent @ weights), (back, gradient @ weights), (learned, total + sent.T @ gradient)):
            np.testing.assert_array_equal(got[: wanted.size].reshape(wanted.shape), wanted)
            assert np.isnan(got[wanted.size :]).all()
        assert (places[-8:] == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("features", "samples"), [(65, 5), (257, 32)])
def test_functions_round_as_sums_do(features, samples, dtype):
    """Of any numbers: within what a sum of so many terms may lose, in its dtype."""
    random = np.random.default_rng(0)
    weights, gradient = (random.normal(size=(n, features)).astype(dtype) for n in (features, samples))
    feed, learn = function("feed", dtype), function("learn", dtype)
    places, eps = np.empty(2 * (features + 16), dtype), np.finfo(dtype).eps
    function("examine", dtype)(weights, places, features)
    for rate in RATES:
        sent = sending(random, dtype, rate, samples, features) * random.normal(size=(samples, features)).astype(dtype)
        fed, learned = np.empty_like(sent), np.zeros_like(weights)
        feed(sent.size, sent, fed, weights, places, features)
        learn(sent.size, sent, gradient, learned, places, features)
        for got, a, b in ((fed, sent, weights), (learned, sent.T, gradient)):
            exact, terms = a.astype("longdouble") @ b.astype("longdouble"), np.abs(a).astype(float) @ np.abs(b).astype(float)
            assert (np.abs(got - exact) <= a.shape[1] * eps * terms).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_received_by_all_of_its_sample(value, dtype):
    random = np.random.default_rng(0)
    for rate in (0.02, 0.7):
        weights, sent = np.abs(dyadic(random, dtype, 65, 65)) + 1, sending(random, dtype, rate, 5, 65)
        sent[3, 40] = value
        fed, places = np.empty_like(sent), np.empty(2 * (65 + 16), dtype)
        function("examine", dtype)(weights, places, 65)
        function("feed", dtype)(sent.size, sent, fed, weights, places, 65)
        assert not np.isfinite(fed[3]).any()
        np.testing.assert_array_equal(np.delete(fed, 3, 0), np.delete(sent, 3, 0) @ weights)
        sent[:, 7], weights[7, 9] = 0, value  # of a neuron that sent nothing
        function("examine", dtype)(weights, places, 65)
        function("feed", dtype)(sent.size, sent, fed, weights, places, 65)
        assert np.isnan(fed[:, 9]).all()
        np.testing.assert_array_equal(np.isnan(np.delete(fed, 9, 1)[[0, 1, 2, 4]]), np.zeros((4, 64), bool))


# Layers.

SHIFTS = {"none": -50.0, "few": -1.1, "some": -0.4, "many": 0.5, "all": 50.0}
"""What is added to currents, and what share of neurons then spikes."""


def exactly(layer: Any, currents: torch.Tensor, state: Any = None, **options: Any) -> Outcome:
    """Spikes and states equal, gradients to 1e-12 of the largest in double precision, else as sums of the same terms in another order."""
    result, got = (outcome(layer, backend, currents, state, **options) for backend in ("reference", "numba"))
    # A product sums as many terms as there are neurons, whose rounding adds up like the root of their number.
    agree(got, result, eps=torch.finfo(currents.dtype).eps * max(1.0, currents.shape[-1] ** 0.5 / 4))
    if currents.dtype is torch.float64:
        for name, wanted in result.gradients.items():
            if wanted.dtype is torch.float64 and wanted.numel():
                torch.testing.assert_close(got.gradients[name], wanted, rtol=0, atol=1e-12 * max(1, wanted.abs().max().item()))
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", SHIFTS)
def test_equals_the_plain_loop_at_every_rate(rate, dtype):
    """Wide enough for each way of the weights' gradient, in one block and in two."""
    layer = build("RecurrentLeaky", ATan(), 200)
    layer.weight.data.div_(4)
    for batch in (5, 33):
        result = exactly(layer, drive(layer, 6, batch, 200, dtype=dtype) + SHIFTS[rate])
        share = result.outputs[0].mean().item()
        low, high = {"none": (0, 0), "few": (0.005, 0.09), "some": (0.11, 0.39), "many": (0.41, 0.9), "all": (1, 1)}[rate]
        assert low <= share <= high, share
        assert (result.gradients["weight"].abs().max() > 0) == (rate != "none")
        assert result.gradients["currents"].abs().max() > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("features", [1, 3, 17, 65])
def test_odd_sizes(features, dtype):
    """From rest and from states, of which what was sent may be anything; no step, one, and some."""
    layer = build("RecurrentLeaky", ATan(), features)
    for batch, steps in ((1, 1), (5, 7), (1, 0), (5, 0), (0, 3)):
        currents = drive(layer, steps, batch, features, dtype=dtype)
        exactly(layer, currents)
        state = start(layer, currents)
        exactly(layer, currents, state)
        exactly(layer, currents, (state[0], (randn(batch, features, seed=7).to(currents) * 16).round() / 16))
    exactly(layer, drive(layer, 4, features, dtype=dtype))  # without a batch
    exactly(layer, drive(layer, 4, 2, 3, features, dtype=dtype))  # with two


@pytest.mark.parametrize("neuron", [IntegerLeaky(0.75), Ternary(0.5)], ids=lambda neuron: type(neuron).__name__)
def test_outputs_that_are_not_0_or_1(neuron):
    layer = nn.Layer(neuron, recurrent="all-to-all", features=65)
    layer.weight.data.copy_((randn(65, 65) * 4).round() / 32)
    currents = (randn(7, 5, 65, dtype=torch.float32, seed=1) * 24).round() / 16
    result = both(layer, currents)
    assert len(result.outputs[0].unique()) > 2


def laid_out(weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    yield "by receiver", weight.clone(memory_format=torch.contiguous_format)
    yield "by sender", weight.t().contiguous().t()
    yield "every second", weight.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2]
    yield "part of a larger one", torch.nn.functional.pad(weight, (3, 2, 1, 4))[1:-4, 3:-2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_in_any_layout(dtype):
    """Bit for bit; also of another dtype, and gradients keep shape and dtype."""
    layer = build("RecurrentLeaky", ATan(), 17)
    currents = drive(layer, 7, 5, 17, dtype=dtype)
    weight = layer.weight.detach().clone()
    assert layer.weight.is_contiguous(), "as PyTorch has its own: LBFGS, parameters_to_vector and fully_shard ask for it"
    wanted = exactly(layer, currents)
    wanted = outcome(layer, "numba", currents)
    for how, given in laid_out(weight):
        assert torch.equal(given, weight)
        layer.weight = torch.nn.Parameter(given)
        assert layer.weight.stride() == given.stride()
        got = outcome(layer, "numba", currents)
        for a, b in zip(got.outputs, wanted.outputs, strict=True):
            assert torch.equal(a, b), how
        for name in wanted.gradients:
            assert torch.equal(got.gradients[name], wanted.gradients[name]), (how, name)
    one = torch.nn.Parameter(torch.full((1, 1), 0.125))
    layer.weight = None
    layer.weight = torch.nn.Parameter(torch.full((17, 17), 0.125))
    same = outcome(layer, "numba", currents)
    expanded = torch.nn.utils.parametrize.register_parametrization
    layer.weight = one
    expanded(layer, "weight", Expanded(), unsafe=True)
    got = outcome(layer, "numba", currents)
    assert torch.equal(got.outputs[0], same.outputs[0])
    torch.testing.assert_close(got.gradients["parametrizations.weight.original"].item(), same.gradients["weight"].sum().item())


class Expanded(torch.nn.Module):
    """Weights that are all the same number in memory."""

    def forward(self, x):
        return x.expand(17, 17)


def test_threads_and_the_rest_of_the_batch_do_not_matter():
    """Not to a bit: not to outputs, and with as many samples not to gradients of weights."""
    layer = build("RecurrentLeaky", ATan(), 65, random=True)
    currents = drive(layer, 8, 101, 65, dtype="float32")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(outcome(layer, "numba", currents))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        agree(result, results[0], eps=0)
        for name, gradient in result.gradients.items():
            assert torch.equal(gradient, results[0].gradients[name]), name
    alone = outcome(layer, "numba", currents[:, 64:67])
    for a, b in zip(alone.outputs, results[0].outputs, strict=True):
        assert torch.equal(a, b[..., 64:67, :])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    """Spikes are sent, and gradients returned, in single precision, and rounded once where they go to memory."""
    layer = build("RecurrentLeaky", ATan(), 65)
    currents = drive(layer, 7, 5, 65).to(dtype)
    coarse = (randn(7, 5, 65, seed=9) * 4).round() / 4

    def total(outputs: list[torch.Tensor]) -> torch.Tensor:
        return (outputs[0] * coarse.to(outputs[0])).sum() + (outputs[1] * coarse[0].float()).sum()

    got, wide = (outcome(layer, "numba", x, total=total) for x in (currents, currents.float()))
    assert torch.equal(got.outputs[0], wide.outputs[0].to(dtype))
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(got.outputs[1:], wide.outputs[1:], strict=True))
    assert torch.equal(got.gradients["currents"], wide.gradients["currents"].to(dtype))
    for name in wide.gradients.keys() - {"currents"}:
        torch.testing.assert_close(got.gradients[name], wide.gradients[name], rtol=1e-5, atol=1e-5)
    wanted = outcome(layer, "reference", currents, total=total)
    assert all(torch.equal(a, b) for a, b in zip(got.outputs, wanted.outputs, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", SHIFTS)
def test_in_jax(rate, dtype):
    """As in PyTorch: outputs to the bit, gradients to rounding."""
    jax = pytest.importorskip("jax")
    from spikegrad import jax as sj

    layer = build("RecurrentLeaky", ATan(), 200).to(getattr(torch, dtype))
    layer.weight.data.div_(4)
    currents = drive(layer, 6, 5, 200, dtype=dtype) + SHIFTS[rate]
    state = start(layer, currents)
    random = [randn(*shape, seed=9 + k) for k, shape in enumerate(((6, 5, 200), (5, 200), (5, 200)))]

    def total(outputs: list[torch.Tensor]) -> torch.Tensor:
        return sum((x * r.to(x)).sum() for x, r in zip(outputs, random, strict=True))

    wanted = outcome(layer, "numba", currents, state, total=total)
    with jax.enable_x64(dtype == "float64"):
        numbers = {name: jax.numpy.asarray(getattr(layer, name).detach().numpy()) for name in ("beta", "threshold")}

        def run(currents: Any, weights: Any, state: Any, numbers: Any) -> Any:
            out = jax.tree.leaves(sj.recurrent_leaky(currents, weights, **numbers, spike=ATan(), state=state, backend="numba"))
            return sum((x * jax.numpy.asarray(r.numpy(), x.dtype)).sum() for x, r in zip(out, random, strict=True)), out

        given = [jax.numpy.asarray(x.detach().numpy().astype(dtype)) for x in (currents, layer.weight, *state)]
        derived = jax.jit(jax.value_and_grad(run, (0, 1, 2, 3), has_aux=True))
        (_, found), (*gradients, of_numbers) = derived(given[0], given[1], tuple(given[2:]), numbers)
    for a, b in zip(found, wanted.outputs, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    eps = np.finfo(dtype).eps
    beta, theta = (np.asarray(numbers[name]) for name in ("beta", "threshold"))
    of_beta, of_theta = (np.asarray(of_numbers[name]) for name in ("beta", "threshold"))
    gradients += [of_beta * beta * (1 - beta), of_theta * theta]  # by what PyTorch learns of them
    names = ("currents", "weight", "state 0", "state 1", "beta_logit", "threshold_log")
    for a, name in zip(jax.tree.leaves(gradients), names, strict=True):
        b = wanted.gradients[name].numpy()
        np.testing.assert_allclose(a, b, rtol=0, atol=200 * float(np.float64(eps)) * max(1.0, float(np.abs(b).max())), err_msg=name)


def test_layers_of_other_sizes_share_a_kernel():
    """How many neurons, samples and steps there are is data."""
    from spikegrad.kernels.cpu.compiler import compiled

    both(build("RecurrentLeaky", ATan(), 17), drive(build("RecurrentLeaky", ATan(), 17), 3, 2, 17))
    before = compiled.cache_info().misses
    for features in (2, 31, 96):
        layer = build("RecurrentLeaky", ATan(), features)
        assert leaves(both(layer, drive(layer, features % 7 + 1, 2, features)).outputs)
    assert compiled.cache_info().misses == before
