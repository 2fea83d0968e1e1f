"""Functional forms of a law, each with its basis functions and their derivatives.

Every form is linear in its coefficients c once its curved parameters t are fixed,

    y = sum_j c_j phi_j(x; t),

so that a fit searches over t alone and gets c by least squares (variable projection: Golub and Pereyra 1973). That
turns Chinchilla's five parameters into a search over two, and its condition number from 1e11 into about ten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drorae.errors import UserError

OFFSET = "E"
"""Name of the coefficient that a power law levels off at; the first one of its form."""

BREAK_WIDTH = 0.3
"""Width of a break in ln x: the f of Caballero et al. (2022), fixed, since a handful of sizes cannot estimate it."""

LEAST_EXPONENT, LARGEST_EXPONENT = 0.003, 5.0
"""Bounds of an exponent beside an offset. At the lower one a power is as good as a logarithm."""

Terms = tuple[Sequence[np.ndarray | float], Sequence[Sequence[np.ndarray | float]]]
"""phi_j and d phi_j / d t_m, each of shape (..., n), or a number where it is the same everywhere."""
Basis = Callable[[np.ndarray, np.ndarray], Terms]
"""(x of shape (n, axes), t of shape (..., curved)) -> their terms."""

Box = Callable[[np.ndarray], list[tuple[float, float]]]


@dataclass(frozen=True)
class Form:
    """One functional form.

    Curved parameters are searched for on the scale where they are free of sign and size: the natural logarithm for
    those in `logged`, themselves otherwise. Elsewhere "parameters" are the natural ones: coefficients, then curved.
    """

    name: str
    formula: str
    axes: int
    coefficients: tuple[str, ...]
    curved: tuple[str, ...]
    logged: tuple[bool, ...]
    levels: tuple[int, ...]
    """Least number of different values on each axis."""
    terms: Basis
    box: Box
    """Bounds of the curved parameters on the scale of the search, for sizes x."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters."""
        return self.coefficients + self.curved

    @property
    def least_points(self) -> int:
        """Configurations below which a fit says next to nothing: parameters + 2."""
        return len(self.parameters) + 2

    def basis(self, x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns phi of shape (..., n, k) and d phi / d t of shape (..., n, k, m) for x (n, axes) and t (..., m)."""
        phi, slopes = self.terms(x, t)
        shape = (*t.shape[:-1], len(x))
        columns = np.stack([np.broadcast_to(item, shape) for item in phi], axis=-1)
        if not self.curved:
            return columns, np.zeros((*columns.shape, 0))
        return columns, np.stack(
            [np.stack([np.broadcast_to(item, shape) for item in row], axis=-1) for row in slopes], axis=-2
        )

    def search(self, parameters: np.ndarray) -> np.ndarray:
        """Curved parameters on the scale of the search."""
        curved = np.asarray(parameters, dtype=float)[len(self.coefficients) :]
        return np.array([np.log(value) if log else value for value, log in zip(curved, self.logged, strict=True)])

    def natural(self, t: np.ndarray) -> np.ndarray:
        """The inverse of `search`: natural curved parameters of t (..., m)."""
        return np.where(np.array(self.logged, dtype=bool), np.exp(np.where(self.logged, t, 0)), t)

    def value(self, x: np.ndarray, parameters: Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns y of shape (n,) for x of shape (n,) or (n, axes) and natural parameters."""
        x, parameters = sizes(x), np.asarray(parameters, dtype=float)
        return np.asarray(self.basis(x, self.search(parameters))[0] @ parameters[: len(self.coefficients)])

    def gradient(self, x: np.ndarray, parameters: Sequence[float] | np.ndarray) -> np.ndarray:
        """dy/d(natural parameters), of shape (n, parameters)."""
        x, parameters = sizes(x), np.asarray(parameters, dtype=float)
        k = len(self.coefficients)
        phi, slopes = self.basis(x, self.search(parameters))
        # d/d(natural) = d/d(ln) / natural for those searched in their logarithm.
        factor = np.where(self.logged, 1 / np.where(self.logged, parameters[k:], 1), 1) if self.curved else np.ones(0)
        return np.concatenate([phi, np.einsum("nkm,k->nm", slopes, parameters[:k]) * factor], axis=1)


def sizes(x: np.ndarray | Sequence[float]) -> np.ndarray:
    """Returns x as (n, axes)."""
    array = np.atleast_1d(np.asarray(x, dtype=float))
    return array[:, None] if array.ndim == 1 else array


def _power(x: np.ndarray, t: np.ndarray) -> Terms:
    z = np.log(x[:, 0])
    term = np.exp(-t[..., 0, None] * z)
    return [term], [[-z * term]]


def _decay(z: np.ndarray, log_exponent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp(z)^-b and its derivative by ln b."""
    exponent = np.exp(log_exponent)[..., None]
    term = np.exp(-exponent * z)
    return term, -exponent * z * term


def _power_offset(x: np.ndarray, t: np.ndarray) -> Terms:
    term, slope = _decay(np.log(x[:, 0]), t[..., 0])
    return [1.0, term], [[0.0], [slope]]


def _shifted_power(x: np.ndarray, t: np.ndarray) -> Terms:
    shift, exponent = np.exp(t[..., 0, None]), t[..., 1, None]
    z = np.log(x[:, 0] + shift)
    term = np.exp(-exponent * z)
    return [term], [[-exponent * shift / (x[:, 0] + shift) * term, -z * term]]


def _broken_power(x: np.ndarray, t: np.ndarray) -> Terms:
    z = np.log(x[:, 0])
    away = (z - t[..., 2, None]) / BREAK_WIDTH
    ramp = BREAK_WIDTH * np.logaddexp(0, away)
    term = np.exp(-t[..., 0, None] * z - t[..., 1, None] * ramp)
    return [term], [[-z * term, -ramp * term, t[..., 1, None] / (1 + np.exp(-away)) * term]]


def _two_powers(x: np.ndarray, t: np.ndarray) -> Terms:
    first, first_slope = _decay(np.log(x[:, 0]), t[..., 0])
    second, second_slope = _decay(np.log(x[:, 1]), t[..., 1])
    return [1.0, first, second], [[0.0, 0.0], [first_slope, 0.0], [0.0, second_slope]]


def _two_powers_crossed(x: np.ndarray, t: np.ndarray) -> Terms:
    (one, first, second), (_, (first_slope, _), (_, second_slope)) = _two_powers(x, t)
    product = [first_slope * second, first * second_slope]
    return [one, first, second, first * second], [[0.0, 0.0], [first_slope, 0.0], [0.0, second_slope], product]


_SIGNED = (-10.0, 10.0)
_BESIDE_OFFSET = (float(np.log(LEAST_EXPONENT)), float(np.log(LARGEST_EXPONENT)))


def _linear(
    name: str,
    formula: str,
    columns: Callable[[np.ndarray], Sequence[np.ndarray | float]],
    names: tuple[str, ...] = ("a", "b", "c"),
    levels: tuple[int, ...] = (2,),
) -> Form:
    """Returns a form without curved parameters: a combination of `columns`, functions of the sizes x (n, axes)."""
    return Form(name, formula, len(levels), names, (), (), levels, lambda x, t: (columns(x), []), lambda x: [])


def _shift_box(x: np.ndarray) -> list[tuple[float, float]]:
    z = np.log(x[:, 0])
    return [(float(z.min()) - 5, float(z.max()) + 2), _SIGNED]


def _break_box(x: np.ndarray) -> list[tuple[float, float]]:
    z = np.log(x[:, 0])
    return [(-5.0, 5.0), (-5.0, 5.0), (float(z.min()), float(z.max()))]


_LINE = ("intercept", "slope")
_TWO_POWERS = Form(
    "two-powers", "y = E + A P^-alpha + B L^-beta", 2, (OFFSET, "A", "B"), ("alpha", "beta"), (True, True), (3, 3),
    _two_powers, lambda x: [_BESIDE_OFFSET, _BESIDE_OFFSET],
)  # fmt: skip

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        _linear("log-linear", "y = intercept + slope log10(x)", lambda x: [1.0, np.log10(x[:, 0])], names=_LINE),
        _linear("linear", "y = intercept + slope x", lambda x: [1.0, x[:, 0]], names=_LINE),
        Form("power", "y = A x^-b", 1, ("A",), ("b",), (False,), (3,), _power, lambda x: [_SIGNED]),
        Form("power-offset", "y = E + A x^-b", 1, (OFFSET, "A"), ("b",), (True,), (3,),
             _power_offset, lambda x: [_BESIDE_OFFSET]),
        _linear("log-quadratic", "y = a + b log10(x) + c log10(x)^2",
                lambda x: [1.0, np.log10(x[:, 0]), np.log10(x[:, 0]) ** 2], levels=(3,)),
        Form("shifted-power", "y = A (x + s)^-b", 1, ("A",), ("s", "b"), (True, False), (4,),
             _shifted_power, _shift_box),
        Form("broken-power", f"y = A x^-b (1 + (x/d)^(1/f))^(-c f), f = {BREAK_WIDTH}", 1, ("A",), ("b", "c", "d"),
             (False, False, True), (6,), _broken_power, _break_box),
        _linear("plane", "y = a + b log10(P) + c L", lambda x: [1.0, np.log10(x[:, 0]), x[:, 1]], levels=(2, 2)),
        _linear("interaction", "y = a + b log10(P) + c L + d L log10(P)",
                lambda x: [1.0, np.log10(x[:, 0]), x[:, 1], np.log10(x[:, 0]) * x[:, 1]],
                names=("a", "b", "c", "d"), levels=(2, 2)),
        _linear("log-plane", "y = a + b log10(P) + c log10(L)",
                lambda x: [1.0, np.log10(x[:, 0]), np.log10(x[:, 1])], levels=(2, 2)),
        _linear("log-interaction", "y = a + b log10(P) + c log10(L) + d log10(L) log10(P)",
                lambda x: [1.0, np.log10(x[:, 0]), np.log10(x[:, 1]), np.log10(x[:, 0]) * np.log10(x[:, 1])],
                names=("a", "b", "c", "d"), levels=(2, 2)),
        _TWO_POWERS,
        replace(_TWO_POWERS, name="two-powers-crossed",
                formula="y = E + A P^-alpha + B L^-beta + C P^-alpha L^-beta", coefficients=("E", "A", "B", "C"),
                terms=_two_powers_crossed),
        replace(_TWO_POWERS, name="chinchilla", formula="y = E + A N^-alpha + B D^-beta"),
    )
}  # fmt: skip
"""The forms by name. Shifted and broken powers: Alabdulmohsin et al. (2022), Caballero et al. (2022); two powers with
an offset: Hoffmann et al. (2022), equation 2, which fits capacity and layers as well as parameters and tokens."""


def find_form(name: str) -> Form:
    """The form called `name`.

    Raises:
        UserError: no such form.
    """
    if name not in FORMS:
        raise UserError(f"law {name}: no such law; laws: {', '.join(FORMS)}")
    return FORMS[name]
