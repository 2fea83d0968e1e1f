"""`drorae reproduce`: the paper's tables and figures, measured again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from drorae.commands.options import Folder, JsonOption, Number, RuntimeOptions, choose, option, require
from drorae.commands.terminal import print_table, say, show, working
from drorae.config import Scale, config_hash
from drorae.errors import UserError
from drorae.metrics.registry import BASELINE
from drorae.storage.files import write_json
from drorae.trial.folder import BROKEN, INSPECTION, TrialStatus

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report.reproduction import Reproduction
    from sweeps.driver.run import SweepOutcome
    from sweeps.published import Exhibit

PREFIXES = {"": "", "phase1": BASELINE, "phase2": "phase2."}
"""What stands before a metric's name in a table of trials, by the phase after which it was measured."""
LAWS = {"capacity": ("table8", "params", "log-linear"), "layers": ("table9", "layers", "linear")}
"""The laws of single axes: whose rows, against what."""


@dataclass(kw_only=True)
class Reproduce(JsonOption, RuntimeOptions):
    """Run what is missing of a table or figure of arXiv 2605.10780, and put its numbers beside the published ones.

    Without ITEM: list what there is.

    Example: drorae reproduce table3 --at smoke
    """

    item: Positional[Annotated[str, option("ITEM", "default: list them")]] = ""
    """table1, table3, table4, table8, table9, scaling, figure4, figure6, figure7 or figure9."""
    at: Scale = "quickstart"
    """Size: the paper's (ImageNet, GPUs), or that of a preset for CPUs, whose orders and shapes compare."""
    seeds: Annotated[tuple[int, ...], option("N")] = (0,)
    """Every trial is run with each; from two on the table has standard errors."""
    generator: Annotated[int, option("EPOCHS")] = 0
    """Epochs of a generator behind every trial's tokenizer, for the columns of table1, table3 and table4 that generated
    images fill; 0: none, and these columns stay empty or out."""
    root: Folder = Path("runs")
    """Folder of all sweeps."""
    cpus_per_trial: Number = 1.0
    """CPUs of one trial."""
    address: Annotated[str, option("ADDRESS")] = ""
    """A Ray cluster to join; empty: a local one."""
    dry_run: bool = False
    """List the trials and run nothing."""

    def run(self) -> int:
        """Prints the table; 0, or 1 where a trial is broken or missing."""
        from sweeps.published import EXHIBITS, check_drawn, study

        if not self.item:
            self._list()
            return 0
        exhibit = choose(EXHIBITS, self.item, "ITEM", "table or figure")
        require(bool(self.seeds) and len(set(self.seeds)) == len(self.seeds), f"--seeds {self.seeds}", "distinct seeds")
        require(self.generator >= 0, f"--generator {self.generator}", "a number of epochs, or 0 for no generator")
        check_drawn(exhibit, self.generator)
        spec = study(exhibit.study, self.at, self.seeds, self.generator)
        if self.dry_run:
            from drorae.commands.sweep import print_plan
            from sweeps.spec import expand

            print_plan(expand(spec), self.as_json)
            return 0
        from sweeps.driver.run import run_sweep
        from sweeps.resources import Resources

        outcome = run_sweep(
            spec,
            root=self.root,
            runtime=self.runtime(),
            resources=Resources(cpus=self.cpus_per_trial, address=self.address),
        )
        self._report(exhibit, outcome)
        return 1 if any(outcome.counts.get(status) for status in (*BROKEN, TrialStatus.MISSING)) else 0

    def _list(self) -> None:
        from sweeps.published import EXHIBITS

        rows = [(item.name, item.title, item.study) for item in EXHIBITS.values()]
        tree = [dict(zip(("item", "shows", "study"), row, strict=True)) for row in rows]
        self.answer({"items": tree}, lambda: print_table(("item", "shows", "study"), rows))

    def _report(self, exhibit: Exhibit, outcome: SweepOutcome) -> None:
        """Prints and writes what the paper has and what was measured."""
        from analysis.table.files import read_table
        from sweeps.published import deviations

        folder = outcome.directory / "reproduce"
        folder.mkdir(exist_ok=True)
        frame = read_table(outcome.trials_csv)
        found = self._beside(exhibit, frame)
        header, rows = found.table()
        notes = [*exhibit.remarks, *deviations(self.at, self.generator)]
        numbers = self._numbers(exhibit, outcome.directory) if exhibit.pictures else {}
        laws = self._laws(frame, folder) if exhibit.name == "scaling" else {}
        words = [*found.orders(), *(law["text"] for law in laws.values())]
        words += [f"{name}: {ours:.4g}" + ("" if paper is None else f" (paper: {paper:g})")
                  for name, (paper, ours) in numbers.items()]  # fmt: skip
        pictures = self._pictures(exhibit, outcome.directory, folder)
        pictures += [folder / name / "law.png" for name in laws]
        _write(exhibit, folder, (header, rows), words, notes, pictures)
        if exhibit.rows:
            found.frame().to_csv(folder / f"{exhibit.name}.csv", index=False)
        tree = {
            "item": exhibit.name, "at": self.at, "seeds": list(self.seeds), "counts": outcome.counts,
            **({"generator_epochs": self.generator} if self.generator else {}),
            "rows": {name: {column: {"published": cell.published, "metric": found.metrics[column],
                                     "measured": list(cell.measured)} for column, cell in cells.items()}
                     for name, cells in found.rows.items()},
            "orders": found.orders(), "laws": laws, "numbers": numbers, "deviations": notes,
            "directory": str(folder),
        }  # fmt: skip
        write_json(folder / f"{exhibit.name}.json", tree)

        def in_words() -> None:
            if rows:
                print_table(header, rows, f"{exhibit.name}: {exhibit.title}, at {self.at}")
            show("\n".join([*words, "", *(f"- {note}" for note in notes)]))

        self.answer(tree, in_words)
        page = folder / f"{exhibit.name}.md"
        say(f"written: {page}", keep=[page])

    def _beside(self, exhibit: Exhibit, frame: pd.DataFrame) -> Reproduction:
        """Published numbers beside measured ones: those of tokenizers, then those of the generators behind them."""
        return self._columns(exhibit, frame, drawn=False).beside(self._columns(exhibit, frame, drawn=True))

    def _columns(self, exhibit: Exhibit, frame: pd.DataFrame, drawn: bool) -> Reproduction:
        from analysis.report.reproduction import reproduce
        from sweeps.published import is_drawn, metric_of, published_columns, row_configs

        rows = {row.name: [config_hash(each) for each in
                           row_configs(exhibit, row, self.at, self.seeds, self.generator, drawn)]
                for row in exhibit.rows}  # fmt: skip
        published = {row.name: {column: value for column, value in published_columns(row, self.generator).items()
                                if is_drawn(column) == drawn}
                     for row in exhibit.rows}  # fmt: skip
        columns = dict.fromkeys(column for values in published.values() for column in values)
        metrics = {column: metric_of(column, self.at, self.generator) for column in columns}
        # A generator comes after its trial's last phase.
        prefixes = {row.name: "" if drawn else PREFIXES[row.after] for row in exhibit.rows}
        return reproduce(frame, rows, published, metrics, prefixes)

    def _numbers(self, exhibit: Exhibit, directory: Path) -> dict[str, tuple[float | None, float]]:
        """What the paper prints in a figure, and what the default trial's inspection measures; by name."""
        inspection = _first_trial(self, directory) / INSPECTION
        if not inspection.is_file():
            return {}
        measured: dict[str, float] = json.loads(inspection.read_text())
        names = list(exhibit.numbers)
        if exhibit.name == "figure7":
            names = [name for name in measured if name.startswith(("gradient_correlation", "least_logit"))]
        return {name: (exhibit.numbers.get(name), measured[name]) for name in names if name in measured}

    def _pictures(self, exhibit: Exhibit, directory: Path, folder: Path) -> list[Path]:
        """The default trial's pictures, copied beside the table."""
        found = []
        for name in exhibit.pictures:
            source = _first_trial(self, directory) / name
            if source.is_file():
                found.append(folder / f"{exhibit.name}-{name}")
                shutil.copyfile(source, found[-1])
        return found

    def _laws(self, frame: pd.DataFrame, folder: Path) -> dict[str, dict[str, Any]]:
        """The laws of capacity, of layers, and of both together, each with its report."""
        from sweeps.published import EXHIBITS, metric_of, row_configs

        metric = metric_of("rFID", self.at)
        found: dict[str, dict[str, Any]] = {}
        for name, (item, x, law) in LAWS.items():
            exhibit = EXHIBITS[item]
            hashes = [config_hash(each) for row in exhibit.rows
                      for each in row_configs(exhibit, row, self.at, self.seeds)]  # fmt: skip
            found |= _law(frame[frame["config_hash"].isin(hashes)], x, metric, law, folder, name)
        return found | _law(frame, "params", metric, "log-linear", folder, "pooled")


