# %%
# # A convolutional network
#
# `nn.Sequential` gives spiking layers the whole sequence and folds time into the batch around every other module, so that `Conv2d`,
# `BatchNorm2d` and `MaxPool2d` mean what they mean in PyTorch.
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import spikegrad
from spikegrad import encode, nn

# %%
# ## Data and network
#
# Digits of 8 by 8 pixels, as a constant current: the first layer turns them into spikes.
images, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
images = (images.float() / 16).reshape(-1, 1, 8, 8)
train, test = slice(0, 600), slice(600, 1000)
torch.manual_seed(0)
net = nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, padding=1),
    torch.nn.BatchNorm2d(8),
    nn.Leaky(0.8),
    torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(8, 16, 3, padding=1),
    torch.nn.BatchNorm2d(16),
    nn.Leaky(0.8),
    torch.nn.Flatten(),
    torch.nn.Linear(16 * 4 * 4, 10),
    nn.LeakyIntegrator(0.8),
)

# %%
# ## Training
#
# Three times through 600 images, 8 steps each.
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
for epoch in range(3):
    total = 0.0
    for chosen in torch.randperm(600).split(100):
        potentials, _ = net(encode.current(images[train][chosen], steps=8))
        loss = torch.nn.functional.cross_entropy(potentials.mean(0), labels[train][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch + 1}: loss {total / 6:.3f}")

# %%
# ## What it does with images it has not seen
net.eval()
with torch.no_grad(), spikegrad.record(net) as seen:
    potentials, _ = net(encode.current(images[test], steps=8))
accuracy = (potentials.mean(0).argmax(1) == labels[test]).float().mean()
print(f"of 400 unseen digits {accuracy:.0%} are right")
for name, layer in seen.items():
    if layer.spikes is not None and name != "9":
        print(f"layer {name}: {tuple(layer.spikes.shape[2:])} neurons, a spike in {layer.spikes.mean():.0%} of the steps")
assert accuracy > 0.8

# %%
# ## Spikes are images, too
#
# One digit, and how often each neuron of the first layer fires for it.
figure, panels = plt.subplots(1, 9)
panels[0].imshow(images[600, 0].numpy(), cmap="Greys")
for panel, channel in zip(panels[1:], seen["2"].spikes[:, 0].mean(0), strict=True):
    panel.imshow(channel.numpy(), cmap="Blues", vmin=0, vmax=1)
for panel in panels:
    panel.axis("off")
plt.show()
