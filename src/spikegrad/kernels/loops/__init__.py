"""The loops of the fused CPU kernels: a template, read as text by `spikegrad.kernels.compiler`.

There a header precedes these functions: ``real`` (the dtype), ``derivative(x, numbers)`` (the formula, printed), what threads share the
columns out with, ``claimed`` and ``claimed_back``, and the names of a job's words. Names in capitals are a layer's options; they
become True or False, what they switch off is not compiled, and arguments left without a use are no arguments. Functions of one expression
are written out where they are called. The loops are written for the vectoriser: unsigned indices (a signed one is checked for wrapping
around), arrays that do not alias, no other branches.

A column is one neuron of one sample; arrays are ``(time, columns)``, parameters ``(columns,)`` or, if UNIFORM, one number. Threads claim a
block of columns at a time, so that one that starts late takes fewer. The equations are those of `spikegrad.kernels.reference`, bit for bit.
With spikes f, w is the potential that decays into the next step, `lag` what a delayed subtraction takes from it, and `gate` what a delayed
reset to zero leaves::

    u = gate (beta w + I + W f') - lag

A layer starts from rest or, if it is GIVEN a state, from the potentials `v` and the spikes that its reset still acts on: `initial` if it is
recurrent, else those of the potentials. Working rows hold what one step leaves to the next; they start out with anything.

Recurrent `weights` have a row for each sending neuron, ``(features, features)``, or are ``(1, features)`` if each neuron is connected to
itself alone; a block is then one sample.

Backward, potentials are computed anew from the currents, block by block, into `scratch` that stays in the cache: reading the currents again
costs less than writing potentials and reading them.
"""
