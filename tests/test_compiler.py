"""Where machine code comes from: a cache on disk that many processes share, may not write to, or find empty or damaged; forks; and text."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

numba = pytest.importorskip("numba")
torch = pytest.importorskip("torch")

from tests.conftest import example  # noqa: E402
from tests.forked import NUMBA, ended, finish  # noqa: E402

from spikegrad import ATan, FastSigmoid, Neuron, NoisyThreshold, nn, printing  # noqa: E402
from spikegrad.kernels import cache, text  # noqa: E402
from spikegrad.kernels.cpu import compiler, source  # noqa: E402
from spikegrad.kernels.cpu.compiler import compiled  # noqa: E402
from spikegrad.kernels.plan import Call  # noqa: E402
from spikegrad.neurons import CATALOGUE  # noqa: E402
from spikegrad.trace import Program  # noqa: E402

# Kernels on NumPy's memory: processes for the cache alone need not have PyTorch.
ONES = """
    import numpy as np
    from spikegrad.kernels.cpu.passes import Pass, Sizes
    from spikegrad.kernels.cpu.source import Variant
    from spikegrad.kernels.plan import Call

    class Ones:
        def __init__(self, *shape):
            self.numbers = np.ones(shape, np.float32)

        def data_ptr(self):
            return self.numbers.ctypes.data
"""
FORWARD = f"""{ONES}
    from spikegrad.neurons import LeakyIntegrator

    neuron = LeakyIntegrator(0.5)
    call, sizes = Call(neuron.record, neuron.spike.structure), Sizes(3, 4)
    currents, potentials, last, gradient = Ones(3, 4), Ones(3, 4), Ones(4), Ones(3, 4)
    forward = ("current", 4), ("0", 4), ("first.v", 0.0), ("last.v", 1), ("beta", 0.5)
    Pass(Variant(call, False, "float32"), sizes, forward).run([currents, potentials, last])
    assert potentials.numbers.tolist() == [[1.0] * 4, [1.5] * 4, [1.75] * 4]
    assert last.numbers.tolist() == [1.75] * 4
"""
CALL = f"""{FORWARD}
    numbers = ("beta", 0.5), ("spike.slope", 1.0), ("spike.scale", 1.0)
    backward = *numbers, ("first.v", 0.0), ("bar.0", 0.0), ("bar.v", 1.0), ("grad.current", 4), ("grad.v", None)
    Pass(Variant(call, True, "float32", single=frozenset("0")), sizes, backward).run([gradient])
    assert gradient.numbers[:, 0].tolist() == [0.25, 0.5, 1.0]
"""
MODULES = ("spikegrad_generated_launch", "spikegrad_generated_forward", "spikegrad_generated_backward")
"""What it compiles: the kernels, and what shares them out."""
PRINTED = "spikegrad_generated_elementary"
"""What is only source: the functions that kernels are compiled with."""


def called(program: str, cache: Path | str) -> None:
    """A program that calls kernels, in a process of its own, ends well."""
    finish(program, libraries=NUMBA, environment={"SPIKEGRAD_CACHE": str(cache)}, warnings="error")


def machine_code(cache: Path) -> dict[Path, int]:
    """The files with machine code, and when they were written. (Times of processes tell nothing: on a busy machine any can be slow.)"""
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb*")}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that two processes have filled at once."""
    cache = tmp_path_factory.mktemp("cache")
    for process in ended(CALL, CALL, libraries=NUMBA, environment={"SPIKEGRAD_CACHE": str(cache)}, warnings="error"):
        assert process.code == 0, process.err
    return cache


def test_two_processes_at_once_and_a_third_that_does_not_compile(filled):
    before = machine_code(filled)
    assert before
    assert sorted(path.stem.rpartition("_")[0] for path in filled.rglob("*.py")) == sorted((*MODULES, PRINTED))
    assert {path.name.rpartition("_")[0] for path in before} == set(MODULES)
    assert not list(filled.rglob("*.tmp"))
    called(CALL, filled)
    assert machine_code(filled) == before


def test_nobody_else_can_write_there(filled):
    """Whoever can write machine code there can run it here."""
    assert all(not path.stat().st_mode & 0o022 for path in (filled, *filled.rglob("*")))


