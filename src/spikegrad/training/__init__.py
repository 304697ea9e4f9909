"""Training on Lightning: a configuration goes in, a run folder comes out, and a killed run goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikegrad.training.config import Config as Config

if TYPE_CHECKING:
    from spikegrad.training.answers import Prediction as Prediction
    from spikegrad.training.answers import evaluate as evaluate
    from spikegrad.training.answers import evaluate_cost as evaluate_cost
    from spikegrad.training.answers import predict as predict
    from spikegrad.training.callbacks import SlopeCallback as SlopeCallback
    from spikegrad.training.module import DivergedError as DivergedError
    from spikegrad.training.module import SpikingModule as SpikingModule
    from spikegrad.training.quantizing import QuantizeReport as QuantizeReport
    from spikegrad.training.quantizing import quantize_report as quantize_report
    from spikegrad.training.run import Outcome as Outcome
    from spikegrad.training.run import resume as resume
    from spikegrad.training.run import train as train

__all__ = [
    "Config",
    "DivergedError",
    "Outcome",
    "Prediction",
    "QuantizeReport",
    "SlopeCallback",
    "SpikingModule",
    "evaluate",
    "evaluate_cost",
    "predict",
    "quantize_report",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    # Configurations are checked before anything heavy is loaded; only training itself needs Lightning.
    if name == "SlopeCallback":
        from spikegrad.training.callbacks import SlopeCallback

        return SlopeCallback
    if name in ("Prediction", "evaluate", "evaluate_cost", "predict"):
        from spikegrad.training import answers

        return getattr(answers, name)
    if name in ("QuantizeReport", "quantize_report"):
        from spikegrad.training import quantizing

        return getattr(quantizing, name)
    if name in __all__:
        from spikegrad.training import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
