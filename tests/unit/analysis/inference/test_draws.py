"""Intervals for images and decoders other than those that all runs of a law share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.inference.analysis import Analysis, analyse
from analysis.laws.intervals import run_interval
from analysis.report.outcome import fit_table
from analysis.table.files import read_table
from drorae.commands.main import main
from drorae.trial.folder import PER_IMAGE

SIZES = np.geomspace(1e5, 1e7, 6)
U = np.log10(SIZES)


def sweep(folder: Path, tilt: float, images: int = 400, name: str = "psnr") -> Path:
    """A sweep's table with its trials' values per image, every one of which moves the slope by its own `tilt`."""
    rng = np.random.default_rng(0)
    common, pull = rng.normal(0, 1, images), rng.normal(0, tilt, images)
    rows = []
    for k, size in enumerate(SIZES):
        values = 20 + 0.5 * U[k] + common + pull * (U[k] - U.mean()) + rng.normal(0, 0.2)
        rows.append({"config_hash": f"hash{k}", "params": size, name: values.mean(), "seed": 0, "eval_images": images})
        (folder / "trials" / f"hash{k}").mkdir(parents=True)
        np.savez(folder / "trials" / f"hash{k}" / PER_IMAGE, **{name: values})
    pd.DataFrame(rows).to_csv(folder / "trials.csv", index=False)
    return folder / "trials.csv"


def of_decoders(effects: np.ndarray, sd: float = 0.05, seed: int = 1, **columns: object) -> pd.DataFrame:
    """Every decoder at every size; effects: (decoders, 2), what each adds to level and slope."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {"decoder.seed": d, "phase1_weights": f"w{d}", "params": size, "psnr": 20 + a + (0.5 + b) * u + noise}
            for d, (a, b) in enumerate(effects)
            for size, u, noise in zip(SIZES, U - U.mean(), rng.normal(0, sd, len(U)), strict=True)
        ]
    ).assign(**columns)


def test_paired_images_move_the_slope_by_their_differences(tmp_path: Path) -> None:
    found = analyse(read_table(sweep(tmp_path, 3.0)), "params", "psnr")
    (new,) = found.draws.intervals
    # By hand: with every image's line fitted by itself, the slope is the mean of theirs.
    values = np.array([np.load(tmp_path / "trials" / f"hash{k}" / PER_IMAGE)["psnr"] for k in range(6)])
    slopes = np.polyfit(U, values, 1)[0]
    error = np.hypot(slopes.std(ddof=1) / np.sqrt(400), found.line.slope_se)
    assert new.what == "images" and found.line.slope == pytest.approx(slopes.mean())
    assert (new.slope.high - new.slope.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert found.draws.level_sd == pytest.approx(values.var(axis=1, ddof=1).mean() ** 0.5 / 20)


def test_images_that_move_all_runs_alike_leave_the_slope_alone(tmp_path: Path) -> None:
    found = analyse(read_table(sweep(tmp_path, 0.0)), "params", "psnr")
    (new,) = found.draws.intervals
    assert new.slope == pytest.approx(found.line.slope_ci95, rel=1e-6)
    made = found.predict(1.5e7)
    assert made.on_new_images is not None
    width = made.on_new_images.high - made.on_new_images.low
    assert width > 2 * 1.96 * np.sqrt(2) * 0.9 * found.draws.level_sd


@pytest.mark.parametrize("scale", [1.0, 3.7])
def test_runs_on_a_line_that_images_move_alike_have_an_interval(tmp_path: Path, scale: float) -> None:
    rows = []
    for width, seed in ((w, s) for w in (4, 8, 16, 32) for s in (0, 1)):
        key = f"w{width}s{seed}"
        (tmp_path / "trials" / key).mkdir(parents=True)
        np.savez(tmp_path / "trials" / key / PER_IMAGE, psnr=scale * np.arange(4.0))
        rows.append(
            {"config_hash": key, "params": 1000 * width, "seed": seed, "psnr": 10 + np.log10(width), "eval_images": 4}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "trials.csv", index=False)
    found = analyse(read_table(tmp_path / "trials.csv"), "params", "psnr")
    # What images add to the variance is zero to rounding, on either side of it.
    assert found.draws.intervals[0].slope == pytest.approx((1.0, 1.0), abs=1e-6)
    assert np.isfinite(found.predict(4e4).on_new_images or np.nan).all()


def test_the_text_says_what_holds_for_whom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = sweep(tmp_path, 3.0)
    outcome = fit_table(read_table(table).assign(phase1_weights="w"), "params", ["psnr"], out=tmp_path / "law")
    assert "for these 400 images and this decoder" in outcome.text
    assert "for new images: slope" in outcome.text and "of another nothing is known" in outcome.text
    assert [item["of"] for item in outcome.trees[0]["new_draws"]] == ["images"]
    assert "For new images" in (tmp_path / "law" / "report.md").read_text()
    assert main(["predict", str(table), "--y", "psnr", "--at", "1.5e7"]) == 0
    said = capsys.readouterr().out
    assert "on new evaluation images" in said


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"psnr_se": 0.1}, "shared-images"),
        ({"psnr_se": 0.1}, "one-decoder"),
        ({"phase1_weights": "w"}, "one-decoder"),
        ({"decoder.seed": 3}, "one-decoder"),
    ],
)
def test_what_is_not_known_is_said(columns: dict[str, object], code: str) -> None:
    frame = pd.DataFrame({"params": SIZES, "psnr": 20 + U + 0.1 * (-1) ** np.arange(6)}).assign(**columns)
    found = analyse(frame, "params", "psnr")
    assert code in {item.code for item in found.cautions} and not found.draws.intervals
    bare = analyse(frame[["params", "psnr"]], "params", "psnr")
    assert code not in {item.code for item in bare.cautions}


