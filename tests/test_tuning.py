"""The search: what is drawn, a study that goes on after a kill, that processes share, in SQLite and PostgreSQL."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spikegrad.errors import InputError
from spikegrad.ranges import decay
from spikegrad.training import Config
from spikegrad.training.claims import claim
from spikegrad.tuning import Space, Tuning, tune
from spikegrad.tuning.figure import importances

optuna = pytest.importorskip("optuna")
STATES = optuna.trial.TrialState
TINY = {"hidden": (4,), "steps": 3, "epochs": 2, "norm": False, "dropout": 0.0, "accelerator": "cpu"}
SPACE = Space(surrogates=("ATan",), tau=None, tau_syn=None, size=None)


def tuning(data: str, path: Path, trials: int = 3, **changes) -> Tuning:
    return Tuning(path, Config(data=data, **{**TINY, **changes}), SPACE, trials)


def test_space_draws_configurations():
    space = Space(surrogates=("Boxcar", "ATan"), slope=(2, 2), lr=(0.5, 0.5), tau=(10, 10), tau_syn=(5, 5), size=(16, 16))
    base = Config(hidden=(3, 4), neuron="Synaptic", parameters={"threshold": 2.0})
    fixed = optuna.trial.FixedTrial(
        {"surrogate": "Boxcar", "slope": 2.0, "lr": 0.5, "tau": 10.0, "tau_syn": 5.0, "size_1": 16, "size_2": 16}
    )
    drawn = space.drawn(base, fixed)
    assert (drawn.spike.width, drawn.lr, drawn.hidden, drawn.cell.threshold) == (0.5, 0.5, (16, 16), 2.0)
    assert (drawn.cell.beta, drawn.cell.alpha, drawn.decay) == (decay(10.0), decay(5.0), decay(10.0))
    leaky = dataclasses.replace(space, tau_syn=(5, 6)).drawn(Config(), fixed)  # a neuron without a synaptic current
    assert leaky.cell.beta == decay(10.0)
    same = Config(surrogate="ATan", lr=0.25, hidden=(7,))
    off = Space(surrogates=(), slope=None, lr=None, tau=None, tau_syn=None, size=None)
    assert off.drawn(same, optuna.trial.FixedTrial({})) == same


@pytest.mark.parametrize(
    ("options", "said"),
    [({"slope": (5, 1)}, "`slope` must be searched between two positive numbers"), ({"surrogates": ("Atan",)}, "did you mean ATan")],
)
def test_space_refuses(options, said):
    with pytest.raises(InputError, match=said):
        Space(**options)


def test_a_study_is_searched_told_and_gets_more_trials(small, tmp_path):
    first = tuning(small, tmp_path / "out", trials=2)
    study = tune(first)
    trials = study.trials
    assert [trial.state for trial in trials] == [STATES.COMPLETE] * 2
    assert len({trial.params["lr"] for trial in trials}) == 2
    for trial in trials:
        told = json.loads((first.path / "runs" / str(trial.number) / "results.json").read_text())
        config = Config.read(first.path / "runs" / str(trial.number) / "config.json")
        assert trial.value == told["validation_accuracy"]
        assert (config.lr, config.spike.slope) == (trial.params["lr"], trial.params["slope"])
    rows = list(csv.DictReader((first.path / "trials.csv").read_text().splitlines()))
    assert [(row["trial"], row["state"], row["epochs"]) for row in rows] == [(str(n), "complete", "2") for n in range(2)]
    assert float(rows[1]["lr"]) == pytest.approx(trials[1].params["lr"], rel=1e-5)

    more = tune(dataclasses.replace(Tuning.at(first.path), trials=3))
    assert [trial.params for trial in more.trials[:2]] == [trial.params for trial in trials]
    assert len(more.trials) == 3
    with pytest.raises(InputError, match="tunes something else"):
        tune(tuning(small, first.path, epochs=1))
    with pytest.raises(InputError, match="a study 'spikegrad' of something else"):
        tune(dataclasses.replace(tuning(small, tmp_path / "other", epochs=1), storage=first.url))


def test_a_trial_that_was_killed_goes_on_after_its_last_epoch(small, tmp_path, monkeypatch):
    from spikegrad.tuning import study as tuned

    first = tuning(small, tmp_path / "out", trials=1, epochs=3)
    whole, epochs = tuned.trained, list[int]()

    class Killed(BaseException):
        pass

    def killed(config: Config, run: Path, callbacks) -> None:
        def stop(trainer, module) -> None:
            told(trainer, module)
            if trainer.current_epoch == 1:
                raise Killed

        told = callbacks[0].on_train_epoch_end
        callbacks[0].on_train_epoch_end = stop
        whole(config, run, callbacks)

    monkeypatch.setattr(tuned, "trained", killed)
    with pytest.raises(Killed):
        tune(first)
    trial = first.open().trials[0]
    assert (trial.state, list(trial.intermediate_values)) == (STATES.RUNNING, [1, 2])

    with claim(first.path / "claims" / "0"):  # as if its process still ran: it is left alone
        tune(first)
    assert first.open().trials[0].state == STATES.RUNNING

    def counted(config: Config, run: Path, callbacks) -> None:
        told = callbacks[0].on_train_epoch_end
        callbacks[0].on_train_epoch_end = lambda trainer, module: epochs.append(trainer.current_epoch) or told(trainer, module)
        whole(config, run, callbacks)

    monkeypatch.setattr(tuned, "trained", counted)
    ended = tune(first).trials
    assert [trial.state for trial in ended] == [STATES.COMPLETE]
    assert ended[0].params == trial.params
    assert epochs == [2]
    assert list(ended[0].intermediate_values) == [1, 2, 3]


def test_a_trial_whose_maker_was_killed_before_it_began_is_taken_up(small, tmp_path, monkeypatch):
    from spikegrad.tuning import study as tuned

    class Killed(BaseException):
        pass

    def killed(path: Path) -> None:
        raise Killed

    first = tuning(small, tmp_path / "out", trials=1)
    with monkeypatch.context() as patch:
        patch.setattr(tuned, "claim", killed)
        with pytest.raises(Killed):
            tune(first)
    assert [trial.state for trial in first.open().trials] == [STATES.RUNNING]
    assert [trial.state for trial in tune(first).trials] == [STATES.COMPLETE]


def test_a_folder_that_was_moved_goes_on_and_says_when_nothing_is_complete(small, tmp_path, told):
    """Neither where the folder was nor what the machine was called then matters, as in a container that is made anew."""
    first = tuning(small, tmp_path / "out", trials=1)
    first.write()
    first.open().add_trial(optuna.create_trial(state=STATES.RUNNING, user_attrs={"folder": first.place}))
    (tmp_path / "out").rename(tmp_path / "moved")
    with claim(tmp_path / "moved" / "claims" / "0"):  # as if another process trained it
        code, printed, _ = told("tune", "--out", tmp_path / "moved", "--jobs", 1)
    assert (code, "no trial is complete yet: others train all of them" in printed) == (0, True)
    assert [trial.state for trial in tune(Tuning.at(tmp_path / "moved")).trials] == [STATES.COMPLETE]


def test_runs_of_another_study_are_not_taken_for_its_own(small, tmp_path, told, monkeypatch):
    first = tuning(small, tmp_path / "out", trials=1)
    tune(first)
    monkeypatch.setattr(os, "getpid", lambda: 1)  # another process draws other numbers
    code, _, error = told("tune", "--out", first.path, "--study", "other", "--jobs", 1)
    assert (code, "was made by another study; choose another folder" in error) == (2, True)
    (first.path / "study.db").unlink()
    with pytest.raises(InputError, match="was made by another study; choose another folder"):
        tune(first)


def test_a_trial_too_many_is_not_trained(small, tmp_path, monkeypatch):
    """Two processes that each want the last trial make one each; the later one counts for nothing."""
    from spikegrad.tuning import study as tuned

    add, whole, runs = optuna.Study.add_trial, tuned.trained, list[str]()

    def together(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        add(study, trial)
        add(study, trial)

    def counted(config: Config, run: Path, callbacks) -> None:
        runs.append(run.name)
        whole(config, run, callbacks)

    monkeypatch.setattr(optuna.Study, "add_trial", together)
    monkeypatch.setattr(tuned, "trained", counted)
    assert [trial.state for trial in tune(tuning(small, tmp_path / "out", trials=1)).trials] == [STATES.COMPLETE, STATES.FAIL]
    assert runs == ["0"]


def test_what_lags_behind_is_pruned_and_what_diverges_counts_as_nothing(small, tmp_path, monkeypatch):
    from spikegrad.training.run import DivergedError
    from spikegrad.tuning import study as tuned

    first = tuning(small, tmp_path / "out", trials=7, epochs=8)
    seen = list[int]()

    class Trainer:
        def __init__(self, epoch: int, value: float) -> None:
            self.current_epoch, self.callback_metrics = epoch, {"validation_accuracy": value}

    def pretended(config: Config, run: Path, callbacks) -> None:
        run.mkdir(parents=True)
        number = int(run.name)
        if number == 5:
            raise DivergedError("the loss is NaN")
        for epoch in range(3):
            seen.append(number)
            callbacks[0].on_train_epoch_end(Trainer(epoch, 0.5 if number != 6 else 0.1), None)
        (run / "results.json").write_text('{"test_accuracy": 0.25, "validation_accuracy": 0.5}')

    monkeypatch.setattr(tuned, "trained", pretended)
    trials = tune(first).trials
    assert [trial.state for trial in trials] == [STATES.COMPLETE] * 6 + [STATES.PRUNED]
    assert trials[5].value == 0.0
    assert seen.count(6) == 2  # not before a quarter of its epochs
    assert trials[0].user_attrs["test_accuracy"] == 0.25


def study_of(values: list[float]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    for n, value in enumerate(values):
        distributions = {
            "lr": optuna.distributions.FloatDistribution(1e-3, 1, log=True),
            "slope": optuna.distributions.FloatDistribution(1, 9),
        }
        drawn = {"lr": 10 ** (-3 + 3 * (n % 5) / 5), "slope": 1.0 + n % 3}
        study.add_trial(optuna.trial.create_trial(params=drawn, distributions=distributions, value=value, intermediate_values={1: value}))
    return study


def test_importance_is_of_what_made_the_difference():
    found = importances(study_of([0.1 * (n % 5) for n in range(30)]))
    assert list(found) == ["lr", "slope"]
    assert found["lr"] > 0.9
    assert importances(study_of([0.5, 0.5, 0.5])) == {}
    assert importances(study_of([])) == {}


def test_tune_on_the_command_line(small, tmp_path, told):
    options = ["--data", small, "--steps", 3, "--epochs", 1, "--no-norm", "--hidden", 4, "--surrogates", "ATan", "--tau", "off"]
    options += ["--size", "off", "--slope", "2", "--jobs", 1, "--trials", 2, "--out", tmp_path / "out"]
    code, printed, _ = told("tune", *options)
    assert code == 0
    assert "trial 1  validation" in printed
    assert str(tmp_path / "out" / "runs") in printed
    code, printed, _ = told("tune", "--out", tmp_path / "out", "--jobs", 1)
    assert (code, "trial 1  validation" in printed) == (0, False)
    assert Tuning.at(tmp_path / "out").space.slope == (2, 2)
    options = ["--data", small, "--epochs", 1, "--surrogates", "FastSigmoid", "--set", "height=2", "--trials", 1, "--jobs", 1]
    assert told("tune", *options, "--out", tmp_path / "named")[0] == 0
    assert Config.read(tmp_path / "named" / "runs" / "0" / "config.json").spike.height == 2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--slope", "2:x"], "--slope must be a range, as in 0.5:50, a number, or off, got '2:x'"),
        (["--trials", "0"], "--trials must be at least 1"),
        (["--tau", "9:2"], "`tau` must be searched between"),
        (["--storage", "postgres"], "the database is named by a URL, as in postgresql+psycopg://user@host/name, got 'postgres'"),
        (["--storage", "mysql+nothing://host/name"], "the database cannot be used"),
    ],
)
def test_tune_refuses_on_the_command_line(told, tmp_path, options, said):
    code, _, error = told("tune", *options, "--out", tmp_path / "out")
    assert code == 2
    assert said in error


def test_a_password_is_not_written_into_the_folder(tmp_path):
    secret = dataclasses.replace(tuning("digits", tmp_path / "out"), storage="postgresql+psycopg://user:secret@nowhere/name")
    secret.write()
    assert "secret" not in (tmp_path / "out" / "tuning.json").read_text()
    with pytest.raises(InputError, match="has a password, which is not kept; give it with --storage"):
        Tuning.at(tmp_path / "out")
    assert Tuning.at(tmp_path / "out", secret.storage) == secret


def share(small: str, folders: list[Path], storage: str | None, trials: int = 8) -> optuna.Study:
    """Start a command in each folder, kill all in the midst of it, start them again, and give the study at the end."""
    options = ["--data", small, "--hidden", "4", "--steps", "3", "--epochs", "40", "--no-norm", "--size", "off", "--tau", "off"]
    options += ["--surrogates", "ATan", "--trials", str(trials), "--jobs", "1", *(["--storage", storage] if storage else [])]

    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "spikegrad", "tune", *options, "--out", str(folder)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ended() -> int:
        return sum(len(list(folder.glob("runs/*/results.json"))) for folder in set(folders))

    processes = [start(folder) for folder in folders]
    deadline = time.monotonic() + 600
    while ended() < 2:
        time.sleep(0.2)
        assert time.monotonic() < deadline
        assert [process.poll() for process in processes] == [None] * len(processes), [p.communicate() for p in processes]
    for process in processes:
        process.kill()
        process.communicate()
    tuned = Tuning.at(folders[0], storage or "")
    before = {trial.number: trial for trial in tuned.open().trials}
    assert sum(trial.state == STATES.RUNNING for trial in before.values()) >= 1
    again = [start(folder) for folder in folders]
    printed = [process.communicate() for process in again]
    assert [process.returncode for process in again] == [0] * len(again), printed
    study = tuned.open()
    after = [trial for trial in study.trials if trial.state != STATES.FAIL]
    assert len(after) == trials
    assert all(trial.state.is_finished() for trial in after)
    for number, trial in before.items():
        assert trial.params.items() <= study.trials[number].params.items()  # it may have been killed while it drew
        assert trial.value is None or study.trials[number].value == trial.value
    return study


@pytest.mark.slow
def test_two_commands_that_are_killed_share_one_study_in_sqlite(small, tmp_path):
    study = share(small, [tmp_path / "out", tmp_path / "out"], None)
    numbers = {int(path.parent.name) for path in (tmp_path / "out").glob("runs/*/metrics.csv")}
    assert numbers == {trial.number for trial in study.trials if trial.state != STATES.FAIL}


@pytest.fixture
def postgresql(tmp_path: Path):
    """URL of a server of our own, from Debian's package, which the test starts; in a folder of another user if we are root."""
    pytest.importorskip("psycopg")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("Debian's package postgresql is not installed")
    root = os.geteuid() == 0
    if root and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no runuser")
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())

    def run(*command: object) -> None:
        words = ["runuser", "-u", "postgres", "--", *map(str, command)] if root else [*map(str, command)]
        subprocess.run(words, check=True, capture_output=True, cwd="/")

    if root:
        shutil.chown(folder, "postgres")
    server, options = programs[-1] / "pg_ctl", f"-k {folder} -c listen_addresses=''"
    try:
        run(programs[-1] / "initdb", "-D", folder / "data", "-A", "trust", "-U", "spike", "-N")
        run(server, "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
        try:
            yield f"postgresql+psycopg://spike@/postgres?host={folder}"
        finally:
            run(server, "-D", folder / "data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_two_folders_share_one_study_in_postgresql(small, tmp_path, postgresql):
    """As two machines would, which share nothing but the database."""
    study = share(small, [tmp_path / "a", tmp_path / "b"], postgresql)
    runs = [{int(path.parent.name) for path in (tmp_path / name).glob("runs/*/metrics.csv")} for name in "ab"]
    assert all(runs)
    assert not runs[0] & runs[1]
    assert runs[0] | runs[1] == {trial.number for trial in study.trials if trial.state != STATES.FAIL}
    assert (tmp_path / "a" / "importance.png").exists()
    for name in "ab":  # the one that ended first may tell of the other's last trial that it runs
        assert len((tmp_path / name / "trials.csv").read_text().splitlines()) == 1 + len(study.trials)
