"""Figures of a law: read in grey, and labelled in words."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from tables import checked, fit, replicated, sweep

from analysis.inference.analysis import analyse
from analysis.inference.asked import Asking
from analysis.inference.axes import analyse_axes
from analysis.report.figures import (
    CHECK,
    LEVELS,
    display_name,
    equation,
    joint_figure,
    law_figure,
    number,
    panels,
    residual_figure,
    save,
    short,
)
from analysis.report.write import write_report


def test_figures_read_in_grey() -> None:
    """Seeds differ by marker, lines by style, and the bands by their grey as well as by their hue."""
    frame = pd.concat([sweep().assign(seed=k) for k in range(4)], ignore_index=True).drop(columns="config_hash")
    axes = law_figure([analyse(frame, "params", "psnr")]).axes[0]
    points = [item for item in axes.collections if isinstance(item, PathCollection)]
    assert len({item.get_paths()[0].vertices.tobytes() for item in points}) == len(points) == 4
    lines = [line for line in axes.get_lines() if line.get_label() and not str(line.get_label()).startswith("_")]
    assert len({str(line.get_linestyle()) + str(line._unscaled_dash_pattern) for line in lines}) == len(lines) == 3
    wide, narrow = axes.collections[:2]
    white = np.ones(3)
    greys = []
    for band in (wide, narrow):
        red, green, blue, alpha = band.get_facecolor()[0]
        white = alpha * np.array([red, green, blue]) + (1 - alpha) * white
        greys.append(white @ [0.2126, 0.7152, 0.0722])
    assert 1 - greys[0] > 0.05 and greys[0] - greys[1] > 0.1


def test_labels_are_short_and_names_are_words() -> None:
    shown = {128: "128", 9999: "9999", 19000: "19 K", 113439756: "113.4 M", 2.5e9: "2.5 G", 0.5: "0.5", 3e12: "3 T"}
    assert {value: short(value) for value in shown} == shown and short(5.76e23) == "5.76e+23"
    assert [number(value) for value in (-0.05637, 3.14159, 1e-5, math.inf, -math.inf)] == [
        "−0.0564", "3.142", "1e−05", "∞", "−∞",
    ]  # fmt: skip
    assert display_name("params") == "Fusion parameters" and display_name("my_score") == "my_score"


def test_the_equation_is_that_of_the_line() -> None:
    x = [1e5, 1e6, 1e7, 1e8]
    falling = pd.DataFrame({"params": x, "rfid": [0.8, 0.75, 0.7, 0.65]})
    assert equation(fit(falling)) == "rFID = 1.05 − 0.0500 log₁₀(x)"
    rising = pd.DataFrame({"layers": [1, 2, 3, 4], "psnr": [21.0, 23.0, 25.0, 27.0]})
    assert equation(fit(rising, "layers", "psnr", "linear")) == "PSNR = 19 + 2 x"


def test_a_saved_figure_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        figure, (axes,) = panels(1)
        axes.plot([1, 2, 3])
        (tmp_path / name).mkdir()
        files.append(save(figure, tmp_path / name, "law"))
    for kind in ("png", "svg", "pdf"):
        assert files[0][kind].name == f"law.{kind}"
        assert files[0][kind].read_bytes() == files[1][kind].read_bytes()


def test_panels_stand_two_in_a_row() -> None:
    for count, rows in ((1, 1), (2, 1), (3, 2)):
        figure, axes = panels(count, 4.0)
        assert len(axes) == len(figure.axes) == count and figure.get_size_inches()[1] == 4.0 * rows


def labels(frame: pd.DataFrame, y: str = "psnr") -> list[str]:
    """What the legend of a law's figure says."""
    (axes,) = law_figure([analyse(frame, "params", y)]).axes
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_what_the_tokenizer_measures_without_fusion_is_a_line() -> None:
    frame = sweep()
    assert not any(text.startswith("no fusion") for text in labels(frame))
    assert "no fusion: 18.63" in labels(frame.assign(baseline_psnr=18.6265, baseline_rfid=9.0))
    assert "no fusion: 18.63" in labels(frame.assign(baseline_psnr=[18.6265, *[math.nan] * (len(frame) - 1)]))
    (axes,) = law_figure([analyse(frame.assign(baseline_psnr=18.6265), "params", "psnr")]).axes
    level = [line for line in axes.get_lines() if str(line.get_label()).startswith("no fusion")]
    assert [list(np.unique(np.asarray(line.get_ydata(), dtype=float))) for line in level] == [[18.6265]]


