"""Which phase-1 decoder every run started from: one law needs one decoder."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from drorae.errors import UserError

DECODER = "phase1_weights"
"""Column of the SHA-256 of the phase-1 decoder that a run started from; empty where that is not known."""
_DECODER_FIELDS = ("images.", "encoder.", "decoder.", "objective.", "discriminator.", "phase1.")
"""Groups of a config that say which phase-1 decoder a run asks for (`drorae.config.phase1_key`)."""
_FUSION_COLUMNS = ("variant", "incremental", "expert_hidden_dim", "num_layers", "seed")


def check_decoders(used: pd.DataFrame, y: str, sizes: Sequence[str] = (), by: str = "") -> None:
    """Refuses rows whose phase-1 decoders have different weights, unless `attrs["mix_decoders"]` of the table is set.

    Without `sizes`: rows that ask for one decoder, as far as the table's config columns show, and got another. A
    column `by` that tells designs apart accounts for different decoders, too, unless it is one of the fusion's.
    With `sizes`: rows of one size, whatever they ask for. Rows that do not say are let through.

    Args:
        used: the rows, one per run.
        y: the metric, for the message.
        sizes: columns of x; none by default.
        by: column that tells designs apart; none by default.

    Raises:
        UserError: there are such rows; says how many have each decoder.
    """
    known = _stated_decoders(used)
    if known.empty or used.attrs.get("mix_decoders"):
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