PUBLISHED_LAWS = {
    "capacity": "slope -0.058 per decade, R2 0.86; its own table gives -0.0564, 0.8605",
    "layers": "slope -6.2e-3 per layer, R2 0.49; its own table gives -0.0062, 0.4843",
    "pooled": "slope -0.058 per decade, R2 0.59; its own tables, the shared run once, give -0.0557, 0.5642",
}
"""What arXiv 2605.10780 prints (Figure 5, Appendix C), and what a refit of its tables gives (results/paper)."""


def _law(frame: pd.DataFrame, x: str, metric: str, law: str, folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """One law with its report; a note, and nothing, where there are too few trials for it."""
    from analysis.report.outcome import fit_table

    try:
        with working(f"fitting the law of {name}"):
            outcome = fit_table(frame, x, [metric], law, (TrialStatus.UNCONVERGED,), out=folder / name)
    except UserError as error:
        say(f"note: no law of {name}: {error}")
        return {}
    fit = outcome.trees[0]
    low, high = fit["slope_ci95"]
    text = (
        f"{name}: {metric} slope {fit['slope']:.4g} ({low:.4g} .. {high:.4g}), R2 {fit['r2']:.2f} "
        f"(paper: {PUBLISHED_LAWS[name]})"
    )
    return {name: {"text": text, "fit": fit}}


def _first_trial(options: Reproduce, directory: Path) -> Path:
    """The folder of the paper's default trial, the first seed's."""
    from sweeps.folder.sweep import trial_place
    from sweeps.published import EXHIBITS, row_configs

    exhibit = EXHIBITS["table1"]
    config = row_configs(exhibit, exhibit.rows[-1], options.at, options.seeds, options.generator)[0]
    return directory / trial_place(config_hash(config))


def _write(
    exhibit: Exhibit,
    folder: Path,
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    words: Sequence[str],
    notes: Sequence[str],
    pictures: Sequence[Path],
) -> None:
    """Writes an exhibit's page in Markdown."""
    header, rows = table
    lines = [f"# {exhibit.name}: {exhibit.title}", ""]
    if rows:
        line: Callable[[Sequence[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
        lines += [line(header), line(["---"] * len(header)), *map(line, rows), ""]
    lines += [f"- {word.strip()}" for word in words] + [""] * bool(words)
    places = [path.relative_to(folder).as_posix() for path in pictures]
    lines += [f"![{place}]({place})" for place in places] + [""] * bool(places)
    lines += ["What differs from the paper:", "", *(f"- {note}" for note in notes), ""]
    (folder / f"{exhibit.name}.md").write_text("\n".join(lines))
