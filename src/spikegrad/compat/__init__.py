"""Other libraries' names, defaults and conventions on spikegrad's formulas and kernels; no mathematics of its own.

``from spikegrad.compat import snntorch as snn`` takes the place of ``import snntorch as snn``; likewise `spikede`, `sinabs` and
`braintools`. What differs on purpose, with the defect that is not reproduced, stands in ``docs/migrating.md``.
"""
