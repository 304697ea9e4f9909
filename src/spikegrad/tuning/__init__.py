"""The best surrogate, slope, learning rate, time constants and sizes for some data, searched by Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikegrad.tuning.space import Space as Space

if TYPE_CHECKING:
    from spikegrad.tuning.study import Tuning as Tuning
    from spikegrad.tuning.study import tune as tune

__all__ = ["Space", "Tuning", "tune"]


def __getattr__(name: str) -> Any:
    if name in ("Tuning", "tune"):
        from spikegrad.tuning import study

        return getattr(study, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
