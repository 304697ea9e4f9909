"""The loops of the fused CPU kernels: a template, read as text by `spikegrad.kernels.compiler`.

There a header precedes these functions: ``real`` (the dtype), ``derivative(x, numbers)`` (the formula, printed) and a decorator for each
entry point; `RECURRENT` (are there recurrent weights?) and `LEARNED` (do parameters receive gradients?) become True or False. The loops
are written for the vectoriser: unsigned indices (a signed one is checked for wrapping around), arrays that do not alias, and no branch in
an inner loop; options are numbers 0 or 1 that multiply what they switch, which is exact.

A column is one neuron of one sample; arrays are ``(time, columns)``, parameters ``(columns,)``, and every function works on the columns
from `first` to `last`, a block at a time. The equations are those of `spikegrad.kernels.reference`, bit for bit. With spikes f, w is the
potential that decays into the next step, `lag` what a delayed subtraction takes from it, and `gate` what a delayed reset to zero leaves::

    u = gate (beta w + I + W f') - lag,   w = (1 - zero f) u - now theta f,   lag = late theta f,   gate = 1 - shut f

`options` holds the numbers ``(zero, now, late, shut, attached, delayed)``. Recurrent `weights` have a row for each sending neuron,
``(features, features)``, or are ``(1, features)`` if each neuron is connected to itself alone; a block is then one sample.

Backward, potentials are computed anew from the currents, block by block, into scratch that stays in the cache: reading the currents again
costs less than writing potentials and reading them.
"""

# ruff: noqa: D103, F821
# pyright: basic, reportUndefinedVariable=false

import numpy as np

U = np.uint64


def fired(x, closed):
    spike = real(1.0) if (x > real(0.0)) | (closed & (x == real(0.0))) else real(0.0)
    return spike if x == x else x


def collect(feedback, weights, spikes, row, start, count):
    """Feedback of each neuron: the sum of the weight rows of those that spiked."""
    if weights.shape[0] == 1:
        for j in range(count):
            feedback[j] = weights[U(0), j] * spikes[row, start + j]
        return
    for j in range(count):
        feedback[j] = real(0.0)
    for k in range(count):
        spike = spikes[row, start + k]
        if spike != real(0.0):
            for j in range(count):
                feedback[j] += weights[k, j] * spike


def spread(feedback, weights, grad, row, start, count):
    """The gradient of each neuron's spike through the feedback; `weights` have a row for each receiving neuron."""
    if weights.shape[0] == 1:
        for j in range(count):
            feedback[j] = weights[U(0), j] * grad[row, start + j]
        return
    for j in range(count):
        feedback[j] = real(0.0)
    for k in range(count):
        received = grad[row, start + k]
        for j in range(count):
            feedback[j] += weights[k, j] * received


def leaky_forward(
    first, last, block, currents, w, lag, beta, theta, weights, initial, spikes, potentials, recorded, options, closed
):  # fmt: skip
    """Spikes. `w` and `lag` hold what a step leaves to the next, before and after; `initial` the spikes before the first step.

    `potentials` has a row for each step if `recorded` is 1, else one, which ends as the last.
    """
    steps = U(currents.shape[0])
    zero, now, late, _, _, _ = options
    feedback = np.zeros(block, currents.dtype)
    start = first
    while start < last:
        count = min(block, last - start)
        for t in range(steps):
            if RECURRENT:
                if t == U(0):
                    collect(feedback, weights, initial, U(0), start, count)
                else:
                    collect(feedback, weights, spikes, t - U(1), start, count)
            for j in range(count):
                c = start + j
                u = beta[c] * w[c] + currents[t, c] + feedback[j] - lag[c]
                f = fired(u - theta[c], closed)
                spikes[t, c] = f
                potentials[t * recorded, c] = u
                w[c] = (real(1.0) - zero * f) * u - now * theta[c] * f
                lag[c] = late * theta[c] * f
        start += count


