"""Functional forms: their gradients against finite differences, and their inverse scales."""

from __future__ import annotations

import numpy as np
import pytest
from tables import TRUTHS, sizes

from analysis.laws.forms import BREAK_WIDTH, FORMS, find_form
from drorae.errors import UserError


@pytest.mark.parametrize("name", FORMS)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    form, x, truth = FORMS[name], sizes(name), np.array(TRUTHS[name])
    steps = np.diag(1e-6 * np.abs(truth))
    numeric = [(form.value(x, truth + h) - form.value(x, truth - h)) / (2 * h.sum()) for h in steps]
    exact = form.gradient(x, truth)
    np.testing.assert_allclose(
        exact / np.abs(exact).max(axis=0), np.array(numeric).T / np.abs(exact).max(axis=0), atol=1e-7
    )


@pytest.mark.parametrize("name", FORMS)
def test_the_scale_of_the_search_is_left_again(name: str) -> None:
    form, truth = FORMS[name], np.array(TRUTHS[name])
    np.testing.assert_allclose(form.natural(form.search(truth)), truth[len(form.coefficients) :])
    assert form.parameters == form.coefficients + form.curved
    assert form.least_points == len(truth) + 2


@pytest.mark.parametrize("name", FORMS)
def test_the_search_starts_around_plausible_parameters(name: str) -> None:
    form, x = FORMS[name], sizes(name)
    bounds = form.box(x.reshape(len(x), -1))
    assert len(bounds) == len(form.curved)
    for value, (low, high) in zip(form.search(np.array(TRUTHS[name])), bounds, strict=True):
        assert low < value < high


def test_values_are_those_of_the_formula() -> None:
    x = np.array([1e5, 1e6, 1e7])
    np.testing.assert_allclose(FORMS["power-offset"].value(x, [0.3, 20.0, 0.4]), 0.3 + 20 * x**-0.4)
    np.testing.assert_allclose(FORMS["shifted-power"].value(x, [40.0, 2e6, 0.3]), 40 * (x + 2e6) ** -0.3)
    a, b, c, d = 30.0, 0.3, -0.2, 5e6
    broken = a * x**-b * (1 + (x / d) ** (1 / BREAK_WIDTH)) ** (-c * BREAK_WIDTH)
    np.testing.assert_allclose(FORMS["broken-power"].value(x, [a, b, c, d]), broken)
    # Hoffmann et al. (2022), equation 10, of Chinchilla itself: 70 G parameters, 1.4 T tokens.
    loss = 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28
    assert FORMS["chinchilla"].value(np.array([[70e9, 1.4e12]]), TRUTHS["chinchilla"]) == pytest.approx(loss)


def test_an_unknown_law_lists_those_there_are() -> None:
    assert find_form("power") is FORMS["power"]
    with pytest.raises(UserError, match="law cubic: no such law; laws: log-linear, linear"):
        find_form("cubic")
