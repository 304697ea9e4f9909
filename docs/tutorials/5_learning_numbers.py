# %%
# # Learning slopes and time constants
#
# The decay of a neuron says how long it remembers, the slope of its surrogate who gets a gradient. Both can be learned, one number for
# a layer or one for each neuron.
import matplotlib.pyplot as plt
import torch

from spikegrad import ATan, decay, nn

# %%
# ## A task that needs memory
#
# Two channels; in the first ten steps one of them is active, and 40 steps later the network is asked which.
torch.manual_seed(0)
y = torch.arange(128) % 2
x = 0.02 * torch.rand(50, 128, 2)
x[:10, torch.arange(128), y] += torch.rand(10, 128) < 0.5


# %%
# ## Decays that are given, and decays that are learned
#
# `learn=` names the numbers, `values=` gives each neuron its own to start from: here all forget within some 5 steps. They move in a
# coordinate in which no step leaves their range: a decay in its logit, a slope in its logarithm.
def network(learn: tuple[str, ...]) -> nn.Sequential:
    torch.manual_seed(0)
    each = {"beta": torch.full((32,), decay(tau=5))}
    hidden = nn.Leaky(each["beta"], spike=ATan(2.0), learn=learn)
    return nn.Sequential(torch.nn.Linear(2, 32), hidden, torch.nn.Linear(32, 2), nn.LeakyIntegrator(decay(tau=5), learn=learn[:1]))


def train(net: nn.Sequential, steps: int = 100) -> list[float]:
    numbers = [each for name, each in net.named_parameters() if name.endswith(("_logit", "_log"))]
    weights = [each for name, each in net.named_parameters() if not name.endswith(("_logit", "_log"))]
    optimizer = torch.optim.Adam([{"params": weights}, {"params": numbers, "lr": 5e-2}], 1e-2)
    losses = []
    for _ in range(steps):
        potentials, _ = net(x)
        loss = torch.nn.functional.cross_entropy(potentials[-5:].mean(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


fixed, learning = network(()), network(("beta", "spike.slope"))
print([name for name, _ in learning.named_parameters()])
curves = {"decays fixed": train(fixed), "decays and slope learned": train(learning)}
for name, losses in curves.items():
    print(f"{name}: loss {losses[-1]:.3f}")
    plt.plot(losses, label=name)
plt.xlabel("step")
plt.ylabel("loss")
plt.legend()
plt.show()
assert curves["decays and slope learned"][-1] < curves["decays fixed"][-1]

# %%
# ## What it learned
#
# Time constants that bridge the gap, in some of the neurons; and the readout remembers.
beta = learning[1].beta.detach()
tau = -1 / beta.log()
print(f"time constants of the layer from {tau.min():.1f} to {tau.max():.1f} steps, of the readout {-1 / learning[3].beta.log().item():.1f}")
print(f"slope of the surrogate: 2.00 became {learning[1].spike.learned()['slope'].item():.2f}")
plt.hist(tau.log10().numpy(), bins=20)
plt.xlabel("time constant in steps, logarithm to base 10")
plt.ylabel("neurons")
plt.show()
