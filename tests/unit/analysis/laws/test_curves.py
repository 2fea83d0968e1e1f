"""Laws as curves: recovery of known parameters, certified values, intervals and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tables import TRUTHS, sizes

from analysis.laws.curves import Profile, fit_curve
from analysis.laws.forms import FORMS
from drorae.errors import UserError

# NIST StRD, data set DanWood: (y, x).
DANWOOD = np.array(
    [(2.138, 1.309), (3.421, 1.471), (3.597, 1.490), (4.340, 1.565), (4.882, 1.611), (5.660, 1.680)]
)  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_recovers_its_own_parameters(name: str) -> None:
    form, x, truth = FORMS[name], sizes(name), TRUTHS[name]
    y = form.value(x, truth)
    weights = np.linspace(1, 5, len(y))
    np.testing.assert_allclose(fit_curve(name, x, y).parameters, truth, rtol=1e-6)
    np.testing.assert_allclose(fit_curve(name, x, y, weights).parameters, truth, rtol=1e-6)
    np.testing.assert_allclose(fit_curve(name, x, y, method="huber").parameters, truth, rtol=1e-6)
    assert fit_curve(name, x, y).condition < 1e3


def test_nist_danwood() -> None:
    fit = fit_curve("power", DANWOOD[:, 1], DANWOOD[:, 0])
    np.testing.assert_allclose(fit.parameters, [7.6886226176e-01, -3.8604055871e00], rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)), [1.8281973860e-02, 5.1726610913e-02], rtol=1e-5)
    assert fit.rss == pytest.approx(4.3173084083e-03, rel=1e-9)
    relative = fit_curve("power", DANWOOD[:, 1], DANWOOD[:, 0], method="log-log")
    assert [round(float(value), 4) for value in relative.parameters] == [0.7499, -3.9172]


def test_huber_shrugs_off_one_wild_run() -> None:
    x = np.geomspace(1e5, 1e8, 12)
    y = FORMS["power-offset"].value(x, TRUTHS["power-offset"])
    y[4] *= 1.5
    robust = fit_curve("power-offset", x, y, method="huber").parameters
    np.testing.assert_allclose(robust, TRUTHS["power-offset"], rtol=0.02)
    assert abs(fit_curve("power-offset", x, y).parameters[0] / 0.3 - 1) > 0.02


@pytest.mark.parametrize("name", ["power", "power-offset", "shifted-power"])
def test_profile_interval_is_an_f_test_inverted(name: str) -> None:
    # Independent route: the RSS with the law forced through (x0, m), by adding that point with an enormous weight.
    rng = np.random.default_rng(3)
    x = np.geomspace(1e5, 1e8, 10)
    y = 0.3 + 20 * x**-0.4 + rng.normal(0, 0.01, 10)
    fit = fit_curve(name, x, y)
    at = np.array([[2e8]])
    low, high = fit.profile.interval(y, fit.form.basis(at, fit.profile.t)[0][:, 0])
    limit = fit.rss * (1 + stats.t.ppf(0.975, fit.dof) ** 2 / fit.dof)
    for end in (low, high):
        pinned = fit_curve(name, np.append(x, 2e8), np.append(y, end), np.append(np.ones(10), 1e8))
        left = float(np.sum((y - pinned.value(x)) ** 2))
        assert left == pytest.approx(limit, rel=2e-3)


@pytest.mark.parametrize("name", ["log-linear", "power-offset"])
def test_leave_one_out_is_a_refit_without_the_point(name: str) -> None:
    rng = np.random.default_rng(4)
    x = np.geomspace(1e5, 1e8, 9)
    y = 0.3 + 20 * x**-0.4 + rng.normal(0, 0.005, 9)
    rest = [np.arange(9) != i for i in range(9)]
    refitted = [y[i] - float(fit_curve(name, x[k], y[k]).value(x[i : i + 1])[0]) for i, k in enumerate(rest)]
    np.testing.assert_allclose(fit_curve(name, x, y).loo(), refitted, rtol=0.02, atol=1e-4)


def test_many_data_sets_at_once_are_each_of_them() -> None:
    rng = np.random.default_rng(5)
    x = np.geomspace(1e5, 1e8, 8)[:, None]
    y = 1 - 0.05 * np.log10(x[:, 0]) + rng.normal(0, 0.02, (5, 8))
    form = FORMS["power"]
    profile = Profile(form, x, np.linspace(-1, 1, 2001)[:, None])
    functional = form.basis(np.array([[3e8]]), profile.t)[0][:, 0]
    together = profile.interval(y, functional, 1.0)
    for i in range(5):
        np.testing.assert_allclose([end[i] for end in together], profile.interval(y[i], functional, 1.0), rtol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "cubic"}, "no such law; laws: log-linear"),
        ({"method": "magic"}, "methods: least-squares"),
        ({"x": np.array([1.0, 2, 0, 4, 5])}, "has no logarithm"),
        ({"x": np.arange(1.0, 4), "y": np.arange(3.0)}, "3 points for 3 parameters"),
        ({"y": np.array([1.0, 2, -1, 4, 5]), "method": "huber"}, "values above 0"),
        ({"y": np.array([1.0, 2, np.nan, 4, 5])}, "not finite"),
        ({"form": "plane"}, "expected 2 axes"),
        ({"weights": np.zeros(5)}, "weight above 0"),
    ],
)
def test_refuses_in_one_line(change: dict[str, object], message: str) -> None:
    given = {"form": "power-offset", "x": np.arange(1.0, 6), "y": np.arange(5.0, 0, -1)} | change
    with pytest.raises(UserError, match=message) as caught:
        fit_curve(**given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