@pytest.mark.parametrize("where", [".", f"numba-{numba.__version__}"])
def test_a_cache_that_others_can_write_to_is_not_used(where, tmp_path):
    """It says so; the directory above counts as well, for there it could be exchanged."""
    tmp_path.chmod(0o700)
    (tmp_path / where).mkdir(exist_ok=True)
    (tmp_path / where).chmod(0o777 if where == "." else 0o775)
    script = f"""
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        {textwrap.indent(textwrap.dedent(FORWARD), " " * 8).strip()}
    told = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert len(told) == 1 and "others can write to it" in told[0] and "SPIKEGRAD_CACHE" in told[0], told
    """
    called(script, tmp_path)
    assert not machine_code(tmp_path)


def test_unwritable_cache(tmp_path):
    """Below a file no one can write, nor in /proc; root can in a folder of mode r-x, which others cannot."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir(mode=0o555)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    script = f"import tempfile\ntempfile.tempdir = {str(temporary)!r}\n{textwrap.dedent(FORWARD)}"
    for place in ("/proc/spikegrad", "file/below", "folder"):
        called(script, tmp_path / place)
    assert not any(temporary.iterdir()), "what a process compiles for itself is removed when it ends"


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scrambled(path: Path) -> None:
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))


@pytest.fixture
def copied(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "cache")  # with the times of the files, which Numba compares
    return tmp_path / "cache"


@pytest.mark.parametrize("turn", range(3))
def test_damaged_files_are_not_trusted(turn, copied):
    """A machine that went down left a file empty, or half of it: source, index or machine code, of each module another."""
    damages = (emptied, halved, scrambled)
    for k, (module, kind) in enumerate(zip(MODULES, (".py", ".nbi", ".nbc"), strict=True)):
        paths = [path for path in copied.rglob(f"*{kind}") if path.name.startswith(module)]
        assert paths
        for path in paths:
            damages[(k + turn) % 3](path)
    called(CALL, copied)


def test_missing_files_are_made_again_and_strange_ones_left_alone(copied, filled):
    """What else lies there is neither run nor removed."""
    (folder,) = {path.parent for path in copied.rglob("spikegrad_generated_*.py")}
    for path in copied.rglob("*.nbc"):
        path.unlink()
    strange = [folder / name for name in ("numba.py", "torch.py", "math.py", "spikegrad_generated_forward_0.py")]
    for path in strange:
        path.write_text("raise SystemExit('this ran')")
    called(CALL, copied)
    assert len(machine_code(copied)) == len(machine_code(filled))
    assert all(path.exists() for path in strange)


def test_a_sweep_compiles_once():
    """Numbers are given to the machine code: those of the neuron, and those of its surrogate."""
    gradients, misses = [], []
    for k in range(20):
        layer = nn.Leaky(0.5 + k / 50, 1.0 + k / 100, FastSigmoid(slope=1.0 + k), backend="numba")
        currents = torch.full((3, 4), 0.9, requires_grad=True)
        gradients.append(torch.autograd.grad((layer(currents)[0] * 2).sum(), currents)[0][-1, 0].item())
        misses.append(compiled.cache_info().misses)
    assert len(set(gradients)) == 20
    assert misses[0] == misses[-1]


QUICK = """
    import time
    import torch
    import spikegrad.kernels.torch, spikegrad.kernels.operator
    from spikegrad import nn

    torch.set_num_threads(1)
    layer, currents = nn.Leaky(0.9, backend="numba"), torch.rand(5, 2, 3, requires_grad=True)
    start = time.process_time()
    layer(currents)[0].sum().backward()
    print(time.process_time() - start)
"""


def test_the_first_call_of_all_is_quick(tmp_path):
    """Both passes; of the processor's time, which a busy machine hardly changes."""
    for most in (4.0, 0.5):
        assert float(finish(QUICK, environment={"SPIKEGRAD_CACHE": str(tmp_path)}, warnings="error")) < most


# A neuron of the user's own, in a file.