def test_decoders_are_an_axis_and_a_random_effect() -> None:
    import statsmodels.formula.api as smf

    frame = of_decoders(np.array([[0.5, 0.3], [-0.4, -0.2], [0.1, 0.25], [-0.6, -0.1], [0.3, 0.05]]))
    found = analyse(frame, "params", "psnr")
    (new,) = found.draws.intervals
    u = np.log10(frame["params"]) - U.mean()
    model = smf.mixedlm("psnr ~ u", frame.assign(u=u), groups=frame["phase1_weights"], re_formula="~u").fit()
    assert found.line.slope == pytest.approx(model.params["u"], rel=1e-6)
    half = stats.t.ppf(0.975, 4) * model.bse["u"]
    assert (new.slope.high - new.slope.low) / 2 == pytest.approx(half, rel=1e-2)
    several = found.line.decoders
    assert several is not None
    assert several.sds[1] == pytest.approx(model.cov_re.iloc[1, 1] ** 0.5, rel=2e-2)
    assert several.variance == pytest.approx(model.scale, rel=2e-2)
    # For these decoders: a level and a slope of its own for each.
    within = smf.ols("psnr ~ C(phase1_weights) * u", frame.assign(u=u)).fit()
    assert several.variance == pytest.approx(within.mse_resid) and several.dof == within.df_resid
    made = found.predict(1.5e7)
    assert made.on_new_decoders is not None and made.on_new_decoders.high - made.on_new_decoders.low > 1


def test_decoders_at_some_sizes_say_nothing_of_new_ones() -> None:
    frame = of_decoders(np.array([[0.5, 0.0], [-0.4, 0.0]]))
    frame.attrs["mix_decoders"] = True
    crossed: Analysis = analyse(frame, "params", "psnr")
    assert "few-decoders" in {item.code for item in crossed.cautions}
    part = analyse(frame.drop(index=3), "params", "psnr")
    assert "decoders-not-crossed" in {item.code for item in part.cautions} and not part.draws.intervals


