"""Reconstruction against generation: which trials, which of them are best, and what a report shows of it."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import GUIDED, generating

from analysis.inference.tradeoff import TradeOff, trade_offs
from analysis.report.tradeoff import trade_off_figure
from drorae.commands.report import fit_trials

GFD, RFD = "gfd_effnet2", "rfd_effnet2"
HEADING = "Reconstruction against generation"


def of(frame: pd.DataFrame) -> list[TradeOff]:
    """The trade-offs of a table that leaves nothing out."""
    notes: list[str] = []
    found = trade_offs(frame, "params", notes.append)
    assert notes == []
    return found


def undominated(frame: pd.DataFrame, x: str, y: str, sign: int = 1) -> set[str]:
    """The trials that none is as good as in both, by the definition."""
    better = [
        row["config_hash"]
        for _, row in frame.iterrows()
        if not any((sign * frame[x] < sign * row[x]) & (frame[y] < row[y]))
    ]
    return set(better)


def test_every_guidance_is_a_plane_of_its_own_with_its_undominated_trials() -> None:
    frame = generating()
    plain, guided = of(frame)
    assert [(item.x_name, item.y_name) for item in (plain, guided)] == [(RFD, GFD), (RFD, GUIDED + GFD)]
    for item in (plain, guided):
        assert {frame["config_hash"][i] for i in item.best} == undominated(frame, RFD, item.y_name)
        assert list(item.x[list(item.best)]) == sorted(item.x[list(item.best)])
    # As made: plain, whoever reconstructs better generates worse.
    assert len(plain.best) > 6 > len(guided.best)
    assert set(plain.controls) == {"real", "reconstructions", "gaussian"} and plain.controls == guided.controls
    assert plain.controls["reconstructions"] == (79.0, 81.5, 84.0)
    assert np.all(plain.errors[0] == 0.4) and np.all(plain.errors[1] == 1.5)


def test_what_is_measured_of_images_of_texts_is_no_reconstruction() -> None:
    frame = generating().drop(columns=[RFD, "psnr"])
    assert of(frame.assign(geneval=np.linspace(0.3, 0.6, len(frame)))) == []


def test_reconstruction_is_the_first_metric_that_flatters_nothing() -> None:
    frame = generating()
    marked = frame.assign(looked_through="effnet2=training")
    assert {item.x_name for item in of(marked)} == {"psnr"}
    found = of(frame.drop(columns=[RFD]))
    assert {item.x_name for item in found} == {"psnr"} and all(item.rising for item in found)
    best = {frame["config_hash"][i] for i in found[0].best}
    assert best == undominated(frame, "psnr", GFD, -1) and len(best) > 6


def test_trials_that_did_not_end_or_lack_a_number_are_no_points() -> None:
    frame = generating()
    frame.loc[3, "status"], frame.loc[4, GFD], frame.loc[5, RFD] = "failed", np.nan, np.nan
    plain, guided = of(frame)
    assert (len(plain.y), len(guided.y)) == (9, 10)
    assert not {4, 5, 6} & {int(label.split()[1]) for label in plain.selection.labels}


def test_unequal_numbers_of_samples_are_left_out_with_a_line() -> None:
    frame = generating().assign(**{f"{GUIDED}{GFD}_images": [300] + [500] * 11})
    notes: list[str] = []
    (plain,) = trade_offs(frame, "params", notes.append)
    assert plain.y_name == GFD
    (note,) = notes
    assert note.startswith(f"note: no plot of {RFD} against {GUIDED}{GFD}: ") and "different" in note
    # Reconstructions, too.
    notes.clear()
    assert trade_offs(generating().assign(eval_images=[300] + [400] * 11), "params", notes.append) == []
    assert len(notes) == 2 and all("eval_images" in note for note in notes)


def test_a_table_without_generated_images_has_none(tmp_path: Path) -> None:
    frame = generating()
    without = frame[[name for name in frame.columns if GFD not in name]]
    assert of(without) == of(frame.assign(**{GFD: np.nan, GUIDED + GFD: np.nan})) == []
    made = fit_trials(without, tmp_path, "t", "again")
    assert "trade_offs" not in made.trees[0] and not list(tmp_path.glob("tradeoff*"))
    assert HEADING not in made.paths["html"].read_text() and "against" not in made.text


def test_the_figure_has_every_trial_its_errors_and_the_controls() -> None:
    found = of(generating())
    figure = trade_off_figure(found)
    assert len(figure.axes) == 2
    for item, axes in zip(found, figure.axes, strict=True):
        points = [part.get_offsets() for part in axes.collections if len(getattr(part, "get_offsets", list)()) > 1]
        assert any(np.array_equal(np.asarray(part), np.column_stack([item.x, item.y])) for part in points)
        steps = next(line for line in axes.get_lines() if line.get_label() == "not beaten in both")
        assert list(steps.get_xdata()) == list(item.x[list(item.best)])
        assert [text.get_text() for text in axes.texts] == [str(k + 1) for k in range(len(item.best))]
        legend = axes.get_legend()
        assert legend is not None
        said = [text.get_text() for text in legend.get_texts()]
        assert "real training images: 80" in said and "reconstructions: 79 to 84" in said
        # So far off that the trials would be one point.
        assert "a Gaussian per position, decoded: 900, far above" in said
        low, high = axes.get_ylim()
        assert low < 79 and item.y.max() < high < 200
        assert axes.get_ylabel().endswith("N = 500 images")
    assert "\nautoguidance 1.5\n" in figure.axes[1].get_ylabel()


def test_one_size_and_no_errors_are_drawn_as_well(tmp_path: Path) -> None:
    frame = generating()[["expert_hidden_dim", "fusion_params", "seed", "psnr", GFD]]
    (item,) = of(frame[frame["expert_hidden_dim"] == 8])
    assert len(trade_off_figure([item]).axes) == 1 and item.controls == {} and np.isnan(item.errors).all()


@pytest.mark.parametrize("style", ["screen", "paper"])
def test_a_report_shows_it_in_page_text_files_and_json(tmp_path: Path, style: str) -> None:
    frame = generating()
    made = fit_trials(frame, tmp_path, "t", "again", style=style)  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.glob("tradeoff*")} == {f"tradeoff.{kind}" for kind in ("png", "svg", "pdf")}
    page, markdown = (unescape(made.paths[name].read_text()) for name in ("html", "markdown"))
    assert HEADING in page and f"## {HEADING}" in markdown and "](<tradeoff.png>)" in markdown
    plain, guided = json.loads(made.paths["json"].read_text())["trade_offs"]
    assert (plain["trials"], plain["images"], guided["y"]) == (12, 500, GUIDED + GFD)
    assert plain["controls"]["gaussian"] == {"low": 900.0, "median": 900.0, "high": 900.0}
    best = undominated(frame, RFD, GFD)
    assert len(plain["pareto"]) == len(best)
    for row in plain["pareto"]:
        (key,) = [name for name in best if name in row["name"]]
        trial = frame[frame["config_hash"] == key].iloc[0]
        assert (row["x"], row["y"], row["size"]) == (trial[RFD], trial[GFD], trial["fusion_params"])
        assert (row["x_se"], row["y_se"]) == (0.4, 1.5)
        assert row["name"] in page and row["name"] in markdown and row["name"] in made.text
    assert f"{RFD} against {GFD}: {len(best)} of 12 trials are not beaten in both:" in made.text
    assert made.text.isascii()
