"""How often nominal 95% intervals hold, by simulation: `make coverage`.

Every row is seeded. Rows of the default path must lie between 93.5% and 96.5%; rows of a wrong law show what the form
costs; rows of the tool judge its verdicts and envelope on data that saturate.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.axes import analyse_axes
from analysis.inference.designs import compare_designs
from analysis.inference.evidence import CANDIDATES, HORIZON, compare_laws
from analysis.inference.verdicts import no_saturation, trend
from analysis.laws.curves import Profile, grid
from analysis.laws.decoders import decoder_lines
from analysis.laws.forms import FORMS
from analysis.laws.intervals import (
    Interval,
    Sample,
    law_interval,
    parameter_intervals,
    points,
    run_interval,
)
from analysis.laws.noise import replication, weights_of
from analysis.table.decoders import DECODER
from analysis.table.selection import select

LINE = (0.9, -0.05)
SATURATING = (0.3, 0.2, 0.3)
"""E, A, b of 0.3 + 0.2 x^-0.3, which looks log-linear over two decades about x = 1."""

SMALLEST, LARGEST = 0.1, 10.0

FALSE_WINNERS = 0.06
"""Share of comparisons of equal designs that may name a winner."""

UNEQUAL = ((5, 4, 3, 3, 2, 2, 1, 1), (8, 1, 1, 1, 1, 1, 1, 8), (1, 1, 8, 8, 8, 8, 1, 1), (6, 2, 2, 2, 2, 2, 2, 6))
"""Runs of eight configurations: falling, heavy ends, heavy middle, every one replicated."""


@dataclass(frozen=True)
class Row:
    """One simulated interval."""

    part: str
    """default: must cover 0.935 to 0.965; other: for comparison; wrong form; tool; compare: at most `FALSE_WINNERS`."""
    truth: str
    law: str
    n: str
    sd: float
    quantity: str
    replications: int
    coverage: float
    """Share of replications in which it held (for verdicts and winners: in which it was given)."""
    width: float
    """Median width; nan where it has none."""


def sizes_of(n: int) -> np.ndarray:
    """n sizes over two decades about 1, evenly spaced in their logarithm, of shape (n, 1)."""
    return np.geomspace(SMALLEST, LARGEST, n)[:, None]


PAIRS = np.array([(n, d) for n in np.geomspace(5e7, 1e10, 5) for d in np.geomspace(1e9, 5e11, 5)])
"""Sizes of two axes, shape (25, 2)."""

ADDITIVE: dict[str, tuple[float, ...]] = {
    # Hoffmann et al. (2022), equation 10.
    "two-powers": (1.69, 406.4, 410.7, 0.34, 0.28),
    "log-plane": (4.0, -0.3, -0.2),
    "plane": (4.0, -0.3, -2e-11),
}
"""Truths without an interaction, by their law's name; the scatter that suits them is 0.01."""


def additivity(kind: str, sd: float, replications: int, seed: int) -> list[Row]:
    """How often two axes that do not interact are said to, and whether that is tested in the law that is true."""
    truth = FORMS[kind].value(PAIRS, ADDITIVE[kind])
    own, rejected, refuted = 0, 0, 0
    for k in range(replications):
        loss = truth + np.random.default_rng(seed + k).normal(0, sd, len(PAIRS))
        table = pd.DataFrame({"params": PAIRS[:, 0], "tokens": PAIRS[:, 1], "loss": loss})
        found = analyse_axes(table, "params", "tokens", "loss")
        own += found.additive.name == kind
        rejected += len(found.tests) == 3 and found.tests[2].p_value < 0.05
        refuted += found.verdicts[2].verdict == "not supported"
    shares = {
        "interaction resolved at 5%": rejected,
        "'additive' not supported": refuted,
        "the true kind of law is the one tested in": own,
    }
    truth_name = f"{kind} " + " ".join(f"{value:g}" for value in ADDITIVE[kind])
    return [
        Row("tool", truth_name, "two axes", str(len(PAIRS)), sd, name, replications, count / replications, np.nan)
        for name, count in shares.items()
    ]


