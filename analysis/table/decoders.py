"""Which phase-1 decoder every run started from: one law needs one decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from drorae.errors import UserError

DECODER = "phase1_weights"
"""Column of the SHA-256 of the phase-1 decoder that a run started from; empty where that is not known."""
_DECODER_FIELDS = ("images.", "encoder.", "decoder.", "objective.", "discriminator.", "phase1.")
"""Groups of a config that say which phase-1 decoder a run asks for (`drorae.config.phase1_key`)."""
SEED = "decoder.seed"
"""Field of the config that draws another decoder of the same kind."""
_FUSION_COLUMNS = ("variant", "incremental", "expert_hidden_dim", "num_layers", "seed")


def check_decoders(used: pd.DataFrame, y: str, sizes: Sequence[str] = (), by: str = "") -> None:
    """Refuses rows whose phase-1 decoders have different weights, unless `attrs["mix_decoders"]` of the table is set.

    Without `sizes`: rows that ask for one decoder, as far as the table's config columns show, and got another. A
    column `by` that tells designs apart accounts for different decoders, too, unless it is one of the fusion's.
    With `sizes`: rows of one size, whatever they ask for, unless they are draws of one kind (`crossed_decoders`). Rows
    that do not say are let through.

    Args:
        used: the rows, one per run.
        y: the metric, for the message.
        sizes: columns of x; none by default.
        by: column that tells designs apart; none by default.

    Raises:
        UserError: there are such rows; says how many have each decoder.
    """
    known = _stated_decoders(used)
    if known.empty or used.attrs.get("mix_decoders") or (len(sizes) == 1 and crossed_decoders(used, sizes[0])):
        return
    asked = [
        name for name in map(str, known.columns)
        if name.startswith(_DECODER_FIELDS) and not name.endswith("path") and known[name].nunique(dropna=False) > 1
    ] + [by] * (by not in ("", *_FUSION_COLUMNS))  # fmt: skip
    alike = [*sizes] or asked
    most = known.groupby(alike, dropna=False)[DECODER].nunique().max() if alike else known[DECODER].nunique()
    if most < 2:
        return
    listed = ", ".join(f"{digest} ({rows} rows)" for digest, rows in known[DECODER].value_counts().head(4).items())
    keep = asked[0] if sizes and asked else DECODER
    remedy = f"keep the rows of one with where {keep}={known[keep].value_counts().index[0]}"
    raise UserError(
        f"{y}: rows of different phase-1 decoders, {listed}; expected one, which all runs of a law start from; "
        f"{remedy}, run the others again, or allow it with --mix-decoders"
    )


def _stated_decoders(used: pd.DataFrame) -> pd.DataFrame:
    """The rows that say which phase-1 decoder they started from."""
    if DECODER not in used.columns:
        return used.iloc[:0]
    return used[used[DECODER].fillna("").astype(str).str.strip() != ""]


def decoder_labels(used: pd.DataFrame) -> list[str]:
    """Which decoder every row started from: its digest, where all rows state it, else its seed, else nothing."""
    column = DECODER if len(_stated_decoders(used)) == len(used) > 0 else SEED
    if column not in used.columns or used[column].isna().any():
        return [""] * len(used)
    return used[column].astype(str).str.strip().to_list()


def crossed_decoders(used: pd.DataFrame, size: str) -> bool:
    """Whether the rows are of several decoders that differ in their seed alone, each run at the same sizes.

    size: column of x.
    """
    if SEED not in used.columns or used[SEED].nunique() < 2:
        return False
    asked = [name for name in map(str, used.columns) if name.startswith(_DECODER_FIELDS) and name not in (SEED, size)]
    if any(used[name].nunique(dropna=False) > 1 for name in asked if not name.endswith("path")):
        return False
    frame = pd.DataFrame({"label": decoder_labels(used), "seed": used[SEED].to_numpy(), "size": used[size].to_numpy()})
    one_each = frame.groupby("seed")["label"].nunique().max() == 1
    return bool(one_each and np.all(pd.crosstab(frame["label"], frame["size"]) > 0))


def decoder_notes(used: pd.DataFrame) -> list[tuple[str, str]]:
    """What a reader should know of the rows' phase-1 decoders, as (code, message)."""
    known, notes = _stated_decoders(used), []
    number = known[DECODER].nunique() if len(known) else 0
    if number > 1:
        notes.append(("mixed-decoders", f"the runs started from {number} phase-1 decoders of different weights"))
    if 0 < len(known) < len(used):
        message = f"{len(used) - len(known)} of {len(used)} runs do not say which phase-1 decoder they started from"
        notes.append(("unknown-decoders", f"{message}: it may be another than that of the rest"))
    return notes
