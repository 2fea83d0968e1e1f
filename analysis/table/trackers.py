"""Tables that trackers export: their names for a run's seed, status and identity, and their words for a status."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from drorae.errors import UserError
from drorae.trial.folder import TrialStatus

PREFIXES = ("params.", "metrics.", "config.", "summary.", "parameters/", "metrics/", "config/", "summary/")
"""What MLflow, Weights & Biases and Neptune put before the names of settings and metrics."""

_WORDS = {
    TrialStatus.FINISHED: "finished complete completed succeeded success successful done ok terminated inactive",
    TrialStatus.FAILED: (
        "failed fail failure error errored crashed crash killed aborted cancelled canceled preempted preempting "
        "timeout timed_out stopped interrupted oom out_of_memory node_fail"
    ),
    TrialStatus.RUNNING: "running active pending queued scheduled started starting in_progress suspended waiting",
}
STATUSES = {word: status for status, words in _WORDS.items() for word in words.split()} | {
    str(status): status for status in TrialStatus
}
"""Words for a status, also other tools', in lower case."""

_NAMES = {
    "status": ("status", "state", "run_status", "run_state", "sys_state", "sys_status", "tags_drorae_status"),
    "seed": ("seed", "random_seed", "rng_seed", "manual_seed", "global_seed", "seed_everything", "random_state"),
    "run_id": ("run_id", "runid", "run_uuid", "sys_id", "trial_id", "id"),
    "eval_images": ("eval_images",),
}
_STEPS = ("step", "global_step", "trainer_global_step", "iteration", "training_iteration", "epoch", "timestep")
_RUNS = ("run_id", "name", "run", "run_name", "sys_name", "tags_mlflow_runname", "config_hash")


def plain(name: str) -> str:
    """Returns a column's name without a tracker's prefix."""
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    return name[len(prefix) :]


def status_of(text: str) -> str:
    """Returns what a word for a status means, as one of `TrialStatus`; another word as it is, in lower case."""
    word = re.sub(r"[\s-]+", "_", text.strip().lower())
    return STATUSES.get(word, word)


def is_seed(name: str) -> bool:
    """Whether a column's name says that it is the seed, or numbers repeats."""
    return _key(name) in (*_NAMES["seed"], "seeds", "rep", "replicate", "repeat")


def is_identity(name: str) -> bool:
    """Whether a column's name says that it names runs."""
    return _key(name) in _NAMES["run_id"]


def adopt(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a table whose seed, status, identity and evaluation images have the names that the analysis knows.

    A column that has such a name already stays; a column called like a status is one if it has a word for one.
    `attrs["unused_status"]` names columns that look like a status and were not taken for it.
    """
    names = [str(name) for name in frame.columns]
    taken: dict[str, str] = {}
    for name, aliases in _NAMES.items():
        found = [column for alias in aliases for column in names if _key(column) == alias]
        if name == "status":
            found = [column for column in found if column.lower() == "status" or _is_status(frame[column])]
            missed = [column for column in names if column not in found[:1] and _looks_like_status(frame, column)]
            if missed and not frame.attrs.get("unused_status"):
                frame = frame.copy(deep=False)
                frame.attrs["unused_status"] = missed
        if name == "seed" and not found:
            nested = [column for column in names if re.search(r"[./]seed$", column) and plain(column) == column]
            found = [column for column in nested if _nested_seed(column)] if len(nested) == 1 else []
        if found and name not in names:
            taken[found[0]] = name
    frame = frame.rename(columns=taken) if taken else frame
    if "sys/failed" in names and "status" in frame.columns:
        # Neptune calls a run that broke inactive, as one that ended well.
        broke = frame["sys/failed"].astype(str).str.lower() == "true"
        frame = frame.assign(status=frame["status"].mask(broke, str(TrialStatus.FAILED)))
    return frame


def _nested_seed(column: str) -> bool:
    """Whether a column of another config, such as trainer.seed, is a run's seed; drorae's groups have others."""
    return re.split(r"[./]", column)[0] not in ("images", "decoder", "probe")


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", plain(name).lower()).strip("_")


def _is_status(cells: pd.Series) -> bool:
    return any(status_of(value) in [*TrialStatus] for value in cells.dropna().astype(str).unique()[:50])


def _looks_like_status(frame: pd.DataFrame, column: str) -> bool:
    """Whether a column is called like a status, or all its cells are words for one."""
    if _key(column) in _NAMES["status"] or column.lower().endswith(("status", "state")):
        return True
    text = not pd.api.types.is_numeric_dtype(frame[column])
    values = frame[column].dropna().astype(str).unique()[:50].tolist() if text else []
    sure = [value for value in values if status_of(value) in [*TrialStatus]]
    return (
        len(values) > 0 and len(sure) == len(values) and any(status_of(value) != TrialStatus.FINISHED for value in sure)
    )


def check_history(frame: pd.DataFrame, x_column: str, what: str, settings: Sequence[str]) -> None:
    """Refuses rows that are steps of runs rather than runs.

    Args:
        frame: the table.
        x_column: column of the size.
        what: metric and size, for the message.
        settings: columns that tell configurations apart, where no column names the runs.

    Raises:
        UserError: one run, or one size, configuration and seed, has rows of several steps; or x counts steps.
    """
    keys = {_key(str(name)): str(name) for name in reversed(frame.columns)}
    remedy = "expected one row per run, such as its last step; export the runs' summaries"
    if {"wall_time", "step", "value"} <= set(keys):
        raise UserError(f"{what}: a TensorBoard export, the steps of one run; {remedy} with their sizes in one table")
    step = next((keys[name] for name in _STEPS if name in keys), None)
    if step is None or step in frame.attrs.get("configuration", ()):
        return
    if step == x_column and _key(step) != "epoch":
        raise UserError(f"{what}: {step} counts the steps of a run, it is no size; {remedy}")
    run = next((keys[name] for name in _RUNS if name in keys and frame[keys[name]].notna().all()), None)
    by = [run] if run else [name for name in dict.fromkeys([x_column, *settings, "seed"]) if name in frame.columns]
    if run is None and (step in by or ("seed" not in by and frame[x_column].nunique() == len(frame))):
        return
    steps = frame[by].astype(str).assign(step=pd.to_numeric(frame[step], errors="coerce").to_numpy())
    counts = steps.groupby(by)["step"].nunique()
    if counts.max() > 1:
        last = np.nanmax(steps["step"])
        raise UserError(
            f"{what}: {int(counts.max())} rows of one run ({', '.join(by)}) differ in {step}: steps are no sizes and "
            f"no seeds; {remedy}, or keep the rows of one step with --where {step}={last:g}"
        )
