"""``spikegrad doctor``: what it finds, and what it says of what does not work. That all is well here its docstring's example tests."""

import pytest

from spikegrad import doctor
from spikegrad.kernels import cache


@pytest.fixture
def checks(monkeypatch):
    """Its checks replaced by those that a test puts there."""
    found = {}
    monkeypatch.setattr(doctor, "CHECKS", found)
    return found


def test_a_fault_is_told_and_is_the_exit_code(checks, told):
    def broken():
        doctor._compare([1.0, 2.5], [1.0, 2.0], "spikes")

    def missing():
        doctor._need("no_such_package")

    checks |= {"broken one": broken, "missing one": missing, "sound one": lambda: None}
    code, printed, said = told("doctor")
    assert (code, said) == (1, "")
    assert any(line.startswith("failed   broken one") and "spikes differ by 0.5" in line for line in printed.splitlines())
    assert any(line.startswith("absent   missing one") and "no_such_package is not installed" in line for line in printed.splitlines())
    assert any(line.startswith("ok       sound one") for line in printed.splitlines())
    del checks["broken one"]
    assert told("doctor")[0] == 0


def test_wrong_numbers_are_found(monkeypatch):
    """The checks compare: with other numbers than the layers', every one of them fails."""
    spikes, gradient = doctor._wanted()
    monkeypatch.setattr(doctor, "_wanted", lambda: (spikes, gradient * (1 + 1e-4)))
    found = {check.name: check for check in doctor.examine().checks}
    tried = {name: check for name, check in found.items() if check.result != "absent" and name != "NumPy"}
    assert len(tried) >= 4
    assert all(check.result == "failed" and "gradients differ" in check.detail for check in tried.values())
    monkeypatch.setattr(doctor, "_wanted", lambda: (1 - spikes, gradient))
    assert not doctor.examine().healthy


def test_a_directory_that_is_not_used_is_told(checks, monkeypatch, tmp_path):
    open_to_all = tmp_path / "cache"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setenv("SPIKEGRAD_CACHE", str(open_to_all))
    cache.directory.cache_clear()
    said = doctor.examine().cache
    assert said.startswith("kept nowhere: ")
    assert "others can write to it" in said
    monkeypatch.setenv("SPIKEGRAD_CACHE", str(tmp_path / "own"))
    cache.directory.cache_clear()
    assert doctor.examine().cache == f"{tmp_path / 'own'}, 0 files, 0 MiB"
    monkeypatch.undo()
    cache.directory.cache_clear()


def test_times(checks, monkeypatch):
    monkeypatch.setattr(doctor, "SIZE", (3, 2, 4))
    found = doctor.examine(timed=True)
    assert all(value > 0 for value in found.times.values())
    assert len(found.times) >= 2
    assert "3 x 2 x 4" in str(found)
