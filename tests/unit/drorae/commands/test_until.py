"""What ends a sweep before its grid does: the option, and the verdict on a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drorae.commands.main import main
from drorae.commands.sweep import Sweep
from drorae.commands.until import decided, verdict_name
from drorae.errors import UserError


def test_the_option_names_a_verdict() -> None:
    assert [verdict_name(text) for text in ("all", "decided", "decided=log-linear", "decided=no-saturation")] == [
        "", "log-linear", "log-linear", "no-saturation",
    ]  # fmt: skip
    for text, message in {
        "soon": "--until soon: expected all, decided or decided=VERDICT",
        "all=log-linear": "--until all=log-linear: expected all",
        "decided=": "--until decided : no such verdict; choose one of log-linear, no-saturation",
        "decided=power": "--until decided power: no such verdict",
    }.items():
        with pytest.raises(UserError, match=f"^{message}"):
            verdict_name(text)


def test_the_metric_that_heads_the_report_decides(tmp_path: Path) -> None:
    sizes = np.geomspace(1e4, 1e7, 6)
    noise = np.random.default_rng(0).normal(0, 0.01, 6)
    columns = {"expert_hidden_dim": range(6), "fusion_params": sizes, "status": "finished", "seed": 0}
    table = tmp_path / "table.csv"
    # PSNR comes behind the distance, which says nothing.
    frame = pd.DataFrame(columns | {"psnr": 20 + np.log10(sizes) + noise, "rfd_effnet2": 5 + noise})
    frame.to_csv(table, index=False)
    assert decided("log-linear", table, 3) is None
    frame.drop(columns="rfd_effnet2").to_csv(table, index=False)
    said = decided("log-linear", table, 3)
    assert said == (
        "SUPPORTED log-linear: psnr follows log10(params) from 1e+04 to 1e+07 "
        "[level: 5% for slope and bend over 3 looks, 1.67% each time]"
    )
    frame.iloc[:2].to_csv(table, index=False)
    assert decided("log-linear", table, 3) is None, "two trials have no law"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tune", "lr"], "--until decided: --tune says by other rules what is run; drop one of the two"),
        (["--pruner", "median"], "--until decided: --pruner says by other rules"),
        (["--asha"], "--until decided: --pruner says by other rules"),
        (["--pack", "6"], "--until decided: a pack would train trials that may not be needed; use --pack 0"),
        (["--axis", "capacity=8"], "--until decided: no size varies"),
    ],
)
def test_what_contradicts_it_is_refused_before_anything_is_made(
    words: list[str], message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--preset", "quickstart", "--no-check-convergence", "--until", "decided", *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1 and message in errors[0]
    assert not (elsewhere / "runs").exists()


def test_the_quickstart_s_packs_are_off_with_it() -> None:
    packs = {until: Sweep(preset="quickstart", until=until) for until in ("all", "decided")}
    assert {until: options._pack(options.spec()) for until, options in packs.items()} == {"all": 6, "decided": 0}