def leaky_backward(
    first, last, block, currents, w, lag, beta, theta, weights, back_weights, initial, spikes,
    grad_spikes, grad_potentials, recorded, path, downstream, carried, grad_currents, grad_beta, grad_theta, grad_initial,
    numbers, options, closed,
):  # fmt: skip
    """Gradients; those of the parameters are added to `grad_beta` and `grad_theta`.

    `path` holds the gradient of the final state and ends as what reaches the initial one; `downstream` is what multiplies the reset,
    `carried` the gradient of the potential one step later. `spikes` are needed for recurrent weights only.
    """
    steps = U(currents.shape[0])
    zero, now, late, _, attached, delayed = options
    feedback = np.zeros(block, currents.dtype)
    scratch = np.empty((steps, block), currents.dtype)
    start = first
    while start < last:
        count = min(block, last - start)
        for t in range(steps):
            if RECURRENT:
                if t == U(0):
                    collect(feedback, weights, initial, U(0), start, count)
                else:
                    collect(feedback, weights, spikes, t - U(1), start, count)
            for j in range(count):
                c = start + j
                u = beta[c] * w[c] + currents[t, c] + feedback[j] - lag[c]
                f = fired(u - theta[c], closed)
                scratch[t, j] = u
                w[c] = (real(1.0) - zero * f) * u - now * theta[c] * f
                lag[c] = late * theta[c] * f
        for j in range(block):
            feedback[j] = real(0.0)
        # A delayed reset has not acted yet on the state after the last step.
        empty = zero * (real(1.0) - delayed)
        for i in range(steps):
            t = steps - U(1) - i
            for j in range(count):
                c = start + j
                u = scratch[t, j]
                f = fired(u - theta[c], closed)
                reset = attached * ((now + late) * theta[c] * downstream[c] + empty * u * path[c])
                decided = (grad_spikes[t, c] + feedback[j] - reset) * derivative(u - theta[c], numbers)
                grad = (real(1.0) - empty * f) * path[c] + decided + grad_potentials[t * recorded, c]
                grad_currents[t, c] = grad
                if LEARNED:
                    grad_theta[c] -= (now + late) * f * downstream[c] + decided
                    grad_beta[c] += carried[c] * ((real(1.0) - zero * f) * u - now * theta[c] * f)
                    carried[c] = grad
                path[c] = beta[c] * grad
                downstream[c] = (beta[c] * (real(1.0) - delayed) + delayed) * grad
            empty = zero
            if RECURRENT:
                spread(feedback, back_weights, grad_currents, t, start, count)
        if RECURRENT:
            for j in range(count):
                grad_initial[U(0), start + j] = feedback[j]
        start += count


def synaptic_forward(
    first, last, block, currents, i, w, lag, gate, alpha, beta, theta, weights, initial, spikes, potentials, recorded, options, closed
):  # fmt: skip
    """As `leaky_forward`, with the synaptic current `i` and the `gate` of a delayed reset to zero."""
    steps = U(currents.shape[0])
    zero, now, late, shut, _, _ = options
    feedback = np.zeros(block, currents.dtype)
    start = first
    while start < last:
        count = min(block, last - start)
        for t in range(steps):
            if RECURRENT:
                if t == U(0):
                    collect(feedback, weights, initial, U(0), start, count)
                else:
                    collect(feedback, weights, spikes, t - U(1), start, count)
            for j in range(count):
                c = start + j
                synapse = alpha[c] * i[c] + currents[t, c] + feedback[j]
                i[c] = synapse
                u = gate[c] * (beta[c] * w[c] + synapse) - lag[c]
                f = fired(u - theta[c], closed)
                spikes[t, c] = f
                potentials[t * recorded, c] = u
                w[c] = (real(1.0) - zero * f) * u - now * theta[c] * f
                lag[c] = late * theta[c] * f
                gate[c] = real(1.0) - shut * f
        start += count


