"""What a step of any neuron is made of: see `spikegrad.kernels.loops`."""

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


def begun(v, c):
    """The potential before the first step."""
    return v[c] if GIVEN else real(0.0)


def first(v, initial, theta, c):
    """The spike that a delayed reset acts on in the first step."""
    return (initial[U(0), c] if RECURRENT else fired(v[c] - theta[c])) if GIVEN and DELAYED else real(0.0)


def left(v, s):
    """What a delayed reset to zero leaves of the potential before the first step."""
    return (real(1.0) - s) * v if ZERO and DELAYED else v


def sent(initial, spikes, t, c):
    """The spike of the step before."""
    return initial[U(0), c] if t == U(0) else spikes[t - U(1), c]


def collect(feedback, mine, weights, initial, spikes, t, start, count):
    """Feedback of each neuron: the sum of the weight rows of those that spiked."""
    if weights.shape[0] == 1:
        for j in range(count):
            feedback[mine, j] = weights[U(0), j] * sent(initial, spikes, t, start + j)
        return
    for j in range(count):
        feedback[mine, j] = real(0.0)
    for k in range(count):
        spike = sent(initial, spikes, t, start + k)
        if spike != real(0.0):
            for j in range(count):
                feedback[mine, j] += weights[k, j] * spike


def spread(feedback, mine, weights, grad, row, start, count):
    """The gradient of each neuron's spike through the feedback; `weights` have a row for each receiving neuron."""
    if weights.shape[0] == 1:
        for j in range(count):
            feedback[mine, j] = weights[U(0), j] * grad[row, start + j]
        return
    for j in range(count):
        feedback[mine, j] = real(0.0)
    for k in range(count):
        received = grad[row, start + k]
        for j in range(count):
            feedback[mine, j] += weights[k, j] * received
