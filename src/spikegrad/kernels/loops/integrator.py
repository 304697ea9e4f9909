"""The loops of `LeakyIntegrator`: see `spikegrad.kernels.loops`."""

# ruff: noqa: F821
# pyright: basic, reportUndefinedVariable=false

import numpy as np

U = np.uint64


def integrator_forward(job, mine, currents, v, beta, w, potentials):
    """Potentials, which are the layer's output, and the last of them, `w`."""
    steps, columns = U(currents.shape[0]), job[COLUMNS]
    start = claimed(job, mine)
    while start < columns:
        count = min(job[BLOCK], columns - start)
        for j in range(count):
            w[start + j] = begun(v, start + j)
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
