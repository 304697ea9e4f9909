# %%
# # JAX: optax, and many seeds at once
#
# In JAX a layer is a pure function of the currents. So whatever JAX does with functions it does with layers: `jit`, `grad`, and `vmap` over
# seeds, each of which trains a network of its own.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

from spikegrad import FastSigmoid
from spikegrad.jax import leaky, leaky_integrator

# %%
# ## Data, weights, loss
images, labels = load_digits(return_X_y=True)
x, y = jnp.asarray(images[:256] / 16, jnp.float32), jnp.asarray(labels[:256])
test, right = jnp.asarray(images[256:512] / 16, jnp.float32), jnp.asarray(labels[256:512])
STEPS = 10


def start(key: jax.Array) -> dict[str, jax.Array]:
    inward, outward = jax.random.split(key)
    return {"in": jax.random.normal(inward, (64, 64)) / 5, "out": jax.random.normal(outward, (64, 10)) / 8}


def answers(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    currents = jnp.broadcast_to(x @ weights["in"], (STEPS, len(x), 64))
    spikes, _ = leaky(currents, beta=0.9, spike=FastSigmoid(5.0))
    potentials, _ = leaky_integrator(spikes @ weights["out"], beta=0.9)
    return potentials.mean(0)


def loss(weights: dict[str, jax.Array]) -> jax.Array:
    return optax.losses.softmax_cross_entropy_with_integer_labels(answers(weights, x), y).mean()


# %%
# ## A training that is one function
#
# The whole loop is a `scan`, so that it compiles once.
optimizer = optax.adam(1e-2)


def train(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    weights = start(key)

    def update(carry, _):
        weights, state = carry
        value, gradient = jax.value_and_grad(loss)(weights)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(weights, change), state), value

    (weights, _), losses = jax.lax.scan(update, (weights, optimizer.init(weights)), length=60)
    return losses, (answers(weights, test).argmax(1) == right).mean()


# %%
# ## Four seeds at once
#
# `vmap` puts the seeds beside the batch: the same kernels take them all.
losses, accuracy = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 4))
print("losses at the end:", losses[:, -1].round(3).tolist())
print(f"of unseen digits {accuracy.mean():.0%} are right, from {accuracy.min():.0%} to {accuracy.max():.0%}")
assert accuracy.min() > 0.7
plt.plot(losses.T, color="#0969b5", alpha=0.6)
plt.xlabel("step")
plt.ylabel("loss, one line for each seed")
plt.show()