def panel_with(baseline: object, prefix: str = "") -> tuple[Axes, list[str]]:
    """The panel of a law whose table says what no fusion measures, and the texts that stand in it about that."""
    frame = sweep().assign(baseline_psnr=baseline)
    frame = frame.rename(columns={name: f"{prefix}{name}" for name in ("psnr", "baseline_psnr")})
    (axes,) = law_figure([analyse(frame, "params", "psnr")]).axes
    return axes, [item.get_text() for item in axes.texts if "no fusion" in item.get_text()]


def test_no_fusion_is_in_the_picture_wherever_it_lies_and_named_there() -> None:
    low, high = law_figure([analyse(sweep(), "params", "psnr")]).axes[0].get_ylim()
    for value in (low - 2 * (high - low), low - 0.01, (low + high) / 2, high + 2 * (high - low)):
        axes, named = panel_with(value)
        least, most = axes.get_ylim()
        assert least < value < most and named == ["no fusion"]
        assert any(list(line.get_ydata()) == [value, value] for line in axes.get_lines())
    assert panel_with(18.0, "metrics.")[1] == ["no fusion"]


@pytest.mark.parametrize("side", [-1, 1])
def test_no_fusion_that_is_absurdly_far_is_an_arrow_with_its_value(side: int) -> None:
    limits = law_figure([analyse(sweep(), "params", "psnr")]).axes[0].get_ylim()
    axes, named = panel_with(20.0 + side * 1000)
    assert axes.get_ylim() == limits and named == [f"no fusion: {number(20.0 + side * 1000)}"]
    (tip,) = [item.xy[1] for item in axes.texts if isinstance(item, Annotation) and item.arrow_patch is not None]
    assert tip == (0.0 if side < 0 else 1.0)


def test_every_decoder_has_its_level_of_no_fusion_and_many_their_span() -> None:
    rows = len(sweep())
    axes, _ = panel_with(np.resize([18.0, 18.5], rows))
    levels = [float(line.get_ydata()[0]) for line in axes.get_lines() if str(line.get_color()) == "#D55E00"]
    assert levels == [18.0, 18.5]
    assert "no fusion, 2 decoders: 18 to 18.5" in [text.get_text() for text in axes.get_legend().get_texts()]
    axes, _ = panel_with(np.linspace(18, 19, rows))
    levels = [float(line.get_ydata()[0]) for line in axes.get_lines() if str(line.get_color()) == "#D55E00"]
    assert rows > LEVELS and levels == [18.0, 19.0]
    assert any(isinstance(item, Rectangle) and item.get_height() == 1.0 for item in axes.patches)


def test_repeated_configurations_have_their_mean_and_standard_error() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (size, seed, 15 + np.log10(size) + rng.normal(0, 0.1)) for size in 10.0 ** np.arange(4, 9) for seed in range(4)
    ]
    frame = pd.DataFrame(rows, columns=["params", "seed", "psnr"])
    (axes,) = law_figure([analyse(frame, "params", "psnr")]).axes
    (bars,) = axes.containers
    means = frame.groupby("params")["psnr"].mean()
    np.testing.assert_allclose(np.asarray(bars.lines[0].get_xydata()), np.column_stack([means.index, means]))
    ends = [np.ptp(np.asarray(path.vertices)[:, 1]) for path in bars.lines[2][0].get_paths()]
    np.testing.assert_allclose(ends, 2 * frame.groupby("params")["psnr"].std(ddof=1) / 2)
    assert any("n = 5 configurations, 4 seeds each" in text for text in labels(frame))
    once = frame[frame["seed"] == 0].drop(columns="seed")
    assert any(text.endswith("n = 5 configurations") for text in labels(once))


