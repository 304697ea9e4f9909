# %%
# # A network that does not learn
#
# It raises no error, its loss just stays where it is. One pass through the network says why, and what to do.
import torch
from sklearn.datasets import load_digits

import spikegrad
from spikegrad import Triangle, encode, nn

# %%
# ## The network
#
# Three layers, with weights as small as another kind of network would have them, and a surrogate that ends a third of a threshold away.
images, labels = load_digits(return_X_y=True)
x, y = encode.current(torch.tensor(images[:300] / 16).float(), steps=15), torch.tensor(labels[:300])
torch.manual_seed(0)
net = nn.Sequential(
    torch.nn.Linear(64, 64),
    nn.Leaky(0.8, spike=Triangle(0.3)),
    torch.nn.Linear(64, 64),
    nn.Leaky(0.8, spike=Triangle(0.3)),
    torch.nn.Linear(64, 10),
    nn.LeakyIntegrator(0.8),
)
for each in net[::2]:
    torch.nn.init.normal_(each.weight, std=0.02)
    torch.nn.init.zeros_(each.bias)


def loss(potentials: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(potentials.mean(0), y)


def train(optimizer: torch.optim.Optimizer) -> None:
    for step in range(40):
        now = loss(net(x)[0], y)
        optimizer.zero_grad()
        now.backward()
        optimizer.step()
        if (step + 1) % 20 == 0:
            print(f"step {step + 1}: loss {now:.3f}")


train(torch.optim.Adam(net.parameters(), 5e-3))

# %%
# ## What is wrong
#
# Chance is log 10 = 2.303, and there it stays. `diagnose` looks at every layer: who fires, how far the potentials are from the threshold,
# what is left of the surrogate there, and what gradient arrives.
optimizer = torch.optim.Adam(net.parameters(), 5e-3)
found = spikegrad.diagnose(net, (x, y), loss, optimizer)
print(found)
assert not found.healthy

# %%
# ## What to do about it
#
# Each finding is advice in numbers, too, which can be followed. What was hidden behind the first is found next.
for _ in range(5):
    if found.healthy:
        break
    print(found.findings[0].kind, "in", *found.findings[0].layers)
    found.findings[0].apply(net, optimizer)
    found = spikegrad.diagnose(net, (x, y), loss, optimizer)
train(optimizer)

# %%
# ## Or a good start
#
# `fluctuation_driven` draws the weights so that the potentials of every layer reach the threshold now and then, and `match` gives every
# surrogate the width of what it sees.
spikegrad.fluctuation_driven(net, x)
spikegrad.match(net, x)
train(torch.optim.Adam(net.parameters(), 5e-3))