def _row(
    part: str, truth: str, law: str, n: int | str, sd: float, quantity: str, ends: tuple[np.ndarray, np.ndarray],
    value: np.ndarray | float,
) -> Row:  # fmt: skip
    low, high = ends
    width = high - low
    held = (low <= value) & (value <= high)
    return Row(part, truth, law, str(n), sd, quantity, len(low), float(held.mean()), float(np.median(width)))


def single_runs(law: str, parameters: tuple[float, ...], n: int, sd: float, replications: int, seed: int) -> list[Row]:
    """One run per size, the law that is true: its parameters, the law and a new run 0.3 decade beyond the data."""
    form, x = FORMS[law], sizes_of(n)
    rng = np.random.default_rng(seed)
    at = np.array([[LARGEST * 10**HORIZON]])
    y = form.value(x, parameters) + rng.normal(0, sd, (replications, n))
    new = float(form.value(at, parameters)[0]) + rng.normal(0, sd, replications)
    # Exponents on one grid for all data sets: finer than any interval is wide.
    box = {"power": [(-1.0, 1.0)], "power-offset": form.box(x)}.get(law, [])
    t = grid(box, 801 if box else None)
    profile = Profile(form, x, t)
    part = "default" if not form.curved else "other"
    functional = form.basis(at, t)[0][:, 0]
    rows = []
    for first in range(0, replications, 500):
        block = slice(first, first + 500)
        ends = [profile.interval(y[block], np.eye(len(form.coefficients))[j] + 0 * functional)
                for j in range(len(form.coefficients))]  # fmt: skip
        ends += [profile.interval(y[block], functional), profile.interval(y[block], functional, 1.0)]
        if form.curved:
            ends.append(_curved_ends(profile, y[block]))
        rows.append(ends)
    joined = [tuple(np.concatenate([block[i][k] for block in rows]) for k in (0, 1)) for i in range(len(rows[0]))]
    beyond = f"+{HORIZON} decade"
    quantities = [*form.coefficients, f"law at {beyond}", f"new run at {beyond}", *form.curved]
    values: list[np.ndarray | float] = [*parameters[: len(form.coefficients)]]
    values += [float(form.value(at, parameters)[0]), new, *parameters[len(form.coefficients) :]]
    truth = f"{law} " + " ".join(f"{value:g}" for value in parameters)
    return [
        _row(part, truth, law, n, sd, quantity, (ends[0], ends[1]), value)
        for quantity, ends, value in zip(quantities, joined, values, strict=True)
    ]


