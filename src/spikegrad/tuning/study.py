"""A study in a database, which any number of processes and machines share, and which goes on after a kill."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikegrad.comparison import processes
from spikegrad.comparison.work import trained
from spikegrad.errors import InputError
from spikegrad.training import claims
from spikegrad.training.batches import derived
from spikegrad.training.claims import claim
from spikegrad.training.config import Config
from spikegrad.training.folder import Run
from spikegrad.tuning.space import Space

if TYPE_CHECKING:
    import optuna
    from rich.console import Console
    from sqlalchemy.engine import URL

STORAGE = "SPIKEGRAD_STORAGE"
"""Tells processes of our own the database, whose URL may have a password in it."""
STARTUP = 10
"""Trials that are drawn at random before the search learns from them; before half as many none is pruned."""


@dataclass(frozen=True)
class Tuning:
    """What is tuned, and where.

    Attributes:
        path: folder with the runs and results of this machine.
        config: what all trials have in common.
        space: what is searched.
        trials: how many trials there shall be in all.
        study: the study's name in the database.
        storage: URL of the database; that of a file in the folder if empty.

    ``tuning.json`` in the folder says all of it but passwords; ``runs/<number>`` are the runs of trials, ``trials.csv`` and
    ``importance.png`` what came out.
    """

    path: Path
    config: Config
    space: Space
    trials: int
    study: str = "spikegrad"
    storage: str = ""

    @property
    def url(self) -> str:
        """The database."""
        return self.storage or self._own

    @property
    def _own(self) -> str:
        return f"sqlite:///{(self.path / 'study.db').absolute()}"

    @property
    def place(self) -> str:
        """Which folder this is, among those of all machines."""
        return f"{socket.gethostname()}:{self.path.absolute()}"

    def holds(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether a trial's run is in this folder: all are whose database is in it, wherever it was when they began."""
        return self.url == self._own or trial.user_attrs.get("folder") == self.place

    @property
    def fingerprint(self) -> str:
        """What tells one study from another: what is trained, and what is searched."""
        told = json.dumps([dataclasses.asdict(self.config), dataclasses.asdict(self.space)], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    @classmethod
    def at(cls, path: str | Path, storage: str = "") -> Tuning:
        """What a folder holds.

        Args:
            path: the folder.
            storage: its database, if its URL has a password, which is not kept.

        Raises:
            InputError: it is no tuning, or damaged.
        """
        file = Path(path) / "tuning.json"
        if not file.is_file():
            raise InputError(f"{path} is not a tuning: {'it has no tuning.json' if Path(path).is_dir() else 'there is no such folder'}")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            config, space = Config().changed(**found["config"]), Space(**found["space"])
            kept = storage or found["storage"]
            made = cls(Path(path), config, space, int(found["trials"]), found["study"], kept or "")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} cannot be read: {type(error).__name__}: {error}") from None
        if kept is None:
            raise InputError(f"the database of {path} has a password, which is not kept; give it with --storage")
        return made

    def write(self) -> None:
        """Note it in its folder.

        Raises:
            InputError: the folder holds something else, or cannot be written.
        """
        secret = bool(self.storage) and _url(self.storage).password is not None
        if (self.path / "tuning.json").exists():
            there = Tuning.at(self.path, self.url)
            if there.fingerprint != self.fingerprint:
                raise InputError(f"{self.path} tunes something else; continue it with --out alone, or choose another folder")
        else:
            claims.make_folder(self.path, "tuning.json", "tuning")
        told = {"trials": self.trials, "study": self.study, "storage": None if secret else self.storage}
        told |= {"space": dataclasses.asdict(self.space), "config": dataclasses.asdict(self.config)}
        claims.write(self.path / "tuning.json", json.dumps(told, indent=1) + "\n")

    def open(self) -> optuna.Study:
        """The study, which is made if there is none.

        Raises:
            InputError: the database cannot be reached, or has a study of this name that is another.
        """
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool  # a trial takes minutes, and servers have few connections

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = derived(self.config.seed, socket.gethostname(), os.getpid()) % 2**32  # else processes would all try the same
        sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed, constant_liar=True)
        pruner = optuna.pruners.MedianPruner(STARTUP // 2, n_warmup_steps=self.config.epochs // 4)

        def made() -> optuna.Study:
            storage = optuna.storages.RDBStorage(self.url, {} if self.url.startswith("sqlite") else {"poolclass": NullPool})
            return optuna.create_study(
                storage=storage, study_name=self.study, direction="maximize", load_if_exists=True, sampler=sampler, pruner=pruner
            )

        try:
            try:
                study = made()
            except SQLAlchemyError:  # others may make the database's tables at this moment
                time.sleep(1)
                study = made()
        except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
            said = str(error).strip().partition("\n")[0]
            raise InputError(f"the database cannot be used: {type(error).__name__}: {said}") from None
        known = study.user_attrs.get("spikegrad")
        if known is None:
            study.set_user_attr("spikegrad", self.fingerprint)
        if known not in (None, self.fingerprint):
            raise InputError(f"the database has a study {self.study!r} of something else; choose another name with --study")
        return study


def _url(text: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(text)
    except ArgumentError:
        raise InputError(f"the database is named by a URL, as in postgresql+psycopg://user@host/name, got {text!r}") from None


def tune(tuning: Tuning, *, jobs: int = 1, console: Console | None = None) -> optuna.Study:
    """Search until there are as many trials as asked for, each a training in one thread; write the table and the picture.

    What was killed goes on when it is started again: trials in the midst of their training, too. Processes that are started on one folder,
    or on one database, share the study. A trial that is worse than the median of the others at the same epoch is pruned.

    Args:
        tuning: what, and where.
        jobs: processes that train; 1 for this one alone.
        console: where progress is shown; nowhere if None.

    Returns:
        The study: ``study.best_params``, ``study.best_value``, the accuracy on the validation samples.

    Raises:
        InputError: the folder or the database has something else, or a setting is at fault.
        KeyboardInterrupt: it was stopped.

    Example:
        >>> import pathlib, tempfile
        >>> from spikegrad.training import Config
        >>> from spikegrad.tuning import Space, Tuning, tune
        >>> path = pathlib.Path(tempfile.mkdtemp())
        >>> space = Space(surrogates=("ATan",), tau=None, size=None)
        >>> study = tune(Tuning(path, Config(hidden=(16,), epochs=1, steps=3), space, trials=2))
        >>> sorted(study.best_params), (path / "trials.csv").exists()
        (['lr', 'slope', 'surrogate'], True)
    """
    if jobs < 1 or tuning.trials < 1:
        raise InputError(f"there must be at least 1 trial and 1 job, got {tuning.trials} and {jobs}")
    tuning.space.require_drawable(tuning.config)
    tuning.write()
    study = tuning.open()
    from spikegrad.tuning.progress import showing

    with showing(tuning, study, console) as show:
        try:
            if jobs == 1:
                work(tuning, study, show)
            else:
                given = {STORAGE: tuning.url}
                processes.run_all("spikegrad.tuning.study:serve", [str(tuning.path)], jobs, tuning.path / "errors.log", show, given)
        finally:
            claims.write(tuning.path / "trials.csv", table(study))
    from spikegrad.tuning.figure import draw

    draw(study, tuning.path)
    return study


def serve() -> None:
    """The main function of a process that works on the folder named by its argument."""

    def run() -> None:
        tuning = Tuning.at(sys.argv[1], os.environ[STORAGE])
        work(tuning, tuning.open())

    processes.serve(run)


def work(tuning: Tuning, study: optuna.Study, told: Callable[[], object] = lambda: None) -> None:
    """Take up what a process of this folder has left, then try new settings until there are enough."""
    import optuna

    states = optuna.trial.TrialState
    while True:
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            if frozen.state == states.RUNNING and tuning.holds(frozen):
                with claim(tuning.path / "claims" / str(frozen.number)) as ours:
                    now = study.get_trials(deepcopy=False)
                    # Its end may have been told since the list was made.
                    if ours and now[frozen.number].state == states.RUNNING:
                        if _count(now[: frozen.number]) < tuning.trials:
                            _try(tuning, study, optuna.Trial(study, frozen._trial_id))  # pyright: ignore[reportPrivateUsage]
                        else:  # another process was faster
                            study.tell(frozen.number, state=states.FAIL)
                told()
        if _count(trials) >= tuning.trials:
            return
        # Whose it is is written in the same step, so that who is killed now leaves no trial that nobody takes up.
        study.add_trial(optuna.create_trial(state=states.RUNNING, user_attrs={"folder": tuning.place}))


def _count(trials: Sequence[optuna.trial.FrozenTrial]) -> int:
    """How many of them count as trials that were asked for."""
    return sum(trial.state.name != "FAIL" for trial in trials)


def _try(tuning: Tuning, study: optuna.Study, trial: optuna.Trial) -> None:
    """Train what a trial has drawn, or what is left of it, and tell what came out: 0 if it diverged."""
    import lightning
    import optuna

    from spikegrad.training.run import DivergedError

    class Told(lightning.Callback):
        def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            epoch = trainer.current_epoch + 1
            trial.report(float(trainer.callback_metrics["validation_accuracy"]), epoch)
            if epoch < tuning.config.epochs and trial.should_prune():
                raise optuna.TrialPruned

    run = Run(tuning.path / "runs" / str(trial.number))
    try:
        config = tuning.space.drawn(tuning.config, trial)
        _require_own(run, config)
        trained(config, run.path, [Told()])
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return
    except DivergedError:
        study.tell(trial, 0.0)
        return
    except InputError:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise
    found = run.read_json("results.json")
    trial.set_user_attr("test_accuracy", found["test_accuracy"])
    study.tell(trial, found["validation_accuracy"])


def _require_own(run: Run, config: Config) -> None:
    """Refuse the run of another study, or of one whose database is gone: its results are none of what was drawn here."""
    if (run.path / "config.json").exists():
        there = Config.read(run.path / "config.json")
        if any(getattr(there, name) != getattr(config, name) for name in ("surrogate", "parameters", "lr", "alpha", "beta", "hidden")):
            raise InputError(f"{run.path} was made by another study; choose another folder with --out")


def table(study: optuna.Study) -> str:
    """A line for each trial: number, state, accuracies, last epoch, and what was drawn."""
    trials = study.get_trials(deepcopy=False)
    names: Any = list(dict.fromkeys(name for trial in trials for name in trial.params))
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["trial", "state", "validation_accuracy", "test_accuracy", "epochs", *names])
    for trial in trials:
        drawn = [trial.params.get(name, "") for name in names]
        told = [f"{x:.6g}" if isinstance(x, float) else x for x in (trial.value, trial.user_attrs.get("test_accuracy", ""), *drawn)]
        epochs = max(trial.intermediate_values, default=0)
        out.writerow([trial.number, trial.state.name.lower(), *told[:2], epochs, *told[2:]])
    return text.getvalue()
