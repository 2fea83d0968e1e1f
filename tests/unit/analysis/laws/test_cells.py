"""Many sizes condensed to few rows give what the sizes themselves give."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from tables import TRUTHS

from analysis.inference.evidence import back_test
from analysis.laws import cells, curves
from analysis.laws.cells import NODES, Cells, cells_of, condense
from analysis.laws.curves import CurveFit, Profile, grid
from analysis.laws.forms import FORMS
from analysis.laws.intervals import parameter_intervals, points, run_interval
from analysis.laws.noise import replication

CURVED = [name for name, form in FORMS.items() if form.axes == 1 and form.curved]
TOLERANCE = 1e-7


def noisy(name: str, n: int = 300, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Sizes over two and a half decades and values that follow a law with 2% of noise."""
    rng = np.random.default_rng(seed)
    x = 10 ** rng.uniform(5.5, 8, n)
    return x, FORMS[name].value(x, TRUTHS[name]) * (1 + 0.02 * rng.normal(size=n))


def without_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every size is worked on itself."""
    monkeypatch.setattr(curves, "condense", lambda x, root: None)
    monkeypatch.setattr(curves, "cells_of", lambda x: None)


def numbers(fit: CurveFit, at: np.ndarray) -> dict[str, np.ndarray]:
    """All that a fit is asked for."""
    sample = points(fit.x, fit.y, fit.weights)
    return {
        "parameters": fit.parameters,
        "rss": np.array([fit.rss, fit.profile.rss(fit.y).min()]),
        "left out": fit.loo(),
        "intervals": np.array(list(parameter_intervals(fit).values())),
        "runs": np.array(run_interval(fit, sample, at)),
    }


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("weighted", [False, True])
def test_cells_change_no_number(name: str, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noisy(name)
    weights = np.random.default_rng(4).uniform(0.2, 3, len(x)) if weighted else None
    at = np.geomspace(x.min() / 2, x.max() * 2, 400)
    assert condense(x[:, None], np.ones(len(x))) is not None
    assert cells_of(at[:, None]) is not None
    fast = numbers(points(x, y, weights).fit(name), at)
    without_cells(monkeypatch)
    exact = numbers(points(x, y, weights).fit(name), at)
    for what, value in exact.items():
        np.testing.assert_allclose(fast[what], value, rtol=TOLERANCE, atol=1e-7 * np.std(y), err_msg=what)


def test_cells_change_no_back_test(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noisy("power-offset")
    fast = back_test(points(x, y), ("log-linear", "power", "power-offset"))
    without_cells(monkeypatch)
    exact = back_test(points(x, y), ("log-linear", "power", "power-offset"))
    for one, other in zip(fast, exact, strict=True):
        assert one.law == other.law
        np.testing.assert_allclose(np.array(one.held_out), np.array(other.held_out), rtol=1e-7)


@pytest.mark.parametrize("name", CURVED)
def test_interpolates_a_form_all_over_its_box(name: str) -> None:
    x = 10 ** np.random.default_rng(0).uniform(3, 6, 500)
    form, some = FORMS[name], Cells(x)
    t = grid(form.box(x[:, None]), 7)
    exact = np.swapaxes(form.basis(x[:, None], t)[0], 1, 2)
    found = some.spread(np.swapaxes(form.basis(some.at, t)[0], 1, 2))
    peak = np.abs(exact).max(axis=-1, keepdims=True)
    np.testing.assert_allclose(found / peak, exact / peak, rtol=0, atol=5e-12)


@pytest.mark.parametrize("root", [np.ones(400), np.random.default_rng(5).uniform(0.1, 2, 400)])
def test_keeps_every_sum_of_squares(root: np.ndarray) -> None:
    rng = np.random.default_rng(6)
    x, y = 10 ** rng.uniform(2, 5, 400), rng.normal(size=400)
    few = condense(x[:, None], root)
    assert few is not None
    column = few.cells.at[:, 0] ** -0.3
    rows = few.rows(column)
    assert rows.size <= 400 / cells.WORTH
    short = float(np.sum((few.target(root * y) - 2 * rows) ** 2) + few.rest(root * y))
    assert short == pytest.approx(float(np.sum((root * (y - 2 * x**-0.3)) ** 2)), rel=1e-11)


def test_sizes_on_nodes_alone_and_together_are_themselves() -> None:
    x = np.exp(np.concatenate([[0.0, 20.0], np.full(60, 5.0)]))
    some = Cells(x)
    np.testing.assert_allclose(some.spread(some.at[:, 0] ** -0.7), x**-0.7, rtol=1e-10)
    again = Cells(np.concatenate([some.at[:NODES, 0], [1.0, np.e**20]]))
    assert again.n == NODES + 2


@pytest.mark.parametrize(
    "x", [np.geomspace(1, 10, 40), np.geomspace(1, 1e300, 500), np.linspace(-1, 5, 500), np.ones((500, 2))]
)
def test_leaves_alone_what_it_would_not_shorten(x: np.ndarray) -> None:
    assert cells_of(x.reshape(len(x), -1)) is None


def test_nothing_grows_with_the_square_of_the_points() -> None:
    rng = np.random.default_rng(7)
    x = np.repeat(10 ** rng.uniform(6, 8, 6000), 2)
    y = 1 - 0.05 * np.log10(x) + rng.normal(0, 0.01, len(x))
    seeds = replication(x[::2], y, np.arange(len(x)) // 2)
    assert seeds is not None
    sample = replace(points(x[::2], (y[::2] + y[1::2]) / 2), replication=seeds, runs=seeds.runs)
    tracemalloc.start()
    fit = sample.fit("power")
    run_interval(fit, sample, x[::2])
    fit.loo()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 6000**2 / 2
    assert Profile(fit.form, fit.x, grid(fit.form.box(fit.x)), fit.weights).q.shape[1] < 500