def _curved_ends(profile: Profile, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Profile interval of the only curved parameter, open where it reaches the end of the grid."""
    rss = profile.rss(y)
    excess = rss - rss.min(axis=1, keepdims=True) * (1 + stats.t.ppf(0.975, profile.dof) ** 2 / profile.dof)
    kept, rows, last = excess <= 0, np.arange(len(y)), len(profile.t) - 1

    def crossing(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Where between two neighbours on the grid the misfit passes the limit, linearly."""
        here, there = excess[rows, inside], excess[rows, outside]
        share = np.divide(here, here - there, out=np.zeros_like(here), where=here != there)
        between = profile.t[inside] + share[:, None] * (profile.t[outside] - profile.t[inside])
        return profile.form.natural(between)[:, 0]

    first, end = kept.argmax(axis=1), last - kept[:, ::-1].argmax(axis=1)
    low, high = crossing(first, np.maximum(first - 1, 0)), crossing(end, np.minimum(end + 1, last))
    return np.where(kept[:, 0], -np.inf, low), np.where(kept[:, -1], np.inf, high)


def replicated(
    runs: tuple[int, ...], between: float, replications: int, seed: int, bootstrap: int = 0, rise: float = 1.0
) -> Iterator[Row]:
    """Configurations of several seeds each, which scatter by `between` themselves; a line is true.

    The seeds' sd is 1 in the middle of the sizes and `rise` times as large at the largest as at the smallest.

    The default path, means with their weights; for comparison every run as a size of its own, and the wild cluster
    bootstrap on the first `bootstrap` replications.
    """
    counts = np.array(runs)
    u = np.log10(sizes_of(len(runs))[:, 0])
    rng = np.random.default_rng(seed)
    form, x, at = FORMS["log-linear"], sizes_of(len(runs)), np.array([[LARGEST * 10**HORIZON]])
    owner = np.repeat(np.arange(len(runs)), counts)
    sd = rise ** (u / float(np.ptp(u)))
    beyond = rise ** ((u[-1] + HORIZON) / float(np.ptp(u)))
    values = rng.normal(0, between, (replications, len(runs)))[:, owner]
    values = values + rng.normal(0, 1, (replications, len(owner))) * sd[owner]
    means = np.stack([values[:, owner == k].mean(axis=1) for k in range(len(runs))], axis=1)
    seed_dof = len(owner) - len(runs)
    seed_sd = np.sqrt(np.sum((values - means[:, owner]) ** 2, axis=1) / seed_dof)
    new_mean = rng.normal(0, between, replications) + rng.normal(0, beyond, replications) / np.sqrt(counts[0])
    new_run = rng.normal(0, between, replications) + rng.normal(0, beyond, replications)
    design = np.column_stack([np.ones_like(u), u])
    ends: dict[str, list[tuple[float, float]]] = {name: [] for name in ("slope", "law", "run", "mean")}
    for i in range(replications):
        seeds = replication(x[:, 0], values[i], owner)
        assert seeds is not None
        weights = weights_of(design, means[i], seeds.of_means) if seeds.weighed else np.ones(len(runs))
        sample = Sample(x, means[i], counts, weights, float(seed_sd[i]), seed_dof, seeds.typical, seeds)
        fit = sample.fit(form)
        ends["slope"].append(parameter_intervals(fit)["slope"])
        for name, (low, high) in (
            ("law", law_interval(fit, at)),
            ("run", run_interval(fit, sample, at)),
            ("mean", run_interval(fit, sample, at, counts[0])),
        ):
            ends[name].append((float(low[0]), float(high[0])))
    n = f"{len(runs)} x {counts[0]}" if len(set(runs)) == 1 else f"{len(runs)} x {counts.min()}-{counts.max()}"
    truth = f"line; configurations sd {between:g}; seeds sd 1" + f", times {rise:g} over the sizes" * (rise != 1)

    def made(part: str, law: str, quantity: str, pairs: np.ndarray, value: np.ndarray | float) -> Row:
        return _row(part, truth, law, n, 1.0, quantity, (pairs[:, 0], pairs[:, 1]), value)

    yield made("default", "log-linear", "slope", np.array(ends["slope"]), 0.0)
    yield made("default", "log-linear", "law at +0.3 decade", np.array(ends["law"]), 0.0)
    yield made("default", "log-linear", "new run at +0.3 decade", np.array(ends["run"]), new_run)
    if len(set(runs)) == 1:
        name = f"mean of {counts[0]} new runs at +0.3 decade"
        yield made("default", "log-linear", name, np.array(ends["mean"]), new_mean)
    every = Profile(form, x[owner], np.zeros((1, 0)))
    naive = np.column_stack(every.interval(values, np.array([[0.0, 1.0]])))
    yield made("other", "log-linear; seeds taken for sizes", "slope", naive, 0.0)
    if bootstrap:
        wild = np.array([wild_cluster_bootstrap(u[owner], row, owner, 999) for row in values[:bootstrap]])
        yield made("other", "log-linear; wild cluster bootstrap", "slope", wild, 0.0)


def shared_decoder(count: int, level: float, tilt: float, replications: int, seed: int) -> list[Row]:
    """Decoders drawn at random, each at the same eight sizes: intervals for new ones, and what one decoder tells.

    Points scatter by 0.1 about their decoder's line; decoders' levels by `level`, their slopes per decade by `tilt`.
    """
    rng, x = np.random.default_rng(seed), sizes_of(8)[:, 0]
    names = np.repeat([f"decoder {i}" for i in range(count)], len(x))
    frame = pd.DataFrame({DECODER: names, "params": np.tile(x, count), "y": 0.0})
    frame.attrs["mix_decoders"] = True
    runs, which = select(frame, "params", "y"), np.repeat(np.arange(count), len(x))
    end = np.array([1.0, np.log10(LARGEST) + HORIZON])
    ends: dict[str, list[Interval]] = {"slope": [], "law": [], "run": [], "one": []}
    for _ in range(replications):
        y = rng.normal(0, level, count)[which] + rng.normal(0, tilt, count)[which] * np.log10(runs.x)
        found = decoder_lines(replace(runs, y=y + rng.normal(0, 0.1, len(y))), True)
        assert found is not None
        ends["slope"].append(found.new(np.array([0.0, 1.0])))
        ends["law"].append(found.new(end))
        ends["run"].append(found.run(end))
        ends["one"].append(found.here(np.array([0.0, 1.0])))
    fresh = rng.normal(0, level, replications) + rng.normal(0, tilt, replications) * end[1]
    values = {"slope": 0.0, "law": 0.0, "run": fresh + rng.normal(0, 0.1, replications), "one": 0.0}
    said = {
        "slope": ("default", "slope, new decoders"),
        "law": ("default", f"law at +{HORIZON} decade, new decoders"),
        "run": ("default", f"new run at +{HORIZON} decade, new decoder"),
        "one": ("other", "slope, interval for these decoders"),
    }
    truth = f"shared decoder: line; decoders' levels sd {level:g}, slopes sd {tilt:g}"
    return [
        _row(part, truth, "log-linear", f"{count} x 8", 0.1, quantity, tuple(np.array(ends[name]).T), values[name])
        for name, (part, quantity) in said.items()
    ]


def wild_cluster_bootstrap(
    u: np.ndarray, y: np.ndarray, clusters: np.ndarray, replications: int = 1999, seed: int = 0
) -> Interval:
    """95% interval of the slope of y on u, runs (n,) of which those with the same cluster number share a configuration.

    Residuals, divided by sqrt(1 - leverage) (HC2), are multiplied by one of Webb's six weights per cluster; the
    interval is the slope +/- the 95% quantile of |slope* - slope|, inflated by
    sqrt(C / (C - 2)) t(.975, C - 1) / 1.96, since the bootstrap's own variance is too small with few clusters
    (Cameron, Gelbach and Miller 2008; Webb 2014).
    """
    _, number = np.unique(clusters, return_inverse=True)
    count = int(number.max()) + 1
    if count < 4:
        raise ValueError(f"wild cluster bootstrap: {count} configurations; expected at least 4")
    design = np.column_stack([np.ones_like(u), u - u.mean()])
    inverse_design = np.linalg.inv(design.T @ design)
    coefficients = inverse_design @ design.T @ y
    hat = np.einsum("ij,jk,ik->i", design, inverse_design, design)
    left = (y - design @ coefficients) / np.sqrt(1 - hat)
    # The bootstrap slope less the slope is linear in the clusters' weights.
    pull = np.bincount(number, weights=(inverse_design @ design.T)[1] * left, minlength=count)
    webb = np.array([-np.sqrt(1.5), -1, -np.sqrt(0.5), np.sqrt(0.5), 1, np.sqrt(1.5)])
    draws = webb[np.random.default_rng(seed).integers(0, 6, (replications, count))] @ pull
    inflation = np.sqrt(count / (count - 2)) * stats.t.ppf(0.975, count - 1) / stats.norm.ppf(0.975)
    half = float(np.quantile(np.abs(draws), 0.95) * inflation)
    return Interval(float(coefficients[1]) - half, float(coefficients[1]) + half)


def wrong_form(n: int, sd: float, replications: int, seed: int) -> list[Row]:
    """A line fitted to a law that saturates: a new run at three distances."""
    form, x = FORMS["power-offset"], sizes_of(n)
    rng = np.random.default_rng(seed)
    y = form.value(x, SATURATING) + rng.normal(0, sd, (replications, n))
    line = Profile(FORMS["log-linear"], x, np.zeros((1, 0)))
    rows = []
    for decades in (HORIZON, 1.0, 2.0):
        at = np.array([[LARGEST * 10**decades]])
        new = float(form.value(at, SATURATING)[0]) + rng.normal(0, sd, replications)
        functional = FORMS["log-linear"].basis(at, line.t)[0][:, 0]
        ends = line.interval(y, functional, 1.0)
        rows.append(
            _row(
                "wrong form",
                "power-offset 0.3 0.2 0.3",
                "log-linear",
                n,
                sd,
                f"new run at +{decades:g} decade",
                ends,
                new,
            )
        )
    return rows


def tool(
    n: int, sd: float, replications: int, seed: int, saturating: bool = True, names: tuple[str, ...] = CANDIDATES
) -> list[Row]:
    """The whole tool: its envelope 0.3 decade out and at its own horizon, and what it says of the two great claims."""
    form, parameters = ("power-offset", SATURATING) if saturating else ("log-linear", LINE)
    rng = np.random.default_rng(seed)
    x = sizes_of(n)
    held: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}

    def note(name: str, value: bool, width: float = np.nan) -> None:
        held.setdefault(name, []).append(value)
        widths.setdefault(name, []).append(width)

    for _ in range(replications):
        sample = points(x, FORMS[form].value(x, parameters) + rng.normal(0, sd, n))
        comparison = compare_laws(sample, names)
        limits = comparison.horizon
        error = rng.normal(0, sd)
        for name, decades in ((f"envelope of a new run at +{HORIZON} decade", HORIZON),
                              ("envelope of a new run at the horizon", limits.decades)):  # fmt: skip
            at = sample.high * 10**decades
            (low,), (high,) = comparison.envelope(np.array([at]))
            value = float(FORMS[form].value(np.array([at]), parameters)[0]) + error
            note(name, bool(low <= value <= high), float(high - low))
            if decades == HORIZON:
                covered = bool(low <= value <= high)
        line, saturation = trend(comparison), no_saturation(comparison)
        note("'no saturation' undecided or denied or the envelope held", saturation.verdict != "supported" or covered)
        note("'no saturation' supported", saturation.verdict == "supported")
        note("'no saturation' not supported", saturation.verdict == "not supported")
        note("'log-linear' supported for the sizes measured", line.verdict == "supported")
        note("'log-linear' not supported", line.verdict == "not supported")
        note("horizon above 0.3 decade", limits.decades > HORIZON + 1e-9, limits.decades)
    truth = "power-offset 0.3 0.2 0.3" if saturating else "log-linear 0.9 -0.05"
    return [
        Row(
            "tool", truth, "all", str(n), sd, name, replications, float(np.mean(shares)), float(np.median(widths[name]))
        )
        for name, shares in held.items()
    ]


