// Views to begin a lecture with, by their addresses.

const PRESETS = [
  ["Surrogates", [
    ["Four common surrogates", "show=surrogates&curves=ATan(),FastSigmoid(slope=10),Sigmoid(),Triangle()&reach=2"],
    ["One surrogate, four slopes", "show=surrogates&curves=FastSigmoid(slope=1),FastSigmoid(slope=5),FastSigmoid(slope=25),FastSigmoid(slope=100)&reach=1"],
    ["Tails: heavy, light, none", "show=surrogates&curves=InverseAbs(),ATan(),Gaussian(),Boxcar()&reach=4"],
    ["Negative lobes", "show=surrogates&curves=MultiGaussian(),Fourier(),Gaussian()&reach=5"],
  ]],
  ["Neurons", [
    ["Leaky integrate-and-fire", "show=neuron&neuron=Leaky()&input=step(0.2)&steps=200&loss=all"],
    ["A threshold that adapts", "show=neuron&neuron=Adaptive(jump=0.3)&input=step(0.4)&steps=200&loss=all"],
    ["Izhikevich: regular spiking", "show=neuron&neuron=Izhikevich()&input=step(10)&steps=800&loss=all"],
    ["Izhikevich: bursting", "show=neuron&neuron=Izhikevich(c=-50,d=2)&input=step(10)&steps=800&loss=all"],
    ["AdEx: phase plane", "show=neuron&neuron=AdEx()&input=step(1.6)&steps=400&loss=all"],
    ["A resonator and its pulses", "show=neuron&neuron=ResonateAndFire(damping=-0.05,omega=0.5)&input=pulses(0.5)&steps=200&loss=all"],
  ]],
  ["Gradients", [
    ["Gone after twenty steps", "show=neuron&neuron=Leaky(beta=0.8)&input=constant(0.1)&steps=100&loss=potential&at=90"],
    ["Remembered: a slow leak", "show=neuron&neuron=Leaky(beta=0.98)&input=constant(0.015)&steps=100&loss=potential&at=90"],
    ["Exploding through the reset", "show=neuron&neuron=Leaky(beta=0.95,detach_reset=false,spike=FastSigmoid(slope=1,height=3))&input=constant(0.3)&steps=100&loss=potential&at=90"],
    ["Too steep: no gradient between spikes", "show=neuron&neuron=Leaky(spike=FastSigmoid(slope=100))&input=step(0.2)&steps=200&loss=all"],
  ]],
];

const START = "show=neuron&neuron=Leaky()&input=step(0.2)&steps=200&loss=all&at=199&curves=ATan(),FastSigmoid(slope=10),Sigmoid()&reach=2";
