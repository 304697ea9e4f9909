# %%
# # From snnTorch, step by step
#
# A network as its documentation writes them comes to run over whole sequences: by another import, then one call, then fewer lines.
import torch
from sklearn.datasets import load_digits

from spikegrad import FastSigmoid, encode, nn
from spikegrad.compat import snntorch as snn  # was: import snntorch as snn
from spikegrad.compat.snntorch import surrogate  # was: from snntorch import surrogate

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = encode.rate(torch.tensor(images[:128] / 16).float(), steps=25), torch.tensor(labels[:128])


# %%
# ## 1. Change the import
#
# Names, arguments, defaults and conventions stay what they are: only the two imports above are another's.
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(64, 100)
        self.lif1 = snn.Leaky(beta=0.9, spike_grad=surrogate.fast_sigmoid(slope=10))
        self.fc2 = torch.nn.Linear(100, 10)
        self.lif2 = snn.Leaky(beta=0.9, spike_grad=surrogate.fast_sigmoid(slope=10))

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for step in x:
            spk1, mem1 = self.lif1(self.fc1(step), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec), torch.stack(mem2_rec)


net = Net()
stepwise, _ = net(x)
print(tuple(stepwise.shape), "spikes, at a rate of", round(stepwise.mean().item(), 3))

# %%
# ## 2. Fuse the loop
#
# No kernel can span steps that Python drives. `fuse` records what the loop does, and runs each layer over all steps at once. The
# parameters are the same ones, and so are the spikes.
fused = snn.fuse(net, x)
print(fused.report())
print("different spikes:", int((fused(x)[0] != stepwise).sum()))

# %%
# ## 3. Write it as it is
#
# Without the loop, the states and the lists, the network is the chain of its layers. Said in full, snnTorch's convention is: a reset one
# step later, and a spike only above the threshold.
theirs = {"spike": FastSigmoid(10), "reset_delay": True, "spike_at_threshold": False}
native = nn.Sequential(net.fc1, nn.Leaky(0.9, **theirs), net.fc2, nn.Leaky(0.9, **theirs))
spikes, state = native(x)
print("different spikes:", int((spikes != stepwise).sum()))

# %%
# ## 4. Train it
#
# With spikegrad's own conventions, and a readout that does not spike. There is nothing to reset between batches: where no state is given,
# a layer begins at rest.
torch.manual_seed(0)
native = nn.Sequential(torch.nn.Linear(64, 100), nn.Leaky(0.9), torch.nn.Linear(100, 10), nn.LeakyIntegrator(0.9))
optimizer = torch.optim.Adam(native.parameters(), 5e-3)
for _ in range(40):
    potentials, _ = native(x)
    loss = torch.nn.functional.cross_entropy(potentials.mean(0), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
right = (potentials.mean(0).argmax(1) == y).float().mean()
print(f"loss {loss:.3f}, {right:.0%} right")
assert right > 0.9