def false_winner(
    mode: str, rise: float, replications: int, seed: int, sizes: int = 6, between: float = 0.0, designs: int = 2
) -> Row:
    """How often a comparison of equal designs claims that one scales better or is better, on any count.

    The sd of a run is 1 in the middle of the sizes and `rise` times as large at the largest as at the smallest.

    Args:
        mode: pooled, paired or separate, with three seeds each; single, pooled with one.
        rise: see above.
        replications: comparisons.
        seed: of the simulation.
        sizes: of every design.
        between: sd of configurations by themselves.
        designs: number of designs.
    """
    seeds = 1 if mode == "single" else 3
    u = np.linspace(-0.5, 0.5, sizes)
    rows = [(f"design {d}", 10 ** (7 + 2 * at), s) for d in range(designs) for at in u for s in range(seeds)]
    frame = pd.DataFrame(rows, columns=["variant", "params", "seed"])
    sd = np.tile(np.repeat(rise**u, seeds), designs)
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(replications):
        own = np.repeat(rng.normal(0, between, designs * sizes), seeds)
        values = -0.05 * np.log10(frame["params"]) + own + rng.normal(0, 1, len(frame)) * sd
        compared = compare_designs(
            frame.assign(rfid=values), "params", "rfid", paired=mode == "paired",
            errors="separate" if mode == "separate" else "pooled",
        )  # fmt: skip
        found += any(item.verdict == "supported" for item in compared.verdicts)
    truth = f"{designs} equal lines; configurations sd {between:g}; runs sd 1, times {rise:g} over the sizes"
    name = f"false winner, {mode}"
    return Row("compare", truth, "log-linear", f"{sizes} x {seeds}", 1.0, name, replications, found / replications,
               float("nan"))  # fmt: skip