@pytest.mark.parametrize(
    ("name", "billion"),
    [
        ("params", "B"), ("fusion_params", "B"), ("Parameters", "B"), ("model.n_params", "B"), ("numParams", "B"),
        ("Model Parameter Size", "B"), ("nparams", "B"), ("flops", "G"), ("capacity", "G"), ("paramagnetism", "G"),
        ("hyperparams", "G"), ("", "G"),
    ],
)  # fmt: skip
def test_billions_of_parameters_are_b_and_of_all_else_g(name: str, billion: str) -> None:
    assert [short(value, name) for value in (7e9, 1.3e11, 3e6)] == [f"7 {billion}", f"130 {billion}", "3 M"]


def test_axis_and_report_write_billions_the_same_way(tmp_path: Path) -> None:
    for x, shown, never in (("params", "B", "G"), ("flops", "G", "B")):
        frame = sweep().rename(columns={"fusion_params": "size"})
        frame = frame.drop(columns="params", errors="ignore").assign(**{x: 1e9 * 3.0 ** np.arange(len(frame))})
        found = analyse(frame, x, "psnr")
        (axes,) = law_figure([found]).axes
        page = write_report([found], tmp_path / x, "t")["markdown"].read_text()
        ticks = [text.get_text() for text in axes.get_xticklabels()]
        assert any(tick.endswith(f" {shown}") for tick in ticks) and not any(
            tick.endswith(f" {never}") for tick in ticks
        )
        assert f"1 {shown} to " in page and f"1 {never} to " not in page


@pytest.mark.parametrize("slope", [-0.1, 0.1])
@pytest.mark.parametrize("law", ["log-linear", "linear"])
def test_the_envelope_has_no_cliff_where_a_rival_joins(law: str, slope: float) -> None:
    """Of 6 points AICc leaves the law with an offset out, which is heard beyond the data all the same."""
    x = np.geomspace(1e5, 3e7, 6)
    y = 1 + slope * np.log10(x) + np.random.default_rng(3).normal(0, 0.02, 6)
    found = analyse(pd.DataFrame({"params": x, "rfid": y}), "params", "rfid", law)  # type: ignore[arg-type]
    comparison = found.comparison
    ends = np.array([1 - 1e-9, 1 + 1e-6]) * found.line.sample.high
    assert comparison.rival not in comparison.plausible and np.ptp(comparison.envelope(ends)[1]) > 0.01
    assert np.ptp(comparison.envelope(ends, everywhere=True), axis=1).max() < 1e-5
    (axes,) = law_figure([found]).axes
    label = "envelope of the laws in question"
    first = [str(line.get_label()) for line in axes.get_lines()].index(label)
    for edge in axes.get_lines()[first : first + 2]:
        at, drawn = np.asarray(edge.get_xdata(), dtype=float), np.asarray(edge.get_ydata(), dtype=float)
        assert at[0] == x[0] and at[-1] == pytest.approx(found.horizon.high)
        where = int(np.searchsorted(at, x[-1]))
        steps = np.abs(np.diff(drawn))[where - 4 : where + 4]
        # Where one law's edge crosses another's the band turns; it never leaps.
        assert steps[3:5].max() < 2.5 * np.delete(steps, [3, 4]).max()


