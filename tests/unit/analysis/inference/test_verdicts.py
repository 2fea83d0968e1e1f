"""Evidence, verdicts and predictions: what the paper's points can carry, and what no points may be made to say."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from calibration.coverage import tool
from mlflow.tracking import MlflowClient

import analysis.inference.analysis
import analysis.laws.curves
import analysis.laws.intervals
from analysis.inference.analysis import Analysis, analyse
from analysis.inference.cautions import fit_flags
from analysis.inference.evidence import LawComparison, back_test, compare_laws, influence, lack_of_fit
from analysis.inference.predict import forecast, observed_value, reach, register, score
from analysis.inference.verdicts import no_saturation, printed_line, trend, value_at
from analysis.laws.curves import fit_curve
from analysis.laws.intervals import points, run_interval
from analysis.report.trees import fit_tree
from analysis.table.files import read_table
from drorae.commands.main import main
from drorae.errors import UserError

PAPER = Path(__file__).resolve().parents[4] / "results" / "paper" / "capacity.csv"


@pytest.fixture(scope="module")
def paper() -> Analysis:
    return analyse(read_table(PAPER), "params", "rfid")


def saturating(n: int, sd: float, seed: int) -> LawComparison:
    x = np.geomspace(0.1, 10, n)
    y = 0.3 + 0.2 * x**-0.3 + np.random.default_rng(seed).normal(0, sd, n)
    return compare_laws(points(x, y))


@pytest.mark.parametrize("module", [analysis.laws.curves, analysis.inference.analysis, analysis.laws.intervals])
def test_examples_in_the_documentation(module: object) -> None:
    done = doctest.testmod(module)  # type: ignore[arg-type]
    assert done.attempted > 0 and done.failed == 0


def test_the_papers_points(paper: Analysis) -> None:
    words = {item.claim.split(":")[0]: item for item in paper.verdicts}
    assert words["log-linear"].verdict == "supported"
    assert words["no saturation"].verdict == "undecided" and words["no saturation"].would_decide
    assert "the 5 smallest predict the 3 largest" in words
    envelope = paper.back_tests[0]
    assert (envelope.trained, len(envelope.held_out), envelope.hits) == (5, 3, 3)
    # The power law with offset runs to the end of its search, where it is the logarithm.
    offset = paper.comparison.find("power-offset")
    assert offset is not None and offset.at_bound == ("b",)
    assert "at-bound" in [item.code for item in fit_flags(offset)]


def test_the_papers_printed_line(paper: Analysis) -> None:
    line, intercept = printed_line(paper.comparison, slope=-0.058, intercept=0.97)
    assert (line.verdict, intercept.verdict) == ("not supported", "not supported")
    own = printed_line(paper.comparison, slope=-0.0564, intercept=0.92)
    assert [item.verdict for item in own] == ["supported", "supported"]


def test_back_test_is_a_fit_to_the_small_asked_for_the_large(paper: Analysis) -> None:
    x, y = paper.line.sample.x[:, 0], paper.line.sample.y
    design = sm.add_constant(np.log10(x))
    frame = sm.OLS(y[:5], design[:5]).fit().get_prediction(design[5:]).summary_frame(alpha=0.05)
    test = next(item for item in paper.back_tests if item.law == "log-linear")
    got = [(item.predicted, item.low, item.high) for item in test.held_out]
    np.testing.assert_allclose(got, frame[["mean", "obs_ci_lower", "obs_ci_upper"]], rtol=1e-6)


def test_influence_is_that_of_statsmodels(paper: Analysis) -> None:
    line = paper.comparison.find("log-linear")
    assert line is not None
    reference = sm.OLS(line.y, sm.add_constant(np.log10(line.x[:, 0]))).fit().get_influence()
    rows = influence(line)
    np.testing.assert_allclose([row.leverage for row in rows], reference.hat_matrix_diag, rtol=1e-8)
    np.testing.assert_allclose([row.cook for row in rows], reference.cooks_distance[0], rtol=1e-8)
    np.testing.assert_allclose([row.left_out for row in rows], reference.resid_press, rtol=1e-8)


def test_lack_of_fit_is_the_textbook_f() -> None:
    rng = np.random.default_rng(0)
    rows = [(10.0**k, k, seed, k**1.5 + rng.normal(0, 0.2)) for k in range(6) for seed in range(4)]
    frame = pd.DataFrame(rows, columns=["params", "expert_hidden_dim", "seed", "psnr"])
    found = analyse(frame, "params", "psnr")
    line = found.comparison.find("log-linear")
    assert line is not None
    u = np.log10(frame["params"])
    full = sm.OLS(frame["psnr"], pd.get_dummies(u).astype(float)).fit()
    f, p, _ = full.compare_f_test(sm.OLS(frame["psnr"], sm.add_constant(u)).fit())
    got = lack_of_fit(found.line.sample, line)
    assert got is not None and (got.f, got.p) == (pytest.approx(f, rel=1e-6), pytest.approx(p, rel=1e-4))
    assert found.verdicts[0].verdict == "not supported"


def test_aicc_finds_an_offset_where_the_data_show_it() -> None:
    found = saturating(30, 0.005, 1)
    assert found.preferred.name == "power-offset"
    assert found.delta(found.fits[-1]) >= 4
    assert trend(found).verdict == "not supported"
    assert no_saturation(found).verdict == "not supported"


@pytest.mark.parametrize("n", [12, 30])
def test_a_law_that_saturates_is_never_said_not_to(n: int) -> None:
    laws = ("log-linear", "power", "power-offset", "log-quadratic")
    rows = {row.quantity: row.coverage for row in tool(n, 0.02, 60, seed=21, names=laws)}
    assert rows["'no saturation' supported"] == 0
    assert rows["'no saturation' undecided or denied or the envelope held"] >= 0.9
    assert rows["envelope of a new run at +0.3 decade"] >= 0.87
    comparison = saturating(n, 0.02, 3)
    limits = comparison.horizon
    verdict = trend(comparison)
    # Whatever is said of a log-linear trend is said of the sizes measured.
    assert "from 0.1 to 10" in verdict.claim
    with pytest.raises(UserError, match="beyond the data"):
        forecast(comparison, limits.high * 1.01)


def test_no_saturation_can_be_supported_by_points_that_show_it() -> None:
    x = np.geomspace(1, 1e4, 40)
    y = 1 - 0.05 * np.log10(x) + np.random.default_rng(2).normal(0, 1e-4, 40)
    found = compare_laws(points(x, y))
    assert no_saturation(found).verdict == "supported"


def test_value_at_a_size(paper: Analysis) -> None:
    assert value_at(paper.comparison, 0.50, 2e8).verdict == "supported"
    assert value_at(paper.comparison, 0.40, 2e8).verdict == "not supported"
    assert value_at(paper.comparison, 0.45, 2e8).verdict == "undecided"
    far = value_at(paper.comparison, 0.50, 1e12)
    assert far.verdict == "undecided" and "beyond what is trusted" in far.reason


def test_envelope_holds_every_plausible_law_and_the_rival(paper: Analysis) -> None:
    made = forecast(paper.comparison, 2e8)
    assert [item.law for item in made.laws] == ["log-linear", "power", "power-offset"]
    assert made.of_run.low == min(item.of_run.low for item in made.laws)
    assert made.trusted and made.decades_beyond == pytest.approx(np.log10(2e8 / 113439756))
    assert [item.law for item in forecast(paper.comparison, 1e7).laws] == ["log-linear", "power"]
    far = forecast(paper.comparison, 1e10, extrapolate=True)
    assert not far.trusted and far.of_run.high - far.of_run.low > made.of_run.high - made.of_run.low


def test_horizon_is_never_far(paper: Analysis) -> None:
    limits = paper.comparison.horizon
    span = np.log10(113439756 / 2480652)
    assert 0.3 - 1e-9 <= limits.decades <= min(1.0, span / 2)
    short = compare_laws(points(np.array([1.0, 1.2, 1.4, 1.6]), np.array([4, 3.1, 2.2, 1.0])))
    assert short.horizon.decades == pytest.approx(np.log10(1.6) / 2)


def test_targets_beyond_the_horizon_keep_their_numbers(paper: Analysis) -> None:
    found = reach(paper.comparison, 0.30)
    assert not found.trusted and not found.bounded
    assert all(item.pieces == () and "not trusted" in item.text for _, item, _ in found.laws)
    assert any("unbounded" in item.text for _, item, _ in found.laws)
    shown = reach(paper.comparison, 0.30, extrapolate=True)
    assert all(item.pieces for _, item, _ in shown.laws)
    assert reach(paper.comparison, 0.50).laws[0][1].estimate == pytest.approx(
        10 ** ((0.9194450856 - 0.5) / 0.0563694942)
    )


def test_new_images_move_all_values_together() -> None:
    x = np.geomspace(1e5, 1e8, 8)
    frame = pd.DataFrame({"params": x, "rfid": 1 - 0.05 * np.log10(x) + 0.001 * (-1) ** np.arange(8), "rfid_se": 0.02})
    made = analyse(frame, "params", "rfid").predict(1.5e8)
    assert made.on_new_images is not None
    assert made.on_new_images.high - made.on_new_images.low > 2 * 1.96 * np.sqrt(2) * 0.02
    assert made.of_run.high - made.of_run.low < 0.02


def test_registered_predictions_are_scored(paper: Analysis) -> None:
    record = json.loads(json.dumps(register(paper.comparison, forecast(paper.comparison, 2e8))))
    hit, miss = score(record, 0.45), score(record, 0.60)
    assert hit.inside and hit.interval_score == pytest.approx(record["envelope"][1] - record["envelope"][0])
    assert not miss.inside and not any(inside for _, _, inside in miss.laws)
    assert observed_value(record, np.array([2e8, 2.001e8, 1e8]), np.array([0.4, 0.5, 9.0])) == pytest.approx(0.45)
    with pytest.raises(UserError, match="within 1%"):
        observed_value(record, np.array([1e8]), np.array([0.4]))
    frame = read_table(PAPER)
    frame.loc[0, "rfid"] += 1e-6
    other = analyse(frame, "params", "rfid")
    assert register(other.comparison, other.predict(2e8))["data_sha256"] != record["data_sha256"]
    with pytest.raises(UserError, match="not a registered prediction"):
        score({"kind": "else"}, 0.4)


def test_predict_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(PAPER), "--y", "rfid", "--at", "2e8", "--target", "0.4", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["predictions"][0]["trusted"] and not tree["targets"][0]["trusted"]
    assert {"laws", "prediction95", "decades_beyond"} <= set(tree["predictions"][0])
    assert main(["predict", str(PAPER), "--y", "rfid", "--at", "1e10"]) == 2
    assert "--extrapolate" in capsys.readouterr().err
    assert main(["predict", str(PAPER), "--y", "rfid", "--at", "1e10", "--extrapolate"]) == 0
    assert "EXTRAPOLATED" in capsys.readouterr().out
    assert main(["predict", str(PAPER), "--y", "rfid", "--at", "2e8", "--register", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    (written,) = tmp_path.glob("prediction-*.json")
    later = pd.concat([read_table(PAPER), pd.DataFrame([{"params": 2e8, "rfid": 0.44}])])
    later.to_csv(tmp_path / "later.csv", index=False)
    assert main(["predict", str(tmp_path / "later.csv"), "--score", str(written), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inside"] is True


@pytest.mark.slow
def test_predictions_go_to_mlflow(tmp_path: Path, paper: Analysis) -> None:
    from analysis.report.mlflow import write_predictions

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("sweep", str(tmp_path / "artifacts"))
    record = register(paper.comparison, paper.predict(2e8))
    (run_id,) = write_predictions([record], uri, "sweep")
    run = client.get_run(run_id)
    assert run.info.experiment_id == experiment and run.info.status == "FINISHED"
    assert run.data.tags["drorae.data_sha256"] == record["data_sha256"]
    kept = json.loads(Path(client.download_artifacts(run_id, "prediction.json", str(tmp_path))).read_text())
    assert kept == record
    with pytest.raises(UserError, match="no such experiment"):
        write_predictions([record], uri, "other")


def test_json_of_a_fit_says_all_of_it(paper: Analysis) -> None:
    tree = json.loads(json.dumps(fit_tree(paper), allow_nan=False))
    assert {"version", "laws", "predictions", "verdicts", "warnings", "excluded", "back_tests"} <= set(tree)
    laws = {law["name"]: law for law in tree["laws"]}
    assert laws["log-linear"]["delta_aicc"] == 0
    slope = laws["log-linear"]["parameters"][1]
    assert (slope["name"], slope["ci95"]) == ("slope", pytest.approx(list(paper.line.slope_ci95)))
    # E has no lower end: the data do not bend.
    assert laws["power-offset"]["parameters"][0]["ci95"][0] is None


def test_four_configurations_carry_a_line_and_say_little() -> None:
    frame = pd.DataFrame({"params": [1e5, 1e6, 1e7, 1e8], "rfid": [0.6, 0.52, 0.49, 0.41]})
    found = analyse(frame, "params", "rfid")
    assert [fit.name for fit in found.comparison.fits] == ["log-linear", "power"]
    assert found.back_tests == () and found.verdicts[1].verdict == "undecided"
    json.dumps(fit_tree(found), allow_nan=False)


def test_sizes_stay_together_in_a_back_test() -> None:
    x = np.repeat([1.0, 10, 100, 1000, 1e4], 2)
    tests = back_test(points(x, 1 - 0.1 * np.log10(x) + 0.01 * (-1) ** np.arange(10)), count=3)
    held = [item.x for item in tests[0].held_out]
    assert held == [1e4, 1e4] and tests[0].trained == 8


def test_intervals_of_weighted_means_follow_their_seeds() -> None:
    x = np.geomspace(1, 1e3, 6)
    sample = points(x, 1 - 0.1 * np.log10(x) + 0.01 * (-1) ** np.arange(6), np.array([4, 4, 4, 1, 1, 1]))
    fit = fit_curve("log-linear", sample.x, sample.y, sample.weights)
    reference = sm.WLS(sample.y, sm.add_constant(np.log10(x)), weights=sample.weights).fit()
    frame = reference.get_prediction([[1, 3.2]], weights=1).summary_frame(alpha=0.05)
    low, high = run_interval(fit, sample, np.array([10**3.2]))
    assert (low[0], high[0]) == (pytest.approx(frame["obs_ci_lower"][0]), pytest.approx(frame["obs_ci_upper"][0]))