def winners(part: int) -> list[Row]:
    """False winners by every way of comparing, with even and uneven scatter."""
    return [
        false_winner(mode, rise, 1000 // part, 11)
        for mode in ("pooled", "single", "paired", "separate")
        for rise in (0.1, 1.0, 10.0)
    ]


def table(quick: bool = False) -> list[Row]:
    """All rows; `quick` with a twentieth of the replications."""
    part = 20 if quick else 1
    rows: list[Row] = []
    for kind in ADDITIVE:
        rows += additivity(kind, 0.01, 400 // part, 0)
    for n in (8, 12, 30):
        for sd in (0.005, 0.02, 0.04):
            rows += single_runs("log-linear", LINE, n, sd, 10000, 1)
        rows += single_runs("log-quadratic", (0.9, -0.05, 0.005), n, 0.02, 10000, 2)
        rows += single_runs("power", (0.45, 0.12), n, 0.02, 10000 // part, 3)
        for sd in (0.005, 0.02):
            rows += single_runs("power-offset", SATURATING, n, sd, 10000 // part, 4)
    for between in (0.0, 0.5, 1.0, 2.0):
        rows += replicated((3,) * 8, between, 4000 // part, 5, 1000 // part)
    for between in (0.0, 0.5, 1.0):
        for runs in UNEQUAL:
            rows += replicated(runs, between, 4000 // part, 6)
        for rise in (0.1, 0.2, 5.0, 10.0):
            rows += replicated((3,) * 8, between, 4000 // part, 10, rise=rise)
    for count in (4, 8):
        for level, tilt in ((0.3, 0.0), (0.3, 0.1), (0.1, 0.05)):
            rows += shared_decoder(count, level, tilt, 4000 // part, 11)
    for n, sd in ((8, 0.04), (8, 0.02), (8, 0.005), (12, 0.02), (30, 0.04), (30, 0.02)):
        rows += wrong_form(n, sd, 10000, 7)
        rows += tool(n, sd, 300 // part, 8)
    for n in (8, 12, 30):
        rows += tool(n, 0.02, 300 // part, 9, saturating=False)
    return rows + winners(part)


def as_csv(rows: list[Row]) -> str:
    """The rows as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(asdict(row) | {"coverage": f"{row.coverage:.4f}", "width": f"{row.width:.4g}"})
    return stream.getvalue()


def main() -> None:
    """Writes coverage.csv and prints the rows of the default path that lie outside 93.5% .. 96.5%."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/coverage"))
    parser.add_argument("--quick", action="store_true", help="a twentieth of the replications")
    given = parser.parse_args()
    rows = table(given.quick)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "coverage.csv").write_text(as_csv(rows))
    default = [row for row in rows if row.part == "default"]
    off = [row for row in default if not 0.935 <= row.coverage <= 0.965]
    print(f"{given.out / 'coverage.csv'}: {len(rows)} rows; default path: {len(default) - len(off)} of {len(default)}")
    for row in off:
        print(f"  outside .935 .. .965: {row}")
    for row in rows:
        if row.part == "compare" and row.coverage > FALSE_WINNERS:
            print(f"  more than {FALSE_WINNERS} false winners: {row}")


if __name__ == "__main__":
    main()
