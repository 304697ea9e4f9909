"""The loops of `Leaky`: see `spikegrad.kernels.loops`."""

# ruff: noqa: F821
# pyright: basic, reportUndefinedVariable=false

import numpy as np

U = np.uint64


def leaky_forward(job, mine, currents, v, beta, theta, weights, feedback, initial, w, lag, spikes, potentials, after):
    """Spikes, and the last state: `w`, or `after` where a delayed reset to zero has not acted yet on it."""
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    start = claimed(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            c = start + j
            rest, s = begun(v, c), first(v, initial, theta, c)
            w[c] = left(rest, s)
            if ZERO and DELAYED:
                after[c] = rest
            if SUBTRACT and DELAYED:
                lag[c] = theta[c] * s
        for t in range(steps):
            if RECURRENT:
                collect(feedback, mine, weights, initial, spikes, t, start, count)
            for j in range(count):
                c = start + j
                u = lagged(fed(beta[c] * w[c] + currents[t, c], feedback[mine, j]), lag[c])
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
    job, mine, scratch, currents, v, beta, theta, weights, back_weights, feedback, initial, w, lag, spikes, grad_spikes, grad_potentials,
    arriving, path, downstream, carried, grad_currents, grad_beta, grad_theta, grad_initial, numbers,
):  # fmt: skip
    """Gradients. `path` is the gradient of the potential, from that of the final state, if any is `ARRIVING`, to that of the initial one.

    `downstream` is what multiplies the reset, `carried` the gradient of the potential one step later. `spikes` are needed for recurrent
    weights only.
    """
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    start = claimed_back(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            c = start + j
            rest, s = begun(v, c), first(v, initial, theta, c)
            w[c] = left(rest, s)
            if SUBTRACT and DELAYED:
                lag[c] = theta[c] * s
        for t in range(steps):
            if RECURRENT:
                collect(feedback, mine, weights, initial, spikes, t, start, count)
            for j in range(count):
                c = start + j
                u = lagged(fed(beta[c] * w[c] + currents[t, c], feedback[mine, j]), lag[c])
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
                feedback[mine, j] = real(0.0)
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
                    spike += feedback[mine, j]
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
                spread(feedback, mine, back_weights, grad_currents, t, start, count)
        for j in range(count):
            c = start + j
            rest, s, through, decided = begun(v, c), first(v, initial, theta, c), real(0.0), real(0.0)
            if GIVEN and DELAYED:  # the reset of the given state, which acts on the first step, if there is one
                acts = real(1.0) if steps > U(0) else real(0.0)
                if ATTACHED:
                    through = -(theta[c] * downstream[c]) if SUBTRACT else -(acts * rest * path[c])
                if ZERO:
                    path[c] = (real(1.0) - acts * s) * path[c]
                if ATTACHED and not RECURRENT:
                    decided = through * derivative(rest - theta[c], numbers)
                    path[c] += decided
            if LEARNED:
                grad_beta[c] += carried[c] * left(rest, s)
                grad_theta[c] -= s * downstream[c] + decided if SUBTRACT and DELAYED else decided
            if RECURRENT:
                grad_initial[U(0), c] = feedback[mine, j] + through
        start = claimed_back(job, mine)