def test_a_trend_is_judged_by_the_slope_for_new_decoders() -> None:
    """Four decoders whose slopes differ as much as they are steep: sure of these, not of others."""
    effects = np.array([[0.0, 0.5], [0.1, -0.4], [-0.1, 0.3], [0.0, -0.4]])
    frame = of_decoders(effects, sd=0.02)
    found = analyse(frame, "params", "psnr")
    slopes = frame.groupby("decoder.seed")["psnr"].apply(lambda y: np.polyfit(U, y, 1)[0])
    half = stats.t.ppf(0.975, 3) * slopes.std(ddof=1) / 2
    verdict = found.verdicts[0]
    assert found.line.slope_ci95.low > 0.45 and verdict.verdict == "undecided"
    ends = f"{slopes.mean() - half:.4g} .. {slopes.mean() + half:.4g} for new decoders, of 4"
    assert ends in verdict.reason and "decoders like these 4" in verdict.would_decide
    steep = analyse(of_decoders(effects / 10, sd=0.02), "params", "psnr").verdicts[0]
    assert steep.verdict == "supported" and "for new decoders, of 4" in steep.reason
    two = analyse(of_decoders(effects[:2], sd=0.02), "params", "psnr").verdicts[0]
    assert "for new decoders" not in two.reason


@pytest.mark.parametrize("spread", [(0.0, 0.0), (2.0, 0.0), (2.0, 0.1)])
def test_levels_and_slopes_of_decoders_hide_no_bend_and_move_no_aicc(spread: tuple[float, float]) -> None:
    """What a decoder adds to level and slope is in no law's residuals: they judge as if all decoders were one."""
    signs = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]])
    bent = 0.2 * (U - U.mean()) ** 2
    frames = [of_decoders(effects, sd=0.03) for effects in (signs * 0.0, signs * spread)]
    plain, other = (analyse(frame.assign(psnr=frame["psnr"] - np.tile(bent, 4)), "params", "psnr") for frame in frames)
    assert other.verdicts[0].verdict == "not supported" and "the points bend" in other.verdicts[0].reason
    assert [fit.name for fit in other.comparison.fits] == [fit.name for fit in plain.comparison.fits]
    deltas = [[found.comparison.delta(fit) for fit in found.comparison.fits] for found in (plain, other)]
    np.testing.assert_allclose(deltas[1], deltas[0], atol=1e-3)
    assert other.horizon == plain.horizon and other.comparison.judge.sample.n == 6
    straight = analyse(frames[1], "params", "psnr")
    assert straight.verdicts[0].verdict == "supported" and "repeated-x" not in {c.code for c in straight.cautions}


def test_the_main_prediction_is_for_these_decoders_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = of_decoders(np.array([[1.0, 0.0], [-1.0, 0.1], [0.5, -0.1], [-0.5, 0.0]]))
    found = analyse(frame, "params", "psnr")
    (line,) = (law for law in found.predict(1.5e7).laws if law.law == "log-linear")
    ends = run_interval(found.line.curve, found.line.sample, np.array([1.5e7]))
    assert line.of_run == pytest.approx([float(end[0]) for end in ends])
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert main(["predict", str(tmp_path / "t.csv"), "--y", "psnr", "--at", "1.5e7"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("  95% envelope of a new run for these 4 decoders: ")
    assert said[2].startswith("  from a new decoder: ")
    report = fit_table(frame, "params", ["psnr"], out=tmp_path / "law").paths["markdown"].read_text()
    assert "for these 4 decoders" in report and "from a new decoder" in report


@pytest.mark.parametrize("tilt", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("decoders", [2, 3])
def test_what_holds_for_images_and_decoders_holds_for_either(tmp_path: Path, tilt: float, decoders: int) -> None:
    tables = []
    for number in range(decoders):
        (tmp_path / "trials").mkdir(exist_ok=True)
        one = pd.read_csv(sweep(tmp_path / f"d{number}", tilt))
        for key in one["config_hash"]:
            (tmp_path / f"d{number}" / "trials" / key).rename(tmp_path / "trials" / f"{key}d{number}")
        # Two decoders whose slopes differ hardly or much: one degree of freedom, and a t of 12.7.
        one["psnr"] += 0.02 * number * (U - U.mean()) + 0.01 * (-1) ** np.arange(len(U) + number)[number:]
        tables.append(one.assign(**{"decoder.seed": number}, config_hash=one["config_hash"] + f"d{number}"))
    pd.concat(tables).to_csv(tmp_path / "trials.csv", index=False)
    found = analyse(read_table(tmp_path / "trials.csv"), "params", "psnr").draws.intervals
    assert [item.what for item in found] == ["images", "decoders", "images and decoders"]
    *parts, both = (item.slope for item in found)
    assert all(both.low <= part.low and part.high <= both.high for part in parts)
