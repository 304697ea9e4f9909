"""What a trained network answers: how often it is right, and what it says to each sample."""

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spikegrad.data import load
from spikegrad.data.dataset import Part
from spikegrad.errors import InputError
from spikegrad.insight import Cost, cost
from spikegrad.training.batches import Batches, derived, loader
from spikegrad.training.measure import BATCH, Measurement, activities, measure
from spikegrad.training.trained import Trained, reopened, require_same_data, samples_for


def evaluate(path: str | Path, data: str | None = None, *, model: str | None = None) -> Measurement:
    """The best weights of a run on its test samples, or on all samples of other data.

    Args:
        path: folder of the run.
        data: name or file of other data, of which every sample is used; those of the run if None.
        model: ``file.py:function`` of a network of one's own whose file has moved or changed and is to be taken as it is.

    Raises:
        InputError: it is no run with weights, its data or the file of its neuron or network have changed, or the data do not fit the
            network.
    """
    trained = reopened(path, model)
    return measure(trained.network(), _asked(trained, data), trained.config.seed)


def evaluate_cost(path: str | Path, data: str | None = None, *, model: str | None = None) -> Cost:
    """What a run's best weights cost on its test samples, or on all samples of other data; see `spikegrad.cost`.

    Args:
        path: folder of the run.
        data: as for `evaluate`, but labels are not needed.
        model: as for `evaluate`.

    Raises:
        InputError: as `evaluate`; or the run has a network of its own with modules whose operations are not counted.
    """
    trained = reopened(path, model)
    part, seed = _asked(trained, data, labelled=False), trained.config.seed
    network = trained.network()
    weight = next(network.parameters())

    def batches() -> Generator[torch.Tensor]:
        for number, (x, _) in enumerate(loader(part, Batches(len(part[1]), BATCH))):
            torch.manual_seed(derived(seed, "evaluation", number))  # the noise that `evaluate` draws
            yield x.to(weight.device, weight.dtype)

    try:
        return cost(network, batches())
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None


def _asked(trained: Trained, data: str | None, labelled: bool = True) -> Part:
    """The test samples of a run, or all samples of other data; where labels are not needed they may be missing, and are 0."""
    run, config, facts = trained.run, trained.config, trained.facts
    if data is None:
        own = load(config.data, config.binning)
        require_same_data(run, config, facts, own, f"evaluate it on what it is now with --data {config.data}")
        return own.test
    x, y, _ = samples_for(trained, data)
    if y is None and labelled:
        raise InputError(f"{data} has no labels; see what the network answers with: spikegrad predict {run.path} {data}")
    return x, np.zeros(len(x), np.int64) if y is None else y


@dataclass(frozen=True)
class Prediction:
    """What a network answers to each of some samples.

    Attributes:
        scores: of each class, (sample, class); the largest is the answer.
        labels: the right answers, (sample,), where they are known.
        names: what the classes are called.
        files: the samples' files, where each has its own.
        parts: ``train``, ``validation`` or ``test`` of each sample, if they are those of the run; else empty.
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    names: tuple[str, ...]
    files: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def answers(self) -> NDArray[np.int64]:
        """The class of the highest score, (sample,)."""
        return self.scores.argmax(1)

    @property
    def certainty(self) -> NDArray[np.float64]:
        """What the network was trained to see as the probability of its answer, 0 to 1, (sample,)."""
        wide = self.scores.astype(np.float64)
        return 1 / np.exp(wide - wide.max(1, keepdims=True)).sum(1)

    def right(self, part: str | None = None) -> tuple[int, int]:
        """How many samples, of a part or of all, were answered rightly, and how many there are.

        Raises:
            ValueError: the right answers are not known.
        """
        if self.labels is None:
            raise ValueError("the samples have no labels")
        right = self.answers == self.labels
        own = right if part is None else right[np.array(self.parts) == part]
        return int(own.sum()), len(own)

    def csv(self) -> str:
        """One line for each sample: its number or file, part, label, answer, and the score of each class."""
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        columns: dict[str, Sequence[object]] = {"sample": self.files or range(len(self.scores))}
        columns |= {"part": self.parts} if self.parts else {}
        columns |= {"label": [self.names[label] for label in self.labels]} if self.labels is not None else {}
        columns["answer"] = [self.names[answer] for answer in self.answers]
        out.writerow([*columns, *(f"score {name}" for name in self.names)])
        for row, scores in zip(zip(*columns.values(), strict=True), self.scores, strict=True):
            out.writerow([*row, *(f"{score:.6g}" for score in scores)])
        return text.getvalue()


def predict(path: str | Path, data: str, *, model: str | None = None) -> Prediction:
    """What the best weights of a run answer to each sample of a file.

    Args:
        path: folder of the run.
        data: as for `spikegrad.data.load`, or samples without labels, see `spikegrad.data.samples`. The data that the run was trained on
            are answered part by part, so that those for the test are answered as `evaluate` does it.
        model: as for `evaluate`.

    Raises:
        InputError: as `evaluate`.
    """
    trained = reopened(path, model)
    names = tuple(trained.facts.get("names") or map(str, range(trained.facts["classes"])))
    if not _same(data, trained.config.data):
        x, y, files = samples_for(trained, data)
        scores = _scores(trained, [(x, np.zeros(len(x), np.int64) if y is None else y)])
        return Prediction(scores, y, names, tuple(files) if len(files) == len(x) else ())
    own = load(trained.config.data, trained.config.binning)
    require_same_data(trained.run, trained.config, trained.facts, own, "give the file another name to have it answered")
    parts = {"train": own.train, "validation": own.validation, "test": own.test}
    labels = np.concatenate([y for _, y in parts.values()])
    of_each = tuple(name for name, (_, y) in parts.items() for _ in y)
    return Prediction(_scores(trained, [*parts.values()]), labels, names, parts=of_each)


def _same(data: str, other: str) -> bool:
    return data == other or (Path(data).exists() and Path(other).exists() and Path(data).samefile(other))


def _scores(trained: Trained, parts: Sequence[Part]) -> NDArray[np.float32]:
    network = trained.network()
    found = [activity.scores.cpu() for part in parts for activity, _ in activities(network, part, trained.config.seed)]
    return torch.cat(found).float().numpy()
