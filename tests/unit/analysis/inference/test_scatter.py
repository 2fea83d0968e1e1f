"""Errors of a regression whose points scatter unevenly, against their definition and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from analysis.inference.scatter import UnevenScatter, uneven_scatter
from analysis.laws.noise import replication

U = np.linspace(-1, 1, 12)
DESIGN = np.column_stack([np.ones(12), U])


def test_hc2_is_that_of_statsmodels_where_scatter_is_even() -> None:
    y = np.random.default_rng(0).normal(size=12)
    fit = sm.OLS(y, DESIGN).fit(cov_type="HC2")
    found = UnevenScatter(DESIGN, fit.resid, np.ones(12), 0.1, None, True)
    variance, dof = found.error(np.array([0.0, 1.0]))
    assert variance == pytest.approx(fit.cov_params()[1, 1])
    assert 1 < dof < 10


@pytest.mark.parametrize("tilt", [0.0, 2.3])
def test_the_variance_is_right_on_average(tilt: float) -> None:
    rng, variances = np.random.default_rng(1), np.exp(tilt * U)
    left = np.eye(12) - DESIGN @ np.linalg.pinv(DESIGN)
    row = np.array([0.0, 1.0])
    draws = rng.normal(size=(2000, 12)) * np.sqrt(variances)
    said = [UnevenScatter(DESIGN, left @ y, variances, 0.1, None, True).error(row)[0] for y in draws]
    assert np.mean(said) == pytest.approx(float((row @ np.linalg.pinv(DESIGN)) ** 2 @ variances), rel=0.06)


def test_who_speaks() -> None:
    rng = np.random.default_rng(2)
    x, sd = np.repeat(10.0 ** (U + 3), 3), np.repeat(np.exp(2 * U), 3)
    groups = np.repeat(np.arange(12), 3)
    left = np.eye(12) - DESIGN @ np.linalg.pinv(DESIGN)
    for scale, uneven in ((sd, True), (1.0, False)):
        y = rng.normal(size=36) * scale
        seeds = replication(x[::3], y, groups)
        found = uneven_scatter(DESIGN, left @ y[::3], U, seeds, True)
        assert (found is not None and found.seeds is seeds) == uneven
    assert uneven_scatter(DESIGN, left @ (rng.normal(size=12) * np.exp(3 * U)), U, None, True) is not None
    assert uneven_scatter(DESIGN, np.zeros(12), U, None, True) is None
