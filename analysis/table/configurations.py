"""What tells one configuration from another, and tables that would have something else taken for seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.table.decoders import DECODER
from analysis.table.trackers import plain
from drorae.config import TrialConfig, flatten
from drorae.errors import UserError
from drorae.metrics import registry
from drorae.trial.folder import SKIPPED

CONFIG_FIELDS = frozenset(name for name in flatten(TrialConfig()) if "." in name)
"""Fields of drorae's config by their dotted names."""

CONFIGURATION_COLUMNS = ("variant", "incremental", "expert_hidden_dim", "num_layers")
"""Fields of the config that a sweep's table has under a name of their own."""


def _words(text: str) -> frozenset[str]:
    """The words of a column's name, also of one like startTime, in lower case."""
    return frozenset(re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()))


SETTINGS = _words("lr wd dropout optimizer optim schedule scheduler warmup momentum betas batch learning decay clip")
"""Words in the names of columns that are settings whatever their values look like."""

_KNOBS = SETTINGS | _words(
    "weight weights coef coefficient lambda scale factor dim width depth type fn function beta alpha size"
)
"""Words that make a setting of what would otherwise be called a measurement, such as loss_weight."""

_MEASURED = _words(
    "loss acc accuracy error err score metric fid kid kd rfd rfid gfid psnr ssim lpips dists mse mae rmse l1 l2 bleu "
    "perplexity ppl f1 auc recall top1 top5 baseline metrics summary probe time seconds second sec secs minutes hours "
    "runtime duration wall walltime memory mem mb gb gib mib throughput flops util utilization se std sd"
)
_IDENTITIES = _words(
    "id uuid uri url hash name run runs host hostname node machine gpu device user username notes note tag tags group "
    "job sweep created updated started ended start end date timestamp state status reason commit git sha seed seeds "
    "rep replicate repeat row index worker pid sys source entity project path dir artifact tuning comment description "
    "message duration runtime time walltime"
)
_OURS = (DECODER, SKIPPED, registry.LOOKED_THROUGH)


