"""The loops of `Synaptic`: see `spikegrad.kernels.loops`."""

# ruff: noqa: F821
# pyright: basic, reportUndefinedVariable=false

import numpy as np

U = np.uint64


def synaptic_forward(job, mine, currents, i0, v, alpha, beta, theta, weights, feedback, initial, i, w, lag, gate, spikes, potentials):
    """As `leaky_forward`, with the synaptic current `i` and the `gate` of a delayed reset to zero."""
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    start = claimed(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            c = start + j
            rest, s = begun(v, c), first(v, initial, theta, c)
            i[c] = begun(i0, c)
            w[c] = rest
            if SUBTRACT and DELAYED:
                lag[c] = theta[c] * s
            if GATED:
                gate[c] = real(1.0) - s
        for t in range(steps):
            if RECURRENT:
                collect(feedback, mine, weights, initial, spikes, t, start, count)
            for j in range(count):
                c = start + j
                synapse = fed(alpha[c] * i[c] + currents[t, c], feedback[mine, j])
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
    job, mine, scratch, synapses, currents, i0, v, alpha, beta, theta, weights, back_weights, feedback, initial, spiked, i, w, lag, gate,
    spikes, grad_spikes, grad_potentials, arriving_synapse, arriving, synapse_path, path, downstream, dropped, carried, grad_currents,
    grad_alpha, grad_beta, grad_theta, grad_initial, numbers,
):  # fmt: skip
    """As `leaky_backward`; `synapse_path` is the gradient of the synaptic current, `dropped` what a delayed reset to zero discards.

    `spiked` are the spikes that act on the first step.
    """
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    start = claimed_back(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            c = start + j
            rest, s = begun(v, c), first(v, initial, theta, c)
            i[c] = begun(i0, c)
            w[c] = rest
            if SUBTRACT and DELAYED:
                lag[c] = theta[c] * s
            if LEARNED:
                synapses[mine, U(0), j] = i[c]
            if GATED:
                spiked[c] = s
                gate[c] = real(1.0) - s
                scratch[mine, U(0), j] = rest
        for t in range(steps):
            if RECURRENT:
                collect(feedback, mine, weights, initial, spikes, t, start, count)
            for j in range(count):
                c = start + j
                synapse = fed(alpha[c] * i[c] + currents[t, c], feedback[mine, j])
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
                feedback[mine, j] = real(0.0)
        for k in range(steps):
            t = steps - U(1) - k
            for j in range(count):
                c = start + j
                u = scratch[mine, t + U(1), j]
                f = reached(u - theta[c])
                spike = grad_spikes[t, c]
                if RECURRENT:
                    spike += feedback[mine, j]
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
                    fired_before = spiked[c] if t == U(0) else reached(before - theta[c])
                    inner = (real(1.0) - fired_before) * grad
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
                spread(feedback, mine, back_weights, grad_currents, t, start, count)
        for j in range(count):
            c = start + j
            rest, s, through, decided = begun(v, c), first(v, initial, theta, c), real(0.0), real(0.0)
            if GIVEN and DELAYED and ATTACHED:
                through = -(theta[c] * downstream[c]) if SUBTRACT else -dropped[c]
                if not RECURRENT:
                    decided = through * derivative(rest - theta[c], numbers)
                    path[c] += decided
            if LEARNED:
                grad_beta[c] += carried[c] * rest
                grad_theta[c] -= s * downstream[c] + decided if SUBTRACT and DELAYED else decided
            if RECURRENT:
                grad_initial[U(0), c] = feedback[mine, j] + through
        start = claimed_back(job, mine)
