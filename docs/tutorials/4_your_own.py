# %%
# # Your own surrogate, your own neuron
#
# Both are classes with a formula in them, from which everything else is made: gradients, fused kernels, pictures.
import torch

import spikegrad
from spikegrad import ATan, Decay, Neuron, Positive, State, Step, Surrogate, nn, plots
from spikegrad.vocabulary import exp


# %%
# ## A surrogate
#
# `x` is the potential minus the threshold. The formula may be written with arithmetic and the words of `spikegrad.vocabulary`.
class Bell(Surrogate):
    width: Positive = 0.5

    def derivative(self, x):
        return exp(-((x / self.width) ** 4))


bell = Bell(width=0.4)
print(bell, f"peak {bell.peak:.2f}, area {bell.area:.2f}, half width {bell.half_width:.2f}")
spikegrad.check(bell)  # every backend, every dtype: it raises an error that lists what is wrong

# %%
# What no backend could run is refused when the class is defined, by name.
try:

    class Wrong(Surrogate):
        def derivative(self, x):
            return 1.0 if x > 0 else 0.0

except TypeError as error:
    print(error)


# %%
# ## A neuron
#
# A step takes the current and the states, and returns the spike and the states after it. The threshold of
# this one rises with every spike.
class Tired(Neuron):
    """A leaky neuron that tires."""

    beta: Decay = 0.9
    recovery: Decay = 0.97
    effort: Positive = 0.3

    v: State = 0.0
    tiredness: State = 0.0

    def step(self, current, v, tiredness):
        u = self.beta * v + current
        s = self.fire(u - 1 - tiredness)
        return Step(s, v=self.after_spike(u, s, 1 + tiredness), tiredness=self.recovery * tiredness + self.effort * s, u=u)


spikes, state = nn.Layer(Tired(spike=bell))(torch.full((100, 1, 1), 0.3))
print("steps between its spikes:", spikes.flatten().nonzero().flatten().diff().tolist())
plots.response(Tired())

# %%
# ## It learns like ours
#
# Any of its numbers, and those of its surrogate, may be learned, and stay in their range. Here it finds the effort
# that makes it spike in 8 % of the steps.
layer = nn.Layer(Tired(spike=ATan()), learn="effort")
optimizer = torch.optim.Adam(layer.parameters(), 0.05)
for _ in range(40):
    rate = layer(torch.full((100, 1, 1), 0.3))[0].mean()
    optimizer.zero_grad()
    (rate - 0.08).square().backward()
    optimizer.step()
print(f"effort {layer.effort.item():.2f}, a spike in {rate:.0%} of the steps")

# %%
print(Tired().source("numba"))  # what runs in each step, forward, in the kernel