def synaptic_backward(
    first, last, block, currents, i, w, lag, gate, alpha, beta, theta, weights, back_weights, initial, spikes,
    grad_spikes, grad_potentials, recorded, synapse_path, path, downstream, dropped, carried, grad_currents, grad_alpha, grad_beta,
    grad_theta, grad_initial, numbers, options, closed,
):  # fmt: skip
    """As `leaky_backward`; `synapse_path` is the gradient of the synaptic current, `dropped` what a delayed reset to zero discards."""
    steps = U(currents.shape[0])
    zero, now, late, shut, attached, delayed = options
    feedback = np.zeros(block, currents.dtype)
    scratch = np.empty((steps + U(1), block), currents.dtype)
    synapses = np.empty((steps + U(1), block), currents.dtype)
    gates = np.empty((steps, block), currents.dtype)
    start = first
    while start < last:
        count = min(block, last - start)
        for j in range(count):
            synapses[U(0), j] = i[start + j]
            scratch[U(0), j] = w[start + j]
        for t in range(steps):
            if RECURRENT:
                if t == U(0):
                    collect(feedback, weights, initial, U(0), start, count)
                else:
                    collect(feedback, weights, spikes, t - U(1), start, count)
            for j in range(count):
                c = start + j
                synapse = alpha[c] * i[c] + currents[t, c] + feedback[j]
                i[c] = synapse
                u = gate[c] * (beta[c] * w[c] + synapse) - lag[c]
                f = fired(u - theta[c], closed)
                synapses[t + U(1), j] = synapse
                scratch[t + U(1), j] = u
                gates[t, j] = gate[c]
                w[c] = (real(1.0) - zero * f) * u - now * theta[c] * f
                lag[c] = late * theta[c] * f
                gate[c] = real(1.0) - shut * f
        for j in range(block):
            feedback[j] = real(0.0)
        for k in range(steps):
            t = steps - U(1) - k
            for j in range(count):
                c = start + j
                u = scratch[t + U(1), j]
                f = fired(u - theta[c], closed)
                reset = attached * ((now + late) * theta[c] * downstream[c] + zero * u * path[c] + shut * dropped[c])
                decided = (grad_spikes[t, c] + feedback[j] - reset) * derivative(u - theta[c], numbers)
                grad = (real(1.0) - zero * f) * path[c] + decided + grad_potentials[t * recorded, c]
                # A delayed reset to zero discards beta v + i, where v is the potential before.
                dropped[c] = (beta[c] * scratch[t, j] + synapses[t + U(1), j]) * grad
                inner = gates[t, j] * grad
                if LEARNED:
                    grad_theta[c] -= (now + late) * f * downstream[c] + decided
                    grad_beta[c] += carried[c] * ((real(1.0) - zero * f) * u - now * theta[c] * f)
                    carried[c] = inner
                synapse_path[c] = inner + synapse_path[c]
                grad_currents[t, c] = synapse_path[c]
                if LEARNED:
                    grad_alpha[c] += synapse_path[c] * synapses[t, j]
                synapse_path[c] = alpha[c] * synapse_path[c]
                path[c] = beta[c] * inner
                downstream[c] = beta[c] * (real(1.0) - delayed) * inner + delayed * grad
            if RECURRENT:
                spread(feedback, back_weights, grad_currents, t, start, count)
        if RECURRENT:
            for j in range(count):
                grad_initial[U(0), start + j] = feedback[j]
        start += count


def integrator_forward(first, last, block, currents, v, beta, potentials):
    steps = U(currents.shape[0])
    start = first
    while start < last:
        count = min(block, last - start)
        for t in range(steps):
            for j in range(count):
                c = start + j
                v[c] = beta[c] * v[c] + currents[t, c]
                potentials[t, c] = v[c]
        start += count


def integrator_backward(first, last, block, potentials, beta, grad_potentials, path, carried, grad_currents, grad_beta):
    """As `leaky_backward`, from the potentials, which are the layer's output."""
    steps = U(grad_potentials.shape[0])
    start = first
    while start < last:
        count = min(block, last - start)
        for i in range(steps):
            t = steps - U(1) - i
            for j in range(count):
                c = start + j
                if LEARNED:
                    grad_beta[c] += carried[c] * potentials[t, c]
                grad = path[c] + grad_potentials[t, c]
                grad_currents[t, c] = grad
                carried[c] = grad
                path[c] = beta[c] * grad
        start += count