MINE = """
from spikegrad import Decay, Neuron, State, Step


class Mine(Neuron):
    beta: Decay = 0.75
    gain: float = 0.5
    v: State = 0.0
    trace: State = 0.0

    def step(self, current, v, trace):
        u = self.beta * v + current {sign} self.gain * trace
        s = self.fire(u - 1.0)
        return Step(s, v=self.after_spike(u, s, 1.0), trace=self.beta * trace + s, u=u)
"""
COMPARED = """
import sys
import numpy as np
import torch
import jax
import jax.numpy as jnp
from spikegrad import jax as sj, nn

values = np.random.default_rng(0).normal(0.5, 1.0, (9, 3, 4)).astype("float32")
weight = np.random.default_rng(1).normal(size=values.shape).astype("float32")


def in_pytorch(Mine, backend):
    layer, currents = nn.Layer(Mine(), learn="gain", backend=backend), torch.tensor(values, requires_grad=True)
    spikes, state, u = layer(currents, record="u")
    (spikes * torch.tensor(weight)).sum().backward()
    results = [x.detach().numpy() for x in (spikes, *state, u)]
    return results, [currents.grad.numpy(), layer.gain_value.grad.numpy()]


def in_jax(Mine, backend):
    def loss(currents, gain):
        spikes, state, u = sj.run(Mine(), currents, values={"gain": gain}, record="u", backend=backend)
        return (spikes * weight).sum(), (spikes, *state, u)

    derived = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, results), gradients = derived(jnp.asarray(values), jnp.asarray(0.5))
    return list(results), list(gradients)


def compared(Mine):
    wanted, gradients = in_pytorch(Mine, "reference")
    assert 0.1 < wanted[0].mean() < 0.9
    for run in (in_pytorch, in_jax):
        for backend in ("numba", "reference"):
            found, derived = run(Mine, backend)
            for a, b in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(a, b)
            for a, b in zip(derived, gradients, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return [float(abs(g).sum()) for g in gradients]
"""


def from_file(path: Path) -> type[Neuron]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Mine


def test_a_neuron_in_a_file_runs_fused(tmp_path):
    """In PyTorch and in JAX, forward and backward, as the plain loop; also defined anew under its name, and in another process."""
    pytest.importorskip("jax")
    path, names = tmp_path / "mine.py", {}
    path.write_text(MINE.format(sign="+"))
    exec(COMPARED, names)
    cls = from_file(path)
    first = names["compared"](cls)
    path.write_text(MINE.format(sign="-"))
    again = from_file(path)
    assert again.__qualname__ == cls.__qualname__
    second = names["compared"](again)
    assert first != second
    assert names["compared"](cls) == first
    script = f"{COMPARED}\nsys.path.insert(0, {str(tmp_path)!r})\nfrom mine import Mine\nprint(compared(Mine))"
    assert finish(script, warnings="error").strip() == repr(second)


def test_formulas_of_one_name_in_one_cache_keep_their_machine_code(tmp_path):
    """Numba's own cache would take the machine code of a function of the same name and place."""
    script = f"""{ONES}
    from spikegrad import Decay, Neuron, State, Step

    class Mine(Neuron):
        beta: Decay = 0.5
        v: State = 0.0

        def step(self, current, v):
            u = self.beta * v SIGN current
            return Step(u, v=u)

    call, output = Call(Mine().record, Mine().spike.structure), Ones(3, 1)
    layout = ("current", 1), ("0", 1), ("first.v", 0.0), ("last.v", None), ("beta", 0.5)
    Pass(Variant(call, False, "float32"), Sizes(3, 1), layout).run([Ones(3, 1), output])
    print(output.numbers.ravel().tolist())
    """
    for sign, expected in (("+", "[1.0, 1.5, 1.75]"), ("-", "[-1.0, -1.5, -1.75]")):
        printed = finish(script.replace("SIGN", sign), libraries=NUMBA, environment={"SPIKEGRAD_CACHE": str(tmp_path)}, warnings="error")
        assert printed.strip() == expected


