"""Distances from the convex hull of pairs: by hand, and against a linear program."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from analysis.inference.hull import distances, outline

SIZES = np.array([(n, d) for n in np.geomspace(5e7, 1e10, 4) for d in np.geomspace(1e9, 5e11, 4)])


@pytest.mark.parametrize(
    ("at", "expected"),
    [((1e8, 1e10), 0.0), ((5e7, 5e11), 0.0), ((1e11, 1e10), 1.0), ((1e11, 5e13), 2.0), ((5e6, 1e9), 1.0)],
)
def test_distance_is_in_decades_from_the_pairs_measured(at: tuple[float, float], expected: float) -> None:
    assert distances(SIZES, np.array([at]))[0] == pytest.approx(expected, abs=1e-6)


def test_the_corner_that_nobody_ran_is_outside() -> None:
    diagonal = np.array([(10.0**k, 10.0 ** (k + j)) for k in range(5) for j in (0, 1)])
    assert distances(diagonal, np.array([(1e4, 1.0)]))[0] == pytest.approx(2.0)
    # An axis of layers from 2 to 6 spans half a decade, in which 12 is six tenths of it away.
    layers = np.array([(10.0**k, float(n)) for k in range(3) for n in (2, 4, 6)])
    assert distances(layers, np.array([(10.0, 12.0)]))[0] == pytest.approx(np.log10(2) / np.log10(3))
    # Zero has no logarithm: there the span is 6.
    assert distances(layers - [0, 2], np.array([(10.0, 6.0)]))[0] == pytest.approx(0.5)


def by_program(corners: np.ndarray, point: np.ndarray) -> float:
    """Least t with |point - a convex combination of corners| <= t on every axis."""
    n = len(corners)
    sides = np.column_stack([np.vstack([corners.T, -corners.T]), -np.ones(4)])
    total = np.append(np.ones(n), 0.0)[None]
    solved = optimize.linprog(np.append(np.zeros(n), 1.0), sides, np.append(point, -point), total, [1.0])
    return float(solved.fun)


@pytest.mark.parametrize("seed", range(4))
def test_distance_is_that_of_a_linear_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logs = rng.uniform(0, 2, (7, 2)) @ np.array([[1, 0.8], [0, 0.3]]) + [1, 1]
    asked = rng.uniform(-1, 5, (30, 2))
    unit = np.minimum(np.ptp(logs, axis=0), 1)
    expected = [by_program(logs / unit, point / unit) for point in asked]
    np.testing.assert_allclose(distances(10**logs, 10**asked), expected, atol=1e-6)


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_pairs_on_one_line_have_the_line_between_its_ends(slope: float) -> None:
    line = np.array([(10.0**k, 10.0 ** (slope * k)) for k in range(4)])
    asked = np.array([(10.0**1.5, 10.0 ** (1.5 * slope)), (1e5, 10.0 ** (3 * slope))])
    np.testing.assert_allclose(distances(line, asked), [0, 2], atol=1e-9)


def test_the_outline_goes_around_the_pairs() -> None:
    around = outline(SIZES)
    np.testing.assert_allclose(around[0], around[-1])
    np.testing.assert_allclose(distances(SIZES, around), 0, atol=1e-8)
    assert {tuple(corner) for corner in around.round(-6)} >= {(5e7, 1e9), (1e10, 5e11)}
    # A step outwards from any of its points leaves the hull.
    centre = np.exp(np.log(SIZES).mean(axis=0))
    assert distances(SIZES, centre * (around / centre) ** 1.01).min() > 0
