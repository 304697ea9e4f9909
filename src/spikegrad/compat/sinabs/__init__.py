"""sinabs's activations on spikegrad: ``from spikegrad.compat.sinabs import activation`` for ``from sinabs import activation``.

They go into sinabs's own layers, as `spike_fn`, `reset_fn` and `surrogate_grad_fn`, each on its own or all of them.
"""

from spikegrad.compat.sinabs import activation as activation
