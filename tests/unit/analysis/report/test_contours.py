"""The contours of a law of two axes: what is trusted, where the points are, what compute buys."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.path import Path

from analysis.inference.axes import JointAnalysis, analyse_axes
from analysis.inference.compute import Bought, buy
from analysis.inference.surface import forecast_pair
from analysis.report.contours import contour_figure, surface_caption
from drorae.errors import UserError


def grid(first: int = 4, second: int = 4, noise: float = 0.003) -> JointAnalysis:
    pairs = np.array([(n, d) for n in np.geomspace(1e8, 1e10, first) for d in np.geomspace(1e9, 1e11, second)])
    loss = 1.8 + 480 * pairs[:, 0] ** -0.35 + 2000 * pairs[:, 1] ** -0.36
    loss += np.random.default_rng(0).normal(0, noise, len(loss))
    frame = pd.DataFrame({"params": pairs[:, 0], "tokens": pairs[:, 1], "loss": loss})
    return analyse_axes(frame, "params", "tokens", "loss")


def drawn(found: JointAnalysis, bought: Bought | None = None) -> tuple[Axes, list[str]]:
    figure = contour_figure(found, bought)
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return figure.axes[0], labels


def test_every_configuration_is_a_point_in_the_colours_of_the_surface() -> None:
    found = grid()
    axes, labels = drawn(found)
    points = next(item for item in axes.collections if item.get_label() == "n = 16 configurations")
    np.testing.assert_allclose(points.get_offsets(), found.sample.x)
    np.testing.assert_allclose(points.get_array(), found.sample.y)
    ground = next(item for item in axes.collections if isinstance(item, QuadContourSet))
    assert points.get_clim() == ground.get_clim()
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log") and axes.get_ylabel() == "tokens"
    assert labels == ["around the pairs measured", "not trusted", "n = 16 configurations"]


def test_what_is_hatched_is_what_a_prediction_refuses() -> None:
    found = grid()
    axes, _ = drawn(found)
    hatched = next(item for item in axes.collections if isinstance(item, QuadContourSet) and any(item.hatches))
    (path,) = hatched.get_paths()
    rims = axes.transData.transform_path(path).to_polygons()
    for pair in ((1e9, 1e10), (1.8e10, 1.8e11), (6e7, 3e9), (2.3e10, 1e10), (3e8, 2.3e11), (6e7, 6e8)):
        try:
            trusted = forecast_pair(found, pair).trusted
        except UserError:
            trusted = False
        # A ring has its point in the outer one of two polygons alone.
        within = sum(Path(rim).contains_point(axes.transData.transform(pair)) for rim in rims)
        assert bool(within % 2) is not trusted, pair


def test_compute_is_a_line_through_a_star_at_each_budget() -> None:
    found = grid()
    bought = buy(found, [1e20, 1e21])
    axes, labels = drawn(found, bought)
    assert labels[-1] == "compute-optimal" and bought.law is not None
    line = next(item for item in axes.get_lines() if item.get_label() == "compute-optimal")
    n, d = (np.asarray(values, dtype=float) for values in line.get_data())
    for item in bought.law.optima:
        assert np.interp(np.log(item.first.value), np.log(n), np.log(d)) == pytest.approx(np.log(item.second.value))
    assert {text.get_text() for text in axes.texts} >= {"C = 1e+20", "C = 1e+21"}
    assert "a star at each budget" in surface_caption(found, bought) and "star" not in surface_caption(found, None)


@pytest.mark.parametrize("lowest", [0, 1])
def test_a_second_axis_that_is_no_logarithm_is_drawn_as_it_is(lowest: int) -> None:
    rows = [(p, n, 3 - 0.2 * i - 0.05 * n + 0.001 * (-1) ** (i * n)) for i, p in enumerate([1e6, 1e7, 1e8])
            for n in range(lowest, 9, 2)]  # fmt: skip
    axes, _ = drawn(analyse_axes(pd.DataFrame(rows, columns=["params", "layers", "rfid"]), "params", "layers", "rfid"))
    assert axes.get_yscale() == "linear" and axes.get_ylabel() == "Fused layers"
    assert axes.get_ylim()[1] > 8 and bool(axes.get_ylim()[0] > 0) is (lowest > 0)
