"""Tables of two sources as one."""

from __future__ import annotations

import pytest
from tables import trials

from analysis.table.join import SOURCE, join_tables
from analysis.table.selection import select
from drorae.errors import UserError


def test_columns_of_other_names_meet() -> None:
    table = trials().rename(columns={"fusion_params": "params"})
    joined = join_tables({"old": trials(), "new": table}, ["params", "psnr"], apart=True)
    assert joined["params"].notna().all() and list(joined[SOURCE].unique()) == ["old", "new"]
    chosen = select(joined, "params", "psnr", by=SOURCE)
    assert len(chosen.x) == 12, "a run of one design is no copy of a like one of the other"


def test_one_run_in_two_sources_is_one_run_of_its_design() -> None:
    frame = trials(variant="energy")
    joined = join_tables({"old": frame, "new": frame}, ["params", "psnr", "variant"], apart=False)
    chosen = select(joined, "params", "psnr", by="variant")
    assert len(chosen.x) == 6
    assert chosen.excluded[0] == ("new row 1", "same config_hash as old row 1")


def test_a_source_without_the_metric_is_named() -> None:
    with pytest.raises(UserError, match="^new: psnr: no such column"):
        join_tables({"old": trials(), "new": trials().drop(columns="psnr")}, ["params", "psnr"], apart=True)


def test_what_the_sources_were_told_is_kept() -> None:
    told = trials()
    told.attrs["mix_decoders"] = True
    assert join_tables({"old": trials(), "new": told}, ["params"], apart=True).attrs["mix_decoders"]