def test_residuals_are_shown_where_data_are() -> None:
    found = analyse(replicated(np.random.default_rng(0)), "params", "psnr")
    (axes,) = residual_figure([found]).axes
    sample = found.line.sample
    assert found.horizon.high > 1.5 * sample.high
    low, high = axes.get_xlim()
    assert sample.low / 1.3 < low < sample.low and sample.high < high < sample.high * 1.3
    band = axes.collections[0].get_datalim(axes.transData)
    assert (band.x0, band.x1) == (sample.low, sample.high)
    assert list(np.asarray(axes.get_lines()[0].get_xdata(), dtype=float)) == [sample.low, sample.high]


@pytest.mark.parametrize("levels", [3, 300])
def test_lines_of_a_second_axis_are_few_whatever_its_values(levels: int) -> None:
    second = np.linspace(1, 12, levels).repeat(300 // levels)
    x = np.tile(np.geomspace(1e5, 1e8, 20), 15)
    y = 1 - 0.05 * np.log10(x) - 0.01 * second + np.random.default_rng(0).normal(0, 0.01, 300)
    found = analyse_axes(pd.DataFrame({"params": x, "depth": second, "rfid": y}), "params", "depth", "rfid")
    left, _ = joint_figure(found).axes
    legend = left.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == len(left.get_lines()) == min(levels, LEVELS)
    assert (labels[0], labels[-1]) == ("depth 1", "depth 12")
    (points,) = (item for item in left.collections if isinstance(item, PathCollection))
    assert len(points.get_offsets()) == found.sample.n, "every configuration is drawn"


@pytest.mark.parametrize(
    ("asking", "name"),
    [
        ("log-linear", ""),
        (Asking("power-offset"), " about power-offset"),
        (Asking("log-quadratic"), " about log-quadratic"),
        (Asking("power", "huber", resamples=100), " about power"),
        (Asking("log-linear", "huber", resamples=100), " about log-linear"),
    ],
)
def test_residuals_are_about_the_law_asked_for(asking: str | Asking, name: str, tmp_path: Path) -> None:
    x = np.geomspace(1e6, 1e9, 10)
    y = 0.3 + 40 * x**-0.35 + 0.005 * np.cos(np.arange(10.0) ** 2)
    found = analyse(pd.DataFrame({"params": x, "rfid": y}), "params", "rfid", asking)
    axes = residual_figure([found]).axes[0]
    points = np.concatenate([item.get_offsets() for item in axes.collections if isinstance(item, PathCollection)])
    law = found.line.curve if asking == "log-linear" else found.leading
    np.testing.assert_allclose(points[:, 1], y - law.value(x), rtol=0, atol=1e-12)
    assert axes.get_ylabel() == f"residual{name}, rFID"
    write_report([found], tmp_path, "t")
    table = pd.read_csv(tmp_path / "law.csv")
    np.testing.assert_allclose(table["residual"], y - law.value(x), rtol=0, atol=1e-9)
    below = f"Run minus {law.name if name else 'line'}; shaded"
    assert below in (tmp_path / "report.html").read_text()


def test_checks_of_convergence_are_hollow_and_joined_to_their_trials() -> None:
    axes = law_figure([analyse(checked(0.2, 0.5), "params", "psnr")]).axes[0]
    marks = [line for line in axes.get_lines() if line.get_gid() == CHECK]
    assert [float(line.get_xdata()[0]) for line in marks] == pytest.approx([1e4, 2.56e6])
    ends = [20.21, 20.01 + 0.6 * math.log10(256) + 0.5]
    assert [float(line.get_ydata()[0]) for line in marks] == pytest.approx(ends)
    assert all(line.get_markerfacecolor() == "none" for line in marks) and marks[0].get_label() == "twice the steps"
    joined = [line for line in axes.get_lines() if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
    assert [20.01, 20.21] in [pytest.approx(list(line.get_ydata())) for line in joined]
    low, high = axes.get_ylim()
    assert low < 20.21 and marks[1].get_ydata()[0] < high
    assert not [line for line in law_figure([analyse(sweep(), "params", "psnr")]).axes[0].get_lines()
                if line.get_gid() == CHECK]  # fmt: skip
