"""The loops of the fused CPU kernels: a template, read as text by `spikegrad.kernels.compiler`.

There a header precedes these functions: ``real`` (the dtype), ``derivative(x, numbers)`` (the formula, printed), a decorator for each entry
point, what threads share the columns out with, ``claimed``, and the words of a `job`. Names in capitals are a layer's options; they
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

# ruff: noqa: F821
# pyright: basic, reportUndefinedVariable=false

import numpy as np

U = np.uint64


def reached(x):
    """The spike of x; of NaN none, which is enough where only its effect on a potential that is NaN anyway is wanted."""
    return real(1.0) if (x >= real(0.0) if SPIKE_AT_THRESHOLD else x > real(0.0)) else real(0.0)


def fired(x):
    """The spike of x, of NaN NaN."""
    return reached(x) if x == x else x


def fed(u, feedback):
    """A current and what recurrent neurons add to it."""
    return u + feedback if RECURRENT else u


def gated(u, gate):
    """A potential and what a delayed reset to zero leaves of it."""
    return gate * u if GATED else u


def lagged(u, lag):
    """A potential less what a delayed subtraction takes from it."""
    return u - lag if SUBTRACT and DELAYED else u


def kept(u, f, threshold):
    """The potential that decays into the next step."""
    return u - threshold * f if SUBTRACT and not DELAYED else (real(1.0) - f) * u if ZERO else u


def left(v, s):
    """What the spikes before the first step leave of a given potential."""
    return (real(1.0) - s) * v if ZERO and DELAYED else v


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


def leaky_forward(job, mine, currents, v, beta, theta, weights, initial, w, lag, spikes, potentials, after):
    """Spikes, and the last state: `w`, or `after` where a delayed reset to zero has not acted yet on it."""
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    if RECURRENT:
        feedback = np.empty(job[BLOCK], currents.dtype)
    start = claimed(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            c = start + j
            rest, s = real(0.0), real(0.0)
            if GIVEN:
                rest = v[c]
                if DELAYED:
                    s = initial[U(0), c] if RECURRENT else fired(v[c] - theta[c])
            w[c] = left(rest, s)
            if ZERO and DELAYED:
                after[c] = rest
            if SUBTRACT and DELAYED:
                lag[c] = theta[c] * s
        for t in range(steps):
            if RECURRENT:
                if t == U(0):
                    collect(feedback, weights, initial, U(0), start, count)
                else:
                    collect(feedback, weights, spikes, t - U(1), start, count)
            for j in range(count):
                c = start + j
                u = lagged(fed(beta[c] * w[c] + currents[t, c], feedback[j]), lag[c])
                f = fired(u - theta[c])
                spikes[t, c] = f
                if RECORDED:
                    potentials[t, c] = u
                if ZERO and DELAYED:
                    after[c] = u
                w[c] = kept(u, f, theta[c])
                if SUBTRACT and DELAYED:
                    lag[c] = theta[c] * f
        start = claimed(job, mine)


def leaky_backward(
    job, mine, scratch, currents, v, beta, theta, weights, back_weights, initial, w, lag, spikes, grad_spikes, grad_potentials, arriving,
    path, downstream, carried, grad_currents, grad_beta, grad_theta, grad_initial, numbers,
):  # fmt: skip
    """Gradients. `path` is the gradient of the potential, from that of the final state, if any is `ARRIVING`, to that of the initial one.

    `downstream` is what multiplies the reset, `carried` the gradient of the potential one step later. `spikes` are needed for recurrent
    weights only.
    """
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    if RECURRENT:
        feedback = np.empty(job[BLOCK], currents.dtype)
    start = claimed_back(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            c = start + j
            rest, s = real(0.0), real(0.0)
            if GIVEN:
                rest = v[c]
                if DELAYED:
                    s = initial[U(0), c] if RECURRENT else fired(v[c] - theta[c])
            w[c] = left(rest, s)
            if SUBTRACT and DELAYED:
                lag[c] = theta[c] * s
        for t in range(steps):
            if RECURRENT:
                if t == U(0):
                    collect(feedback, weights, initial, U(0), start, count)
                else:
                    collect(feedback, weights, spikes, t - U(1), start, count)
            for j in range(count):
                c = start + j
                u = lagged(fed(beta[c] * w[c] + currents[t, c], feedback[j]), lag[c])
                f = reached(u - theta[c])
                scratch[mine, t, j] = u
                w[c] = kept(u, f, theta[c])
                if SUBTRACT and DELAYED:
                    lag[c] = theta[c] * f
        for j in range(count):
            c = start + j
            path[c] = arriving[c] if ARRIVING else real(0.0)
            if SUBTRACT and (ATTACHED or LEARNED):
                downstream[c] = real(0.0) if DELAYED else path[c]
            if LEARNED:
                carried[c] = grad_beta[c] = grad_theta[c] = real(0.0)
            if RECURRENT:
                feedback[j] = real(0.0)
        for i in range(steps):
            t = steps - U(1) - i
            acts = real(1.0)
            if DELAYED:  # has not acted yet on the state after the last step
                acts = real(0.0) if i == U(0) else real(1.0)
            for j in range(count):
                c = start + j
                u = scratch[mine, t, j]
                f = reached(u - theta[c])
                spike = grad_spikes[t, c]
                if RECURRENT:
                    spike += feedback[j]
                if ATTACHED and SUBTRACT:
                    spike -= theta[c] * downstream[c]
                if ATTACHED and ZERO:
                    spike -= acts * u * path[c]
                decided = spike * derivative(u - theta[c], numbers)
                decided = decided if abs(u - theta[c]) != inf else real(0.0)  # as in the reference, whatever comes in
                grad = path[c] + decided
                if ZERO:
                    grad = (real(1.0) - acts * f) * path[c] + decided
                if RECORDED:
                    grad += grad_potentials[t, c]
                grad_currents[t, c] = grad
                if LEARNED:
                    grad_theta[c] -= decided
                    if SUBTRACT:
                        grad_theta[c] -= f * downstream[c]
                    grad_beta[c] += carried[c] * kept(u, f, theta[c])
                    carried[c] = grad
                path[c] = beta[c] * grad
                if SUBTRACT and (ATTACHED or LEARNED):
                    downstream[c] = grad if DELAYED else beta[c] * grad
            if RECURRENT:
                spread(feedback, back_weights, grad_currents, t, start, count)
        for j in range(count if steps > U(0) else U(0)):
            c = start + j
            rest, s, through = real(0.0), real(0.0), real(0.0)
            if GIVEN:
                rest = v[c]
                if DELAYED:  # the reset of the given state, which acts on the first step
                    s = initial[U(0), c] if RECURRENT else fired(v[c] - theta[c])
                    if ATTACHED and SUBTRACT:
                        through = -(theta[c] * downstream[c])
                    if ATTACHED and ZERO:
                        through = -(rest * path[c])
                    if ZERO:
                        path[c] = (real(1.0) - s) * path[c]
                    if RECURRENT:
                        feedback[j] += through
                    elif ATTACHED:
                        path[c] += through * derivative(rest - theta[c], numbers)
            if LEARNED:
                grad_beta[c] += carried[c] * left(rest, s)
                if GIVEN and DELAYED:
                    if SUBTRACT:
                        grad_theta[c] -= s * downstream[c]
                    if ATTACHED and not RECURRENT:
                        grad_theta[c] -= through * derivative(rest - theta[c], numbers)
        if RECURRENT:
            for j in range(count):
                grad_initial[U(0), start + j] = feedback[j]
        start = claimed_back(job, mine)


def synaptic_forward(job, mine, currents, i0, v, alpha, beta, theta, weights, initial, i, w, lag, gate, spikes, potentials, after):
    """As `leaky_forward`, with the synaptic current `i` and the `gate` of a delayed reset to zero."""
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    if RECURRENT:
        feedback = np.empty(job[BLOCK], currents.dtype)
    start = claimed(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            c = start + j
            rest, s = real(0.0), real(0.0)
            i[c] = i0[c] if GIVEN else real(0.0)
            if GIVEN:
                rest = v[c]
                if DELAYED:
                    s = initial[U(0), c] if RECURRENT else fired(v[c] - theta[c])
            w[c] = rest
            if SUBTRACT and DELAYED:
                lag[c] = theta[c] * s
            if GATED:
                gate[c] = real(1.0) - s
        for t in range(steps):
            if RECURRENT:
                if t == U(0):
                    collect(feedback, weights, initial, U(0), start, count)
                else:
                    collect(feedback, weights, spikes, t - U(1), start, count)
            for j in range(count):
                c = start + j
                synapse = fed(alpha[c] * i[c] + currents[t, c], feedback[j])
                i[c] = synapse
                u = lagged(gated(beta[c] * w[c] + synapse, gate[c]), lag[c])
                f = fired(u - theta[c])
                spikes[t, c] = f
                if RECORDED:
                    potentials[t, c] = u
                w[c] = kept(u, f, theta[c])
                if SUBTRACT and DELAYED:
                    lag[c] = theta[c] * f
                if GATED:
                    gate[c] = real(1.0) - f
        start = claimed(job, mine)


def synaptic_backward(
    job, mine, scratch, synapses, currents, i0, v, alpha, beta, theta, weights, back_weights, initial, first, i, w, lag, gate, spikes,
    grad_spikes, grad_potentials, arriving_synapse, arriving, synapse_path, path, downstream, dropped, carried, grad_currents, grad_alpha,
    grad_beta, grad_theta, grad_initial, numbers,
):  # fmt: skip
    """As `leaky_backward`; `synapse_path` is the gradient of the synaptic current, `dropped` what a delayed reset to zero discards.

    `first` are the spikes that act on the first step.
    """
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    if RECURRENT:
        feedback = np.empty(job[BLOCK], currents.dtype)
    start = claimed_back(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            c = start + j
            rest, s = real(0.0), real(0.0)
            i[c] = i0[c] if GIVEN else real(0.0)
            if GIVEN:
                rest = v[c]
                if DELAYED:
                    s = initial[U(0), c] if RECURRENT else fired(v[c] - theta[c])
            w[c] = rest
            if SUBTRACT and DELAYED:
                lag[c] = theta[c] * s
            if LEARNED:
                synapses[mine, U(0), j] = i[c]
            if GATED:
                first[c] = s
                gate[c] = real(1.0) - s
                scratch[mine, U(0), j] = rest
        for t in range(steps):
            if RECURRENT:
                if t == U(0):
                    collect(feedback, weights, initial, U(0), start, count)
                else:
                    collect(feedback, weights, spikes, t - U(1), start, count)
            for j in range(count):
                c = start + j
                synapse = fed(alpha[c] * i[c] + currents[t, c], feedback[j])
                i[c] = synapse
                if LEARNED or GATED:
                    synapses[mine, t + U(1), j] = synapse
                u = lagged(gated(beta[c] * w[c] + synapse, gate[c]), lag[c])
                f = reached(u - theta[c])
                scratch[mine, t + U(1), j] = u
                w[c] = kept(u, f, theta[c])
                if SUBTRACT and DELAYED:
                    lag[c] = theta[c] * f
                if GATED:
                    gate[c] = real(1.0) - f
        for j in range(count):
            c = start + j
            path[c] = arriving[c] if ARRIVING else real(0.0)
            synapse_path[c] = arriving_synapse[c] if ARRIVING else real(0.0)
            if SUBTRACT and (ATTACHED or LEARNED):
                downstream[c] = real(0.0) if DELAYED else path[c]
            if GATED:
                dropped[c] = real(0.0)
            if LEARNED:
                carried[c] = grad_alpha[c] = grad_beta[c] = grad_theta[c] = real(0.0)
            if RECURRENT:
                feedback[j] = real(0.0)
        for k in range(steps):
            t = steps - U(1) - k
            for j in range(count):
                c = start + j
                u = scratch[mine, t + U(1), j]
                f = reached(u - theta[c])
                spike = grad_spikes[t, c]
                if RECURRENT:
                    spike += feedback[j]
                if ATTACHED and SUBTRACT:
                    spike -= theta[c] * downstream[c]
                if ATTACHED and ZERO:
                    spike -= u * path[c]
                if ATTACHED and GATED:
                    spike -= dropped[c]
                decided = spike * derivative(u - theta[c], numbers)
                decided = decided if abs(u - theta[c]) != inf else real(0.0)  # as in the reference, whatever comes in
                grad = path[c] + decided
                if ZERO:
                    grad = (real(1.0) - f) * path[c] + decided
                if RECORDED:
                    grad += grad_potentials[t, c]
                inner = grad
                if GATED:
                    # What was discarded is beta v + i, where v is the potential before; the first gate is that of the given spikes.
                    before = scratch[mine, t, j]
                    dropped[c] = (beta[c] * before + synapses[mine, t + U(1), j]) * grad
                    spiked = first[c] if t == U(0) else reached(before - theta[c])
                    inner = (real(1.0) - spiked) * grad
                if LEARNED:
                    grad_theta[c] -= decided
                    if SUBTRACT:
                        grad_theta[c] -= f * downstream[c]
                    grad_beta[c] += carried[c] * kept(u, f, theta[c])
                    carried[c] = inner
                synapse_grad = inner + synapse_path[c]
                grad_currents[t, c] = synapse_grad
                if LEARNED:
                    grad_alpha[c] += synapse_grad * synapses[mine, t, j]
                synapse_path[c] = alpha[c] * synapse_grad
                path[c] = beta[c] * inner
                if SUBTRACT and (ATTACHED or LEARNED):
                    downstream[c] = grad if DELAYED else beta[c] * grad
            if RECURRENT:
                spread(feedback, back_weights, grad_currents, t, start, count)
        for j in range(count if steps > U(0) else U(0)):
            c = start + j
            rest, s, through = real(0.0), real(0.0), real(0.0)
            if GIVEN:
                rest = v[c]
                if DELAYED:  # the reset of the given state, which acts on the first step
                    s = initial[U(0), c] if RECURRENT else fired(v[c] - theta[c])
                    if ATTACHED and SUBTRACT:
                        through = -(theta[c] * downstream[c])
                    if ATTACHED and GATED:
                        through = -dropped[c]
                    if RECURRENT:
                        feedback[j] += through
                    elif ATTACHED:
                        path[c] += through * derivative(rest - theta[c], numbers)
            if LEARNED:
                grad_beta[c] += carried[c] * rest
                if GIVEN and DELAYED:
                    if SUBTRACT:
                        grad_theta[c] -= s * downstream[c]
                    if ATTACHED and not RECURRENT:
                        grad_theta[c] -= through * derivative(rest - theta[c], numbers)
        if RECURRENT:
            for j in range(count):
                grad_initial[U(0), start + j] = feedback[j]
        start = claimed_back(job, mine)


def integrator_forward(job, mine, currents, v, beta, w, potentials):
    """Potentials, which are the layer's output, and the last of them, `w`."""
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    start = claimed(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            w[start + j] = v[start + j] if GIVEN else real(0.0)
        for t in range(steps):
            for j in range(count):
                c = start + j
                w[c] = beta[c] * w[c] + currents[t, c]
                potentials[t, c] = w[c]
        start = claimed(job, mine)


def integrator_backward(job, mine, potentials, v, beta, grad_potentials, arriving, path, carried, grad_currents, grad_beta):
    """As `leaky_backward`, from the potentials, the output of the forward pass."""
    steps, columns = U(grad_potentials.shape[0]), job[COLUMNS]
    start = claimed_back(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            c = start + j
            path[c] = arriving[c] if ARRIVING else real(0.0)
            if LEARNED:
                carried[c] = grad_beta[c] = real(0.0)
        for i in range(steps):
            t = steps - U(1) - i
            for j in range(count):
                c = start + j
                grad = path[c] + grad_potentials[t, c]
                grad_currents[t, c] = grad
                if LEARNED:
                    grad_beta[c] += carried[c] * potentials[t, c]
                    carried[c] = grad
                path[c] = beta[c] * grad
        if LEARNED and GIVEN:
            for j in range(count):
                grad_beta[start + j] += carried[start + j] * v[start + j]
        start = claimed_back(job, mine)