# PyTorch's own thread pool does not survive a fork, so NumPy makes and sums what is large.
FORK = """
    import multiprocessing, os, warnings
    import numpy as np
    import torch
    from spikegrad import nn

    warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
    torch.set_num_threads(2)
    layers = nn.Leaky(0.9, backend="numba"), nn.RecurrentLeaky(64, 0.9, backend="numba")
    values = [np.random.default_rng(0).random(shape, np.float32) for shape in ((30, 2, 4096), (30, 128, 64))]

    def work(_=None):
        torch.set_num_threads(2)
        found = []
        for layer, x in zip(layers, values):
            currents = torch.from_numpy(x).requires_grad_()
            found.append(torch.autograd.grad(layer(currents)[0], currents, torch.from_numpy(x))[0].numpy().sum().item())
        return found

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return torch.tensor(work(), dtype=torch.float64)

    if {before}:
        expected = work()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.map_async(work, range(2)).get(60)
    loader = torch.utils.data.DataLoader(Data(), num_workers=1, multiprocessing_context="fork", timeout=60)
    found += [batch[0].tolist() for batch in loader]
    child = os.fork()
    if child == 0:
        os._exit(0 if work() == found[0] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert found == [found[0]] * 4
    assert work() == found[0]
    if {before}:
        assert expected == found[0]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("before", [True, False])
def test_a_forked_process_runs_a_layer(before):
    """Before and after the parent has run one. Children of the test below compile."""
    finish(FORK.format(before=before), warnings="error")


COMPILING = """
    import os, threading, warnings
    import torch
    import spikegrad.kernels.torch
    from spikegrad import nn

    warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
    torch.set_num_threads(1)
    x = torch.ones(3, 4)
    compiling, other = nn.Synaptic(0.8, 0.9), nn.LeakyIntegrator(0.5)
    nn.Synaptic(0.8, 0.9, backend="reference")(x)  # what PyTorch sets up in its first operations is not made for a fork meanwhile
    thread = threading.Thread(target=lambda: compiling(x))
    thread.start()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            other(x)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_while_another_thread_compiles(tmp_path):
    """The child inherits no lock that nobody there will ever release."""
    finish(COMPILING, environment={"SPIKEGRAD_CACHE": str(tmp_path)}, warnings="error")


# A call as text.


def call_of(neuron: Neuron, **options: Any) -> Call:
    return Call(neuron.record, neuron.spike.structure, **options)


@pytest.mark.parametrize("name", CATALOGUE)
def test_text_says_all_there_is_to_a_call(name):
    neuron = example(name)
    quantized = any(operation == "quantized" for operation, *_ in neuron.record.step.instructions)
    for call in (
        call_of(neuron),
        call_of(neuron, recorded=neuron.record.recorded, quantized=quantized, connection="all-to-all"),
        call_of(neuron, connection="one-to-one"),
    ):
        again = text.read(text.written(call))
        assert again == call
        assert again.key == call.key
        assert text.written(again) == text.written(call)


def test_a_call_is_read_in_another_process():
    """A compiled graph on disk holds a layer as text."""
    call = call_of(example("AdEx", spike=FastSigmoid(slope=3.0)), recorded=("u",))
    script = f"from spikegrad.kernels.text import read\nprint(read({text.written(call)!r}).key)"
    assert finish(script, warnings="error").strip() == call.key


CODE = "__import__('os').abort()"


def changed(*path: Any, to: Any) -> Callable[[Any], None]:
    """Put something in the place that a path leads to."""

    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


BAD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another version": (changed("spikegrad", to=2), "version 2"),
    "a field more": (changed("more", to=1), "fields"),
    "a field less": (lambda data: data.pop("resting"), "fields"),
    "code for a number's name": (changed("numbers", 0, to=f"beta={CODE}"), "no name"),
    "code for a state's name": (changed("states", 0, to=f"v]; {CODE}"), "no name"),
    "code for an input's name": (changed("inputs", 0, to=CODE), "no name"),
    "code for a recorded value's name": (changed("recorded", 0, to=CODE), "no name"),
    "a keyword": (changed("states", 0, to="lambda"), "no name"),
    "an underscore": (changed("states", 0, to="__class__"), "no name"),
    "a newline": (changed("states", 0, to="v\n"), "no name"),
    "letters that look alike": (changed("states", 0, to="ᵥ"), "no name"),
    "a name that means two things": (changed("states", 0, to="beta"), "two things"),
    "a name twice": (changed("numbers", to=["beta", "beta"]), "twice"),
    "a number for a name": (changed("numbers", 0, to=3), "no name"),
    "no input": (changed("inputs", to=[]), ""),
    "an operation that is none": (changed("step", "instructions", 0, 0, to="system"), "no operation 'system'"),
    "code for an operation": (changed("step", "instructions", 0, 0, to=CODE), "no operation"),
    "an operation of a step in a surrogate": (changed("surrogate", "derivative", "instructions", 0, 0, to="fire"), "no operation 'fire'"),
    "code for an operand": (changed("step", "instructions", 0, 1, to=CODE), "no argument"),
    "a later instruction": (changed("step", "instructions", 0, 1, to=5), "no earlier instruction"),
    "a negative instruction": (changed("step", "instructions", 0, 1, to=-1), "no earlier instruction"),
    "itself": (changed("step", "instructions", 0, 1, to=0), "no earlier instruction"),
    "true for an instruction": (changed("step", "instructions", 3, 1, to=True), "no earlier instruction"),
    "a plain number for a literal": (changed("step", "instructions", 0, 1, to=0.5), "no earlier instruction"),
    "code for a literal": (changed("step", "instructions", 0, 1, to=[CODE]), ""),
    "NaN": (changed("step", "instructions", 0, 1, to=["nan"]), "no number"),
    "an operand less": (lambda data: data["step"]["instructions"][0].pop(), "takes 2 operands"),
    "an operand more": (lambda data: data["step"]["instructions"][0].append("v"), "takes 2 operands"),
    "a result less": (lambda data: data["step"]["results"].pop(), "results"),
    "an instruction that is none": (changed("step", "instructions", 0, to="add"), ""),
    "a comparison for a number": (changed("step", "results", 0, to=0), ""),
    "another number of outputs": (changed("outputs", to=3), "results"),
    "true for a number of outputs": (changed("outputs", to=True), "number of outputs"),
    "no outputs": (changed("outputs", to=0), "number of outputs"),
    "a value that the step does not name": (changed("record", to=["threshold"]), "does not name"),
    "a connection that is none": (changed("connection", to="ring"), "no connection 'ring'"),
    "a word for a truth": (changed("quantized", to="no"), "neither true nor false"),
    "another first argument": (changed("surrogate", "arguments", 0, to="y"), ""),
    "too many names": (changed("numbers", to=[f"n{k}" for k in range(10_001)]), ""),
    "a long name": (changed("numbers", 0, to="n" * 101), "no name"),
}


