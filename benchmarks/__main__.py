"""``python -m benchmarks NAME ... [--quick] [--device cuda] [--out DIR] [--against CHECKOUT]``."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine, report
from benchmarks.measure import DisagreementError, Effort, Report

if TYPE_CHECKING:
    from benchmarks.card import Card

NAMES = ("layer", "kernels", "neurons", "recurrent", "network", "compat", "memory", "scaling", "crossing", "startup")
ON_CARDS = ("layer", "network", "neurons")
"""What is measured on GPUs too."""
CARD_ROUNDS = 15
AGAINST = "against"
"""What is not run with the others, since it needs another checkout."""
RESULTS = Path(__file__).parent / "results"
THREADS = 2
"""What a small machine has; the same for everyone."""


def measure(name: str, effort: Effort, out: Path, against: Path | None = None, card: Card | None = None) -> None:
    """Run one benchmark, or the comparison with another checkout, print it, write it; on a card as ``NAME-DEVICE``."""
    import torch

    if card is not None:
        from benchmarks import cuda

        found = Report()
        try:
            cuda.RUN[name](effort, card, found)
        except KeyboardInterrupt:  # time on a card is dear: what was measured is kept
            found.skipped.append("the rest: it was stopped")
        about = machine.described(torch.get_num_threads()) | {"quick": effort.quick, "rounds": effort.rounds}
        about["machine"] = {**machine.described(torch.get_num_threads())["machine"], **machine.card(card.device)}
        name = f"{name}-{card.device}"
        report.show(name, found)
        print(report.write(name, found, about, out))
        return

    # A team of threads that cannot all run waits for itself: on a busy machine a tiny size takes a hundred times as long.
    torch.set_num_threads(1 if effort.quick else min(THREADS, machine.cores()))
    found = importlib.import_module(f"benchmarks.{name}").run(effort, *([] if against is None else [against]))
    about = machine.described(torch.get_num_threads()) | {"quick": effort.quick, "rounds": effort.rounds}
    report.show(name, found)
    print(report.write(name, found, about, out))
    from benchmarks import plots

    if effort.quick:
        del found.sections[1:]  # one figure shows that they can be drawn
    plots.draw(name, found, out)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Prove that both sides compute the same, then time them in one run."
    )
    parser.add_argument("names", nargs="+", metavar="NAME", choices=(*NAMES, "all", "docs"), help=", ".join((*NAMES, "all", "docs")))
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: layer, network and neurons on a GPU, at most three minutes each"
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of each benchmark on a GPU, at most; what does not fit is left out (3)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="this checkout against another one: with `kernels` in place of it, with `network` beside it",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, in seconds, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: benchmarks/results)")
    parser.add_argument("--page", type=Path, default=Path(__file__).parents[1] / "docs/benchmarks.md", help="what `docs` writes")
    chosen = parser.parse_args(arguments)
    if chosen.names == ["docs"]:
        from benchmarks import page

        page.write(chosen.out, chosen.page)
        print(chosen.page)
        return 0
    if "docs" in chosen.names or ("all" in chosen.names and len(chosen.names) > 1):
        parser.error("`all` and `docs` go alone")
    if chosen.against is not None and (chosen.names not in (["kernels"], ["network"]) or not (chosen.against / "src").is_dir()):
        parser.error("--against goes with `kernels` or `network`, and names a checkout of spikegrad, a folder that has src/")
    names = NAMES if chosen.names == ["all"] else (AGAINST,) if chosen.names == ["kernels"] and chosen.against else chosen.names
    if chosen.device == "cuda":
        names = ON_CARDS if chosen.names == ["all"] else names
        if other := [name for name in names if name not in ON_CARDS]:
            parser.error(f"--device cuda goes with {', '.join(ON_CARDS)}, not with {other[0]}")
        if (missing := machine.without_cuda()) is not None:
            print(missing, file=sys.stderr)
            return 2
    effort = Effort(rounds=2, seconds=0.0, quick=True) if chosen.quick else Effort(rounds=CARD_ROUNDS if chosen.device == "cuda" else 15)
    if chosen.device == "cuda":
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = False
    for name in names:
        try:
            card = None
            if chosen.device == "cuda":
                from benchmarks.card import Cuda

                card = Cuda(chosen.minutes)  # whose time begins now
            measure(name, effort, chosen.out, chosen.against, card)
        except DisagreementError as difference:
            print(f"{name}: nothing is reported, since both sides do not compute the same. {difference}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
