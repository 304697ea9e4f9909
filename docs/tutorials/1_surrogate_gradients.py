# %%
# # Surrogate gradients from the beginning
#
# One neuron, a network that learns random patterns, and handwritten digits with few spikes: the ground that the three SpyTorch tutorials
# cover (Neftci, Mostafa and Zenke 2019; Zenke and Vogels 2021), in other words and with fused layers.
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from spikegrad import FastSigmoid, encode, nn

# %%
# ## One neuron
#
# A leaky integrate-and-fire neuron is a small recurrent network. In each step its potential decays to `beta` of what it was and takes
# up the current; when it reaches the threshold 1 the neuron spikes, and 1 is taken off.
current = torch.zeros(100, 1)
current[10:80] = 0.15
spikes, state, potential = nn.Leaky(beta=0.9)(current, record=True)
print(f"{spikes.sum():.0f} spikes, in steps {spikes.nonzero()[:, 0].tolist()}")
plt.plot(potential, label="potential before the reset")
plt.vlines(spikes.nonzero()[:, 0], 1.1, 1.3, color="#1f2328", label="spikes")
plt.legend()
plt.show()

# %%
# ## Where the gradient comes from
#
# Whether a neuron spikes is a step function of its potential, and the derivative of a step is 0 almost everywhere. Forward it stays a
# step; backward it is given the derivative of something smooth. Here is that of a fast sigmoid, at potentials from -1 to 1.
x = torch.linspace(-1, 1, 5, requires_grad=True)
spikes = FastSigmoid(slope=5)(x)
spikes.sum().backward()
print("spikes  ", spikes.tolist())
print("gradient", [round(g, 3) for g in x.grad.tolist()])


# %%
# ## Random patterns
#
# Of 64 samples of noise half are called 0 and half 1, and a network with one hidden layer learns them by heart. The readout integrates and
# never spikes; its highest potential over time is the answer.
def train(x: torch.Tensor, y: torch.Tensor, classes: int, steps: int = 50, price: float = 0.0) -> None:
    torch.manual_seed(1)
    inward, hidden = torch.nn.Linear(x.shape[-1], 100), nn.Leaky(0.9, spike=FastSigmoid(5))
    outward, readout = torch.nn.Linear(100, classes), nn.LeakyIntegrator(0.9)
    optimizer = torch.optim.Adam([*inward.parameters(), *outward.parameters()], 1e-2)
    for step in range(steps):
        spikes, _ = hidden(inward(x))
        potentials, _ = readout(outward(spikes))
        answer = potentials.amax(0)
        loss = torch.nn.functional.cross_entropy(answer, y) + price * spikes.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 25 == 0:
            print(f"step {step + 1}: {(answer.argmax(1) == y).float().mean():.0%} right, a spike in {spikes.mean():.1%} of all steps")


torch.manual_seed(0)
noise = torch.bernoulli(torch.full((60, 64, 50), 0.1))
train(noise, torch.arange(64) % 2, classes=2)

# %%
# ## Digits, told by when neurons spike
#
# Each pixel spikes once, the earlier the brighter it is. The same training, and then again with a price on every spike: about as
# right, with fewer spikes.
images, labels = load_digits(return_X_y=True)
digits = encode.latency(torch.tensor(images[:300] / 16).float(), steps=30, threshold=0.2, tau=15.0)
for price in (0.0, 3.0):
    train(digits, torch.tensor(labels[:300]), classes=10, price=price)
