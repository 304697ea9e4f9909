# %%
# # Events, a recurrent network, and a stream
#
# Classes of spike trains in which only time tells anything (Randman: smooth random manifolds, Zenke and Vogels 2021), a recurrent network
# that learns them, and the same network taking events as they arrive.
import matplotlib.pyplot as plt
import torch

from spikegrad import FastSigmoid, data, fluctuation_driven, nn

# %%
# ## The events
#
# Each of 20 units spikes once in each sample, so that counting does not help.
events = data.randman(classes=3, units=20, steps=40, samples=100, seed=1)


def arranged(part: tuple) -> tuple[torch.Tensor, torch.Tensor]:  # time first
    return torch.tensor(part[0][:]).transpose(0, 1).contiguous(), torch.tensor(part[1])


x, y = arranged(events.train)
print("(time, sample, unit):", tuple(x.shape), "with", int(x.sum()), "events")
figure, panels = plt.subplots(1, 3, sharey=True)
for label, panel in enumerate(panels):
    for nth, sample in enumerate((y == label).nonzero()[:5, 0]):
        step, unit = x[:, sample].nonzero(as_tuple=True)
        panel.plot(step, unit, ".", markersize=4, alpha=1 - nth / 6, color="#0969b5")
    panel.set(title=f"Class {label}", xlabel="time step")
panels[0].set_ylabel("unit")
plt.show()

# %%
# ## A recurrent network
#
# Every neuron hears what all fired in the step before; the products of that recurrence run inside of one kernel. Such a
# network hangs on how it begins: `fluctuation_driven` draws weights with which its potentials reach the threshold now and then.
torch.manual_seed(0)
net = nn.Sequential(
    torch.nn.Linear(20, 64),
    nn.RecurrentLeaky(64, 0.9, spike=FastSigmoid(10)),
    torch.nn.Linear(64, 3),
    nn.LeakyIntegrator(0.95),
)
fluctuation_driven(net, x)
optimizer = torch.optim.Adam(net.parameters(), 5e-3)
for step in range(80):
    potentials, _ = net(x)
    loss = torch.nn.functional.cross_entropy(potentials.mean(0), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if (step + 1) % 40 == 0:
        print(f"step {step + 1}: loss {loss:.3f}")
unseen, right = arranged(events.test)
accuracy = (net(unseen)[0].mean(0).argmax(1) == right).float().mean()
print(f"of unseen samples {accuracy:.0%} are right")
assert accuracy > 0.7

# %%
# ## A stream
#
# The state goes in and comes out, and nothing is stored in the modules. So a stream is a loop that hands it on, a step at a time or some,
# and computes what the whole sequence at once does.
with torch.no_grad():
    whole, _ = net(unseen)
    state, said = None, []
    for arriving in unseen.split(1):
        potentials, state = net(arriving, state)
        said.append(potentials)
print("largest difference from the whole sequence:", (torch.cat(said) - whole).abs().max().item())
certain = torch.cat(said)[:, 0].softmax(-1)
plt.plot(certain, label=[f"class {k}" for k in range(3)])
plt.title(f"Answers while a sample of class {right[0]} arrives")
plt.xlabel("time step")
plt.legend()
plt.show()