@pytest.mark.parametrize("what", BAD)
def test_text_that_is_no_call_is_refused(what):
    """It may come from a file, and becomes source: every word of it is checked."""
    change, words = BAD[what]
    data = json.loads(text.written(call_of(example("Leaky"), recorded=("u",))))
    if what == "a comparison for a number":
        data["step"]["instructions"].insert(0, ["less", "v", "v"])
        shifted = data["step"]["instructions"][1:]
        for instruction in shifted:
            instruction[1:] = [o + 1 if isinstance(o, int) else o for o in instruction[1:]]
    change(data)
    with pytest.raises(ValueError, match="no layer of spikegrad") as told:
        text.read(json.dumps(data))
    assert words in str(told.value)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("what", ["", "null", "[]", "{}", "{", "[" * 100_000, '"text"', "1e999"])
def test_text_that_is_nothing_is_refused(what):
    with pytest.raises(ValueError, match="no layer of spikegrad"):
        text.read(what)


@pytest.mark.parametrize("name", ["a b", "a=1", "", "1a", CODE, "é", "lambda x"])
def test_the_printer_refuses_names_by_itself(name):
    """A record need not come by way of text."""
    with pytest.raises(ValueError, match="is not a name"):
        printing.Names().fresh(name)
    record = example("Leaky").record
    hostile = dataclasses.replace(record, inputs=(name,), step=renamed(record.step, "current", name))
    with pytest.raises(ValueError, match="is not a name"):
        source.source(source.Variant(Call(hostile, ATan().structure), False, "float32"))


def renamed(program: Program, old: str, new: str) -> Program:
    instructions = tuple((i[0], *(new if o == old else o for o in i[1:])) for i in program.instructions)
    return Program(instructions, program.results)


def test_the_printer_refuses_operations_by_itself():
    record = example("Leaky").record
    step = Program(((CODE, *record.step.instructions[0][1:]), *record.step.instructions[1:]), record.step.results)
    with pytest.raises((ValueError, KeyError)):
        source.source(source.Variant(Call(dataclasses.replace(record, step=step), ATan().structure), False, "float32"))


def test_what_is_drawn_has_no_kernel():
    """Its text is that of any other; a layer refuses the kernels."""
    call = call_of(example("Leaky", spike=NoisyThreshold()))
    assert text.read(text.written(call)) == call


ROW = """
@row
def doubled(count, into, given):
    for j in range(count):
        into[j] = 2 * given[j]


@entry(3)
def kernel(count, into, given):
    doubled(count, reals(into), reals(given))
"""


def test_rows_are_whole_vectors():
    """Of 512 bits, where the processor has them and keeps its clock."""
    code = cache._run("rows", compiler.header("float32") + ROW, None).kernel.inspect_llvm()
    assert "x float>" in code
    assert ("<16 x float>" in code) == compiler._WHOLE