def configuration_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that, beside x, tell one configuration from another: drorae's config and what the user declared.

    Settings of which the best is taken (`attrs["best_of"]`) do not.
    """
    known = CONFIG_FIELDS.union(CONFIGURATION_COLUMNS, frame.attrs.get("configuration", ()))
    best = {*frame.attrs.get("best_of", ())}
    return [name for name in map(str, frame.columns) if name not in best and known & {name, plain(name)}]


def number_groups(frame: pd.DataFrame, columns: Sequence[str], **more: Sequence[object] | np.ndarray) -> np.ndarray:
    """Number of every row's group, in order of first appearance, shape (rows,).

    Rows of a group agree in all `columns` and in every array of `more`; missing cells are a value like others.
    """
    keys = frame[[name for name in columns if frame[name].astype(str).nunique() > 1]]
    keys = keys.astype(str).reset_index(drop=True).assign(**{f"\0{name}": list(item) for name, item in more.items()})
    return np.asarray(keys.groupby(list(keys.columns), sort=False, dropna=False).ngroup())


def check_repeats(used: pd.DataFrame, x: np.ndarray, seeds: Sequence[str], names: Sequence[str]) -> None:
    """Refuses rows that the averaging over seeds would take for what they are not.

    Args:
        used: the rows, one per run.
        x: their sizes, shape (rows,).
        seeds: their seeds as text; empty where not stated.
        names: columns whose part is known: y, x, and those that tell designs or axes apart.

    Raises:
        UserError: one configuration and seed (or, without seeds, one size) twice, with other columns that differ;
            runs of different seeds that also differ in a setting; or seeds that count as sizes, as every run is a
            configuration of its own.
    """
    columns = list(dict.fromkeys([*configuration_columns(used), *used.attrs.get("best_of", ()), *names[2:]]))
    own = number_groups(used, columns, x=x)
    same = number_groups(used, columns, x=x, seed=seeds)
    others = [name for name in map(str, used.columns) if name not in columns and not _is_told(used, name, names)]
    if differing := [name for name in others if _varies(used[name], same)]:
        what = "one configuration and seed" if any(seeds) else "one size, without a seed column,"
        raise UserError(_refusal(names, f"rows of {what} differ in {_listed(differing)}", differing))
    if not used.attrs.get("configuration"):
        crossed = [name for name in others if _varies(used[name], own) and _is_setting(used[name], own)]
        if crossed:
            raise UserError(_refusal(names, f"runs that differ in seed differ in {_listed(crossed)} too", crossed))
    if not used.attrs.get("best_of"):
        _check_seeds(used, columns, x, seeds, own, names)


def _refusal(names: Sequence[str], what: str, columns: Sequence[str]) -> str:
    listed = " ".join(map(shlex.quote, columns[:6]))
    return (
        f"{names[0]}: {what}: averaged as seeds they would be noise; tell configurations apart with --configuration "
        f"{listed}, take the best run of each size and seed with --best-of {listed}, keep the rows of one value with "
        "--where, or leave measurements out of the table"
    )


def _check_seeds(
    used: pd.DataFrame, columns: Sequence[str], x: np.ndarray, seeds: Sequence[str], own: np.ndarray,
    names: Sequence[str],
) -> None:  # fmt: skip
    """Refuses runs of several seeds at one size that are configurations of their own, each of one run."""
    sizes = pd.DataFrame({"own": own, "seed": list(seeds)}).groupby(number_groups(used, names[2:], x=x))
    counts = pd.DataFrame({"rows": sizes.size(), "own": sizes["own"].nunique(), "seeds": sizes["seed"].nunique()})
    repeated = counts[counts["seeds"] > 1]
    if repeated.empty or 2 * int((repeated["own"] == repeated["rows"]).sum()) <= len(repeated):
        return
    at = number_groups(used, names[2:], x=x)
    differing = [name for name in columns if name not in names and _varies(used[name], at)]
    raise UserError(
        f"{names[0]}: runs of one size and several seeds also differ in {_listed(differing)}: no configuration has two "
        "runs, and seeds would count as sizes; keep the rows of one value with --where "
        f"{differing[0]}=..., or take the best of each size with --best-of {differing[0]}"
    )


def _is_told(used: pd.DataFrame, name: str, names: Sequence[str]) -> bool:
    """Whether a column is known to be no setting: an identity, a tag, a time or a measurement."""
    if name in (*names, *_OURS, *used.attrs.get("measured", ())) or used[name].astype(str).nunique() < 2:
        return True
    if name.startswith(("metrics.", "metrics/", "summary.", "summary/", "tags.", "system.", "system/", "monitoring/")):
        return True
    words = _words(plain(name))
    if words & SETTINGS:
        return False
    if words & _IDENTITIES and not words & (_KNOBS - {"type"}):
        return True
    values = pd.to_numeric(used[name], errors="coerce")
    if values.notna().sum() == used[name].notna().sum() and used[name].dtype != bool:
        return is_measurement(name)
    # As many texts as rows name the runs.
    return bool(used[name].astype(str).nunique() == len(used) > 1)


def is_measurement(name: str) -> bool:
    """Whether a column of numbers was measured, by its name."""
    words = _words(plain(name))
    return not words & _KNOBS and bool(words & _MEASURED or registry.better(name))


def _varies(cells: pd.Series, groups: np.ndarray) -> bool:
    return bool(cells.astype(str).groupby(groups).nunique().max() > 1)


def _is_setting(cells: pd.Series, own: np.ndarray) -> bool:
    """Whether a column that differs between seeds was set: by its name, or as most configurations see one set."""
    if _words(str(cells.name)) & SETTINGS:
        return True
    seen = cells.astype(str).groupby(own).agg(frozenset)
    several = seen[seen.map(len) > 1]
    return len(several) > 1 and 3 * int(several.value_counts().iloc[0]) >= 2 * len(several)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
