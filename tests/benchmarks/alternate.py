"""What all benchmarks share: things run in turn in one process, the median of their seconds, the machine, the files.

comparison = alternate("2048 features", {"drorae": ours, "torch-fidelity": theirs}, rounds=5)
record("frechet", [comparison], out, note="What bounds it.")
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "results" / "benchmarks"
ROUNDS = 5
"""The fewest of which a median is recorded."""

COMMAND = (sys.executable, "-c", "import sys; from drorae.commands.main import main; sys.exit(main())")
"""The command `drorae` as this Python runs it, wherever its script lies."""

Thing = Callable[[], float | None]
"""Does something; returns its seconds if the wall clock around it would not do."""


@dataclass(frozen=True)
class Comparison:
    """The seconds of things that were run in turn."""

    case: str
    seconds: dict[str, list[float]]
    """By thing, one for every round; the first thing is what the others are measured against."""
    at_most: float | None = None
    """The target of the first thing's median, in seconds."""

    def median(self, thing: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[thing])

    def ratio(self, thing: str) -> float:
        """How many times as long as the first thing: the median over rounds, as what slows a round slows both."""
        first = next(iter(self.seconds.values()))
        return statistics.median(other / one for one, other in zip(first, self.seconds[thing], strict=True))

    @property
    def verdict(self) -> str:
        """Whether the target is met; empty where there is none."""
        if self.at_most is None:
            return ""
        met = self.median(next(iter(self.seconds))) <= self.at_most
        return f"{'at most' if met else 'MISSED: at most'} {self.at_most:g} s"


def alternate(
    case: str,
    things: Mapping[str, Thing],
    *,
    rounds: int = ROUNDS,
    warm_up: bool = True,
    at_most: float | None = None,
) -> Comparison:
    """Runs each thing once per round, the order reversed every other round.

    Args:
        case: what is being compared, for the table.
        things: by name, the own one first.
        rounds: how often each is run.
        warm_up: run each once before, unmeasured.
        at_most: the target for the first thing, in seconds. Default: none.
    """
    seconds: dict[str, list[float]] = {name: [] for name in things}
    if warm_up:
        for thing in things.values():
            thing()
    for number in range(rounds):
        for name in list(things)[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            own = things[name]()
            seconds[name].append(time.perf_counter() - began if own is None else own)
    found = Comparison(case, seconds, at_most)
    said = ", ".join(f"{name} {found.median(name):.3g} s ({found.ratio(name):.2f})" for name in things)
    print(f"{case}: {said} {found.verdict}".rstrip(), flush=True)
    return found


def timed(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> Thing:
    """A thing that counts the seconds of `work` alone, after `before`, whatever they return."""

    def thing() -> float:
        before()
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return thing


def machine() -> str:
    """Names the processor, the threads that torch takes, and the versions of Python and torch."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), model)
    cores, threads = os.cpu_count(), torch.get_num_threads()
    return f"{model}, {cores} cores, {threads} threads; Python {platform.python_version()}, torch {torch.__version__}"


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The medians as a table."""
    lines = ["| case | thing | median s | range | times the first | target |", "|---|---|--:|---|--:|---|"]
    for one in comparisons:
        for number, (thing, seconds) in enumerate(one.seconds.items()):
            spread = f"{min(seconds):.3g} to {max(seconds):.3g}"
            target = "" if number else one.verdict
            lines.append(
                f"| {one.case} | {thing} | {one.median(thing):.3g} | {spread} | {one.ratio(thing):.2f} | {target} |"
            )
    return "\n".join(lines)


def record(name: str, comparisons: Sequence[Comparison], out: Path, note: str = "") -> None:
    """Prints the table and writes it, with the machine and a note, as NAME.md; every single run as NAME.csv.

    Of fewer than `ROUNDS` rounds it writes nothing, and says so: they show that a benchmark runs, and no median.
    """
    where = machine()
    rounds = min(len(seconds) for one in comparisons for seconds in one.seconds.values())
    parts = [markdown(comparisons), note, f"Run in turn, median of {rounds}. {where}."]
    text = "\n\n".join(filter(None, parts))
    print(f"\n{text}", flush=True)
    if rounds < ROUNDS:
        print(f"not written: {rounds} of the {ROUNDS} rounds that a median takes (--rounds)", flush=True)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(f"{text}\n")
    with (out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "thing", "round", "seconds", "machine"])
        for one in comparisons:
            for thing, seconds in one.seconds.items():
                writer.writerows([one.case, thing, n, f"{value:.6g}", where] for n, value in enumerate(seconds, 1))


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks: --rounds and --out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"fewer than {ROUNDS} are shown, not written")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the table and the CSV")
    return parser
