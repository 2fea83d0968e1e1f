"""The bootstrap of a law over its points."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from tables import TRUTHS, sizes

from analysis.laws.bootstrap import bootstrap
from analysis.laws.curves import Huber, fit_curve
from analysis.laws.forms import FORMS
from analysis.laws.intervals import parameter_intervals
from drorae.errors import UserError


def noisy(law: str, sd: float = 0.01, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = sizes(law)
    y = FORMS[law].value(x, TRUTHS[law])
    return x, y * np.exp(np.random.default_rng(seed).normal(0, sd, len(y)))


@pytest.mark.parametrize("loss", [Huber(), Huber("log", 0.01), Huber("plain"), Huber("plain", 0.02)])
@pytest.mark.parametrize("law", ["log-linear", "power", "power-offset", "chinchilla"])
def test_a_resample_is_fitted_as_the_points_themselves_would_be(law: str, loss: Huber) -> None:
    # Independent route: scipy's simplex on the loss of the points, repeated as often as they were drawn.
    # Steps end where a step gains nothing: a ten-thousandth of the loss, far below the scatter between resamples.
    x, y = noisy(law)
    fit = fit_curve(law, x, y, method="huber", loss=loss)
    found = bootstrap(fit, 100, seed=1)
    counts = np.random.default_rng(1).multinomial(len(y), np.full(len(y), 1 / len(y)), size=100)
    delta = found.fit.loss.delta if found.fit.loss is not None else None
    assert delta

    def misfit(parameters: np.ndarray, drawn: np.ndarray) -> float:
        value = fit.form.value(x, parameters)
        left = np.log(np.maximum(value, 1e-9)) - np.log(y) if loss.residuals == "log" else value - y
        size = np.abs(left)
        return float(np.sum(drawn * np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))))

    for drawn, ours in zip(counts[:3], found.parameters[:3], strict=True):
        start = np.where(ours == 0, 1, ours)
        best = optimize.minimize(
            lambda share, start=start, drawn=drawn: misfit(share * start, drawn), np.ones(len(start)),
            method="Nelder-Mead", options={"maxfev": 4000, "xatol": 1e-9, "fatol": 1e-14},
        )  # fmt: skip
        assert misfit(ours, drawn) <= best.fun * (1 + 3e-4) + 1e-12


def test_of_least_squares_it_agrees_with_exact_t() -> None:
    x = np.geomspace(1e5, 1e8, 40)
    y = 1 - 0.05 * np.log10(x) + np.random.default_rng(2).normal(0, 0.02, 40)
    fit = fit_curve("log-linear", x, y)
    exact = parameter_intervals(fit)["slope"]
    found = bootstrap(fit, 4000, "residuals").intervals["slope"]
    assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.1)
    assert found.low == pytest.approx(exact.low, abs=0.1 * (exact.high - exact.low))
    at = np.geomspace(1e5, 1e8, 5)
    from analysis.laws.intervals import law_interval, new_point_interval

    again = bootstrap(fit, 4000, "residuals")
    for ours, theirs in (
        (again.law_interval(at), law_interval(fit, at)), (again.new_point_interval(at), new_point_interval(fit, at)),
    ):  # fmt: skip
        assert ours[1] - ours[0] == pytest.approx(theirs[1] - theirs[0], rel=0.25)


@pytest.mark.parametrize("kind", ["pairs", "residuals"])
def test_the_slope_s_interval_covers_at_twelve_points(kind: str) -> None:
    # Nominal 95%; a plain percentile interval of 12 points covers .908 (pairs) and .896 (residuals).
    rng, hits = np.random.default_rng(3), 0
    x = np.geomspace(1e5, 1e8, 12)
    for _ in range(200):
        fit = fit_curve("log-linear", x, 1 - 0.05 * np.log10(x) + rng.normal(0, 0.02, 12), method="huber",
                        loss=Huber("plain"))  # fmt: skip
        low, high = bootstrap(fit, 400, kind).intervals["slope"]  # type: ignore[arg-type]
        hits += low <= -0.05 <= high
    assert 0.91 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_and_progress_is_told() -> None:
    fit = fit_curve("power", *noisy("power"), method="huber")
    told: list[tuple[int, int]] = []
    first = bootstrap(fit, 150, seed=5, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (150, 150)
    np.testing.assert_array_equal(first.parameters, bootstrap(fit, 150, seed=5).parameters)
    assert not np.array_equal(first.parameters, bootstrap(fit, 150, seed=6).parameters)


def test_an_offset_that_points_do_not_show_has_no_end() -> None:
    x = np.geomspace(1e5, 1e8, 10)
    y = 1 - 0.05 * np.log10(x) + np.random.default_rng(5).normal(0, 0.01, 10)
    found = bootstrap(fit_curve("power-offset", x, y, method="huber"), 300)
    assert found.intervals["E"].low == -np.inf and found.intervals["b"].low == 0
    assert found.one_sided("E").low == -np.inf


@pytest.mark.parametrize(
    ("asked", "named"), [({"resamples": 5}, "100 or more"), ({"kind": "wild"}, "kinds: pairs, residuals")]
)
def test_what_makes_no_interval_is_refused(asked: dict[str, object], named: str) -> None:
    fit = fit_curve("power", *noisy("power"), method="huber")
    with pytest.raises(UserError, match=named):
        bootstrap(fit, **asked)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="log-log: no bootstrap"):
        bootstrap(fit_curve("power", *noisy("power"), method="log-log"))
