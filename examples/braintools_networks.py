"""Networks written for braintools, trained on handwritten digits with spikegrad's surrogates under braintools' names.

The modules are brainstate's, as in braintools' documentation; the surrogates come from one changed import. Three networks learn for an
epoch: one layer of leaky neurons, adaptive exponential neurons in a hidden layer, and a multi-layer perceptron of leaky neurons.
Then the bumps are drawn beside each other.

    python examples/braintools_networks.py --out surrogates.png

needs ``pip install "spikegrad[dev]"``, for brainstate, optax, scikit-learn and matplotlib.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spikegrad.compat.braintools import surrogate  # was: from braintools import surrogate
from spikegrad.data import load

SHOWN = {
    "Sigmoid(4)": surrogate.Sigmoid(alpha=4.0),
    "GaussianGrad(0.5)": surrogate.GaussianGrad(sigma=0.5),
    "PiecewiseQuadratic(1)": surrogate.PiecewiseQuadratic(alpha=1.0),
    "Arctan(3)": surrogate.Arctan(alpha=3.0),
    "ReluGrad(0.5, 1)": surrogate.ReluGrad(alpha=0.5, width=1.0),
    "PiecewiseLeakyRelu(0.01, alpha=1)": surrogate.PiecewiseLeakyRelu(c=0.01, alpha=1.0),
    "MultiGaussianGrad(gamma=0.5)": surrogate.MultiGaussianGrad(h=0.15, s=6.0, gamma=0.5),
}
"""What the comparison draws; braintools itself refuses the last two calls, which its documentation makes."""


class LIF(brainstate.nn.Module):
    """Leaky integrate-and-fire neurons: a tenth of the potential leaks away in a step, and a spike empties it."""

    def __init__(self, size: int, spk_fun: surrogate.Surrogate):
        super().__init__()
        self.size, self.spk_fun = size, spk_fun
        self.v = brainstate.HiddenState(jnp.zeros(size))

    def rest(self, batch: int) -> None:
        """Start again, with a row of neurons for each sample."""
        self.v.value = jnp.zeros((batch, self.size))

    def update(self, current: jax.Array) -> jax.Array:
        """One time step: the spikes, both ways (sample, neuron)."""
        v = 0.9 * self.v.value + current
        spikes = self.spk_fun(v - 1.0)
        self.v.value = v * (1 - jax.lax.stop_gradient(spikes))
        return spikes


class AdEx(brainstate.nn.Module):
    """Adaptive exponential neurons, in millivolts: near -50 the potential runs away to a spike, and every spike tires the neuron.

    Current of 1 lifts the potential by 40 mV in the long run. Euler steps of a tenth of the membrane's time constant.
    """

    rest_at, knee, peak, sharpness, tire = -70.0, -50.0, -45.0, 2.0, 4.0

    def __init__(self, size: int, spk_fun: surrogate.Surrogate):
        super().__init__()
        self.size, self.spk_fun = size, spk_fun
        self.v = brainstate.HiddenState(jnp.full(size, self.rest_at))
        self.w = brainstate.HiddenState(jnp.zeros(size))

    def rest(self, batch: int) -> None:
        """Start again, with a row of neurons for each sample."""
        self.v.value, self.w.value = jnp.full((batch, self.size), self.rest_at), jnp.zeros((batch, self.size))

    def update(self, current: jax.Array) -> jax.Array:
        """One time step: the spikes, both ways (sample, neuron)."""
        v, w = self.v.value, self.w.value
        # Beyond the peak the neuron has fired, so that the exponential need not go on from there.
        upstroke = self.sharpness * jnp.exp((jnp.minimum(v, self.peak) - self.knee) / self.sharpness)
        v = v + 0.1 * (self.rest_at - v + upstroke - w + 40.0 * current)
        w = 0.98 * w
        spikes = self.spk_fun((v - self.peak) / 10.0)
        fired = jax.lax.stop_gradient(spikes)
        self.v.value = jnp.where(fired > 0, self.rest_at, v)
        self.w.value = w + self.tire * fired
        return spikes


class Network(brainstate.nn.Module):
    """Layers of neurons, each behind a linear map. A constant current goes in, and the score of every class comes out.

    Scores are ten times the mean rates of the last layer's neurons, or, with a `readout`, a linear map of these.
    """

    def __init__(self, sizes: Sequence[int], kind: Callable[..., Any], spk_fun: surrogate.Surrogate, readout: bool = False):
        super().__init__()
        self.maps = [brainstate.nn.Linear(n, m) for n, m in pairwise(sizes)]
        self.neurons = [kind(m, spk_fun) for m in sizes[1:]]
        self.readout = brainstate.nn.Linear(sizes[-1], 10) if readout else lambda rates: rates

    def step(self, x: jax.Array) -> jax.Array:
        """One time step through all layers: the spikes of the last one."""
        for linear, neurons in zip(self.maps, self.neurons, strict=True):
            x = neurons.update(linear(x))
        return x

    def update(self, x: jax.Array, steps: int) -> jax.Array:
        """Scores (sample, class) of samples (sample, pixel)."""
        for neurons in self.neurons:
            neurons.rest(len(x))
        spikes = brainstate.transform.for_loop(lambda _: self.step(x), jnp.arange(steps))
        return self.readout(10 * spikes.mean(0))


def networks() -> dict[str, Callable[[], Network]]:
    """The three networks by name, made when they are called for."""
    return {
        "LIF layer": lambda: Network([64, 100], LIF, surrogate.Sigmoid(alpha=4.0), readout=True),
        "AdEx neurons": lambda: Network([64, 100], AdEx, surrogate.GaussianGrad(sigma=0.5, alpha=1.0), readout=True),
        "multi-layer network": lambda: Network([64, 128, 64, 10], LIF, surrogate.Sigmoid(alpha=4.0)),
    }


def batches(x: np.ndarray, y: np.ndarray, size: int, seed: int) -> Iterator[tuple[jax.Array, jax.Array]]:
    """The samples in random order, once, in batches of one size; the few that fill none are left out."""
    order = np.random.default_rng(seed).permutation(len(x))
    for start in range(0, len(x) - size + 1, size):
        picked = order[start : start + size]
        yield jnp.asarray(x[picked]), jnp.asarray(y[picked])


def train(network: Network, data: Any, *, steps: int, batch: int, rate: float, seed: int) -> tuple[list[float], float]:
    """One epoch. Returns the loss of every batch and the accuracy on the test set."""
    weights = network.states(brainstate.ParamState)
    optimiser = optax.adam(rate)
    progress = optimiser.init({name: state.value for name, state in weights.items()})

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(network(x, steps), y).mean()

    @brainstate.transform.jit
    def learn(progress: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        gradients, value = brainstate.transform.grad(loss, weights, return_value=True)(x, y)
        changes, progress = optimiser.update(gradients, progress)
        for name, state in weights.items():
            state.value = jax.tree.map(jnp.add, state.value, changes[name])
        return progress, value

    losses: list[float] = []
    for x, y in batches(*data.train, batch, seed):
        progress, value = learn(progress, x, y)
        losses.append(float(value))
    scores = brainstate.transform.jit(lambda x: network(x, steps))(jnp.asarray(data.test[0]))
    return losses, float((scores.argmax(1) == data.test[1]).mean())


def compare(path: Path) -> None:
    """Draw each surrogate's bump, which `jax.grad` finds in its spikes, and the function that it is the derivative of."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    x = jnp.linspace(-3, 3, 601)
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained")
    for name, spike in SHOWN.items():
        left.plot(x, jax.vmap(jax.grad(spike))(x), label=name)
        right.plot(x, spike.surrogate_fun(x), label=name)
    right.plot(x, SHOWN["Sigmoid(4)"](x), "k:", label="spikes")
    left.set(title="Backward: the gradient of the spikes", xlabel="potential minus threshold", ylabel="derivative")
    right.set(title="What it is the derivative of", xlabel="potential minus threshold", ylabel="surrogate_fun")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> dict[str, tuple[list[float], float]]:
    """Train, print and draw. Returns losses and accuracy by the name of the network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("surrogates.png"), help="where the comparison goes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="time steps per sample (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="samples per step of the optimiser (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate of Adam (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order of the samples (default: %(default)s)")
    options = parser.parse_args(arguments)
    data, results = load("digits"), {}
    for name, make in networks().items():
        brainstate.random.seed(options.seed)
        began = time.perf_counter()
        losses, accuracy = train(make(), data, steps=options.steps, batch=options.batch, rate=options.rate, seed=options.seed)
        results[name] = losses, accuracy
        first, last = np.mean(losses[:10]), np.mean(losses[-10:])
        print(f"{name:20} loss {first:.3f} -> {last:.3f}, test accuracy {accuracy:.1%}, {time.perf_counter() - began:.1f} s")
    compare(options.out)
    print(f"surrogates drawn in {options.out}")
    return results


if __name__ == "__main__":
    main()
