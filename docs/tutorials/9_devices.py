# %%
# # Several devices
#
# A batch that is cut over devices is computed where its samples lie, and no layer needs to know of it. Here four devices are made of one
# CPU, which must be asked for before JAX starts; where there are four, that line is left out, and nothing else changes.
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from spikegrad.jax import leaky, leaky_integrator

mesh = jax.make_mesh((4,), ("batch",))
print(jax.device_count(), "devices")


# %%
# ## A step of training
#
# An ordinary one: it says nothing about devices.
def loss(weights: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    spikes, _ = leaky(x @ weights["in"], beta=0.9)
    potentials, _ = leaky_integrator(spikes @ weights["out"], beta=0.9)
    return -(jax.nn.log_softmax(potentials.mean(0)) * jax.nn.one_hot(y, 4)).sum(1).mean()


@jax.jit
def step(weights: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    value, gradient = jax.value_and_grad(loss)(weights, x, y)
    return value, jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradient)


keys = jax.random.split(jax.random.key(0), 3)
weights = {"in": jax.random.normal(keys[0], (16, 32)) / 2, "out": jax.random.normal(keys[1], (32, 4)) / 4}
x, y = jax.random.uniform(keys[2], (20, 32, 16)), jnp.arange(32) % 4

# %%
# ## On one device, and on four
#
# The samples are cut along the batch, the weights are everywhere. XLA adds up the gradients.
alone, _ = step(weights, x, y)
cut = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "batch")))
everywhere = jax.device_put(weights, NamedSharding(mesh, PartitionSpec()))
together, _ = step(everywhere, cut, jax.device_put(y, NamedSharding(mesh, PartitionSpec("batch"))))
print(f"loss on one device {alone:.6f}, on four {together:.6f}")
assert abs(alone - together) < 1e-5

# %%
# ## Said by hand
#
# In `shard_map` each device runs the function on its own part, and what is summed is written down.
spec = PartitionSpec(None, "batch")
spikes = jax.jit(jax.shard_map(lambda x: leaky(x, beta=0.9)[0], mesh=mesh, in_specs=spec, out_specs=spec))(cut)
print("samples on each device:", [part.data.shape[1] for part in spikes.addressable_shards])
print("spikes that differ from one device:", int((spikes != leaky(x, beta=0.9)[0]).sum()))

# %%
# ## In PyTorch
#
# Nothing is stored in the layers, so that `DistributedDataParallel` and `fully_shard` need nothing special: the network goes in, and calls
# stay the same. `spikegrad train --devices 2` does it by Lightning.
