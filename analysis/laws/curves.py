"""Fits of a form to points: least squares, weighted least squares, Huber on log residuals; profiles of the misfit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Literal

import numpy as np
from scipy import optimize, stats

from analysis.laws.cells import cells_of, condense
from analysis.laws.forms import Form, find_form, sizes
from analysis.laws.noise import Replication, Uncertainty
from drorae.errors import UserError

Method = Literal["least-squares", "log-log", "huber"]

HUBER_DELTA = 1e-3
"""Scale of the Huber loss of log residuals: Hoffmann et al. (2022), appendix D.3; Besiroglu et al. (2024)."""

HUBER_SDS = 1.345
"""Scale of the Huber loss of plain residuals, in robust standard deviations: 95% efficient where they are normal."""


@dataclass(frozen=True)
class Huber:
    """A Huber loss: squares of residuals up to delta, absolute values beyond."""

    residuals: Literal["log", "plain"] = "log"
    """log y less the logarithm of the law, or y less the law."""
    delta: float | None = None
    """In units of the residuals; by default 1e-3 of log residuals, and 1.345 robust standard deviations (1.4826 median
    absolute deviations from the least-squares fit) of plain ones."""


_GRID = {0: 1, 1: 241, 2: 41, 3: 17}
"""Values per curved parameter in a search, by the number of curved parameters."""

_NUMBERS = 500_000
"""In an array of grid points by points, of which a part is worked on at a time."""


def _lengths(columns: np.ndarray, axis: int = 0) -> np.ndarray:
    """Norms along an axis of columns whose squares, as of powers of sizes near 1e21, may overflow."""
    peak = np.abs(columns).max(axis=axis)
    peak = np.where(peak == 0, 1.0, peak)
    return np.asarray(peak * np.linalg.norm(columns / np.expand_dims(peak, axis), axis=axis))


class Profile:
    """Least squares of many data sets at many fixed values of the curved parameters at once.

    x (n, axes), t (G, m), weights (n,): relative precisions of the points. With G = 1 and no curved parameters the
    intervals are the exact t of a linear law; otherwise they are profile likelihood, F-calibrated.
    """

    def __init__(self, form: Form, x: np.ndarray, t: np.ndarray, weights: np.ndarray | None = None) -> None:
        self.form, self.t = form, t
        self.root = np.sqrt(np.ones(len(x)) if weights is None else weights)
        self.n = len(x)
        self.condensed = condense(x, self.root) if form.curved else None
        if self.condensed is None:
            phi = form.basis(x, t)[0] * self.root[:, None]
        else:
            at_nodes = np.swapaxes(form.basis(self.condensed.cells.at, t)[0], 1, 2)
            phi = np.swapaxes(self.condensed.rows(at_nodes), 1, 2)
        scale = _lengths(phi, axis=1)[:, None]
        scale[scale == 0] = 1
        self.q, r = np.linalg.qr(phi / scale)
        diagonal = np.abs(np.diagonal(r, axis1=1, axis2=2))
        # Where two basis functions coincide at some t (an exponent that is all but zero) that t is no candidate.
        self.usable = diagonal.min(axis=1) > 1e-12
        r[~self.usable] = np.eye(r.shape[-1])
        self.back = np.linalg.inv(r) / np.swapaxes(scale, 1, 2)

    @property
    def dof(self) -> int:
        """Points less all parameters."""
        return self.n - len(self.form.parameters)

    def _target(self, y: np.ndarray) -> np.ndarray:
        """Weighted y (..., n) in the rows of q."""
        z = y * self.root
        return np.asarray(z) if self.condensed is None else self.condensed.target(z)

    def coefficients(self, y: np.ndarray) -> np.ndarray:
        """Best coefficients at every t, (..., G, k), of y (..., n)."""
        projected = np.einsum("gnk,...n->...gk", self.q, self._target(y))
        return np.asarray(np.einsum("gjk,...gk->...gj", self.back, projected))

    def rss(self, y: np.ndarray) -> np.ndarray:
        """Least weighted sum of squares at every t, (..., G), of y (..., n); inf where t is unusable."""
        z = self._target(y)
        part = np.tensordot(z, self.q, axes=([-1], [1]))
        if z.ndim == 1 or len(self.t) == 1:
            left = z[..., None, :] - np.einsum("...gk,gnk->...gn", part, self.q)
            total = np.sum(left**2, axis=-1)
        else:
            # Without the (data sets, t, n) array; loses digits only far below any noise that is simulated.
            total = np.maximum(np.sum(z**2, axis=-1)[..., None] - np.sum(part**2, axis=-1), 0)
        if self.condensed is not None:
            total = total + self.condensed.rest(y * self.root)[..., None]
        return np.where(self.usable, total, np.inf)

    def _rows(self, part: slice) -> np.ndarray:
        """Orthonormal columns at the points, (g, n, k), of some t."""
        if self.condensed is None:
            return np.asarray(self.q[part])
        cells = self.condensed.cells
        at_nodes = np.swapaxes(self.form.basis(cells.at, self.t[part])[0], 1, 2)
        return np.asarray(np.einsum("gjn,gjk->gnk", cells.spread(at_nodes) * self.root, self.back[part]))

    def leave_one_out(self, y: np.ndarray) -> np.ndarray:
        """y_i less its prediction from the other points, (n,), of y (n,); t is chosen anew without each point."""
        z, points = y * self.root, np.arange(self.n)
        projected = np.einsum("gnk,n->gk", self.q, self._target(y))
        least, found = np.full(self.n, np.inf), np.zeros(self.n)
        step = max(1, _NUMBERS // self.n)
        for first in range(0, len(self.t), step):
            part = slice(first, first + step)
            rows = self._rows(part)
            left = z - np.einsum("gk,gnk->gn", projected[part], rows)
            hat = np.minimum(np.einsum("gnk,gnk->gn", rows, rows), 1 - 1e-12)
            without = np.sum(left**2, axis=1)[:, None] - left**2 / (1 - hat)
            without[~self.usable[part]] = np.inf
            best = np.argmin(without, axis=0)
            better = without[best, points] < least
            left, hat, without = (item[best, points] for item in (left, hat, without))
            least, found = np.where(better, without, least), np.where(better, left / (1 - hat), found)
        return np.asarray(found / self.root)

    def interval(
        self,
        y: np.ndarray,
        functional: np.ndarray,
        extra: np.ndarray | float = 0.0,
        allowance: np.ndarray | float = float("nan"),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the 95% interval of functional(t) . c(t) plus noise of variance extra sigma^2, its ends each (...).

        Args:
            y: data sets, shape (..., n).
            functional: weights of the coefficients at every t, shape (G, k); of one data set many, (points, G, k).
            extra: variance of the noise in units of sigma^2, a number or one for each functional; none by default.
            allowance: by how much RSS may exceed its least, likewise; nan for RSS_min q^2 / dof with q the t quantile.

        The union over t of m(t) +/- sqrt((h(t) + extra) (limit - RSS(t))) with limit = RSS_min + allowance, m the
        functional's best value at t and h its variance in units of sigma^2: the set of values that an F test of the
        extra sum of squares keeps. Without curved parameters that is m +/- q s sqrt(h + extra).
        """
        rss = self.rss(y)
        slack = self._limit(rss, allowance)[..., None] - rss
        return _union(functional, self.coefficients(y), self.back, slack, np.asarray(extra))

    def band(
        self, y: np.ndarray, at: np.ndarray, extra: np.ndarray, allowance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns `interval` of the law itself at many sizes, its ends each (points,).

        Args:
            y: one data set, shape (n,).
            at: sizes, shape (points, axes).
            extra: as in `interval`, shape (points,).
            allowance: likewise.
        """
        rss, coefficients = self.rss(y), self.coefficients(y)
        limit = self._limit(rss, allowance)
        heard = np.flatnonzero(rss <= limit.max(initial=0))
        cells = cells_of(at) if self.form.curved else None
        low, high = np.full(len(at), np.inf), np.full(len(at), -np.inf)
        step = max(1, _NUMBERS // max(len(at), 1))
        for first in range(0, len(heard), step):
            part = heard[first : first + step]
            if cells is None:
                columns = np.swapaxes(self.form.basis(at, self.t[part])[0], 0, 1)
            else:
                columns = np.transpose(
                    cells.spread(np.swapaxes(self.form.basis(cells.at, self.t[part])[0], 1, 2)), (2, 0, 1)
                )
            ends = _union(columns, coefficients[part], self.back[part], limit[:, None] - rss[part], extra)
            low, high = np.minimum(low, ends[0]), np.maximum(high, ends[1])
        return low, high

    def _limit(self, rss: np.ndarray, allowance: np.ndarray | float) -> np.ndarray:
        """The misfit up to which a t is kept."""
        least = rss.min(axis=-1)
        own = least * stats.t.ppf(0.975, self.dof) ** 2 / self.dof
        return np.asarray(least + np.where(np.isnan(allowance), own, allowance))


def _union(
    functional: np.ndarray, coefficients: np.ndarray, back: np.ndarray, slack: np.ndarray, extra: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the intervals at every t, all together; see `Profile.interval`."""
    kept = slack >= 0
    reach = np.einsum("...gk,gkj->...gj", functional, back)
    middle = np.sum(coefficients * functional, axis=-1)
    half = np.sqrt(np.where(kept, (np.sum(reach**2, axis=-1) + extra[..., None]) * slack, 0))
    low = np.where(kept, middle - half, np.inf).min(axis=-1)
    return low, np.where(kept, middle + half, -np.inf).max(axis=-1)


def grid(box: list[tuple[float, float]], per_axis: int | None = None) -> np.ndarray:
    """Evenly spaced points (G, m) of a box; one empty point for no box."""
    count = per_axis or _GRID[len(box)]
    return np.array(list(product(*(np.linspace(low, high, count) for low, high in box))))


@dataclass(frozen=True, eq=False)
class CurveFit:
    """A form fitted to points.

    x (n, axes), y (n,), weights (n,): relative precisions, mean 1. Values are on the scale of y.
    """

    form: Form
    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    parameters: np.ndarray
    """Natural, in the order of `form.parameters`."""
    rss: float
    """Weighted sum of squared residuals of y (of log y with method log-log)."""
    replication: Replication | None = None
    """What the seeds of the points know of their scatter; None where the residuals alone tell."""
    method: Method = "least-squares"
    """Intervals, covariance and leave-one-out errors are those of least squares; other methods refuse them, and have
    the intervals of `analysis.laws.bootstrap`."""
    loss: Huber | None = None
    """With its delta, of method huber."""

    @property
    def name(self) -> str:
        """The form's name."""
        return self.form.name

    @property
    def n(self) -> int:
        """Points."""
        return len(self.y)

    @property
    def dof(self) -> int:
        """Points less parameters."""
        return self.n - len(self.parameters)

    @property
    def residual_sd(self) -> float:
        """sqrt(RSS / dof)."""
        return float(np.sqrt(self.rss / self.dof))

    @property
    def t_best(self) -> np.ndarray:
        """Curved parameters on the scale of the search."""
        return self.form.search(self.parameters)

    @property
    def r2(self) -> float:
        """1 - RSS over the weighted sum of squares about the mean, on the scale of y."""
        mean = np.average(self.y, weights=self.weights)
        about = float(np.sum(self.weights * (self.y - mean) ** 2))
        return 1 - float(np.sum(self.weights * (self.y - self.value(self.x)) ** 2)) / about

    @property
    def aicc(self) -> float:
        """AIC + 2k(k+1)/(n-k-1), k counting sigma (Hurvich and Tsai 1989); inf where n is too small."""
        k = len(self.parameters) + 1
        return self.aic + 2 * k * (k + 1) / (self.n - k - 1) if self.n - k - 1 > 0 else float("inf")

    @property
    def aic(self) -> float:
        """Akaike's criterion, n ln(RSS/n) + 2k, k counting sigma."""
        floor = 1e-24 * float(np.sum(self.y**2)) + 1e-300
        return self.n * float(np.log(max(self.rss, floor) / self.n)) + 2 * (len(self.parameters) + 1)

    def value(self, x: np.ndarray) -> np.ndarray:
        """The law at x."""
        return self.form.value(x, self.parameters)

    @cached_property
    def at_bound(self) -> tuple[str, ...]:
        """Curved parameters that the search would have taken further."""
        return tuple(
            name
            for name, value, (low, high) in zip(self.form.curved, self.t_best, self.form.box(self.x), strict=True)
            if min(value - low, high - value) < 1e-3 * (high - low)
        )

    @cached_property
    def condition(self) -> float:
        """Condition number of the Jacobian with columns of unit length.

        Of curved parameters after projecting out the coefficients (variable projection); of the coefficients' basis
        where nothing is curved, centred on x's middle.
        """
        phi, slopes = self.form.basis(self.x, self.t_best)
        if self.form.curved:
            q, _ = np.linalg.qr(phi / _lengths(phi))
            jacobian = np.einsum("nkm,k->nm", slopes, self.parameters[: phi.shape[1]])
            jacobian = jacobian - q @ (q.T @ jacobian)
        else:
            jacobian = phi[:, 1:] - phi[:, 1:].mean(axis=0)
        lengths = _lengths(jacobian)
        return float(np.linalg.cond(jacobian / lengths)) if np.all(lengths > 0) else float("inf")

    def _only_least_squares(self) -> None:
        if self.method != "least-squares":
            raise UserError(
                f"law {self.name}, method {self.method}: an interval of least squares need not hold the estimate; "
                "take analysis.laws.bootstrap, or method least-squares for intervals"
            )

    @cached_property
    def covariance(self) -> np.ndarray:
        """s^2 (J'WJ)^-1 of the natural parameters: exact for linear forms, the delta method for others.

        Raises:
            UserError: another method than least squares.
        """
        self._only_least_squares()
        unit, lengths = self.jacobian()
        inverse = np.linalg.pinv(unit.T @ unit, rcond=1e-15, hermitian=True)
        return np.asarray(self.residual_sd**2 * inverse / np.outer(lengths, lengths))

    def jacobian(self) -> tuple[np.ndarray, np.ndarray]:
        """The weighted gradient with columns of unit length, (n, parameters), and the lengths they had."""
        jacobian = self.form.gradient(self.x, self.parameters) * np.sqrt(self.weights)[:, None]
        lengths = _lengths(jacobian)
        lengths[lengths == 0] = 1
        return jacobian / lengths, lengths

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """How residuals and seeds together measure the scatter; only where there are seeds."""
        assert self.replication is not None
        gradient = self.form.gradient(self.x, self.parameters)
        return Uncertainty(gradient, self.weights, self.rss, self.replication)

    @cached_property
    def allowances(self) -> np.ndarray:
        """By how much RSS may exceed its least in the 95% interval of each parameter, (parameters,)."""
        return self.allowances_at(0.95)

    def allowances_at(self, level: float) -> np.ndarray:
        """The same for two-sided intervals of another level."""
        own = np.full(len(self.parameters), self.rss * stats.t.ppf((1 + level) / 2, self.dof) ** 2 / self.dof)
        if self.replication is None:
            return own
        found = self.uncertainty.margin(np.eye(len(self.parameters))).allowed(level)
        return np.where(np.isnan(found), own, found)

    @cached_property
    def correlation(self) -> float:
        """Largest absolute correlation between two curved parameters, or between E and an exponent; 0 without any."""
        if not self.form.curved:
            return 0.0
        sd = np.sqrt(np.diag(self.covariance))
        if not np.all(sd > 0):
            return 1.0
        matrix = np.abs(self.covariance / np.outer(sd, sd))
        # The scale A of a power and its exponent always correlate where x is far from 1: no sign of trouble.
        names = self.form.parameters
        kept = [i for i, name in enumerate(names) if name not in ("A", "B")]
        rest = matrix[np.ix_(kept, kept)] - np.eye(len(kept))
        return float(rest.max()) if len(kept) > 1 else 0.0

    @cached_property
    def profile(self) -> Profile:
        """The profile on a grid laid over those curved parameters that the data do not rule out.

        Raises:
            UserError: another method than least squares.
        """
        self._only_least_squares()
        box = self.form.box(self.x)
        if not box:
            return Profile(self.form, self.x, np.zeros((1, 0)), self.weights)
        lows, highs = np.array(box).T
        best = self.t_best
        wide = np.vstack([grid(box), best])
        steps = (highs - lows) / (_GRID[len(box)] - 1)
        # The natural parameters' covariance, on the scale of the search: a first guess of the set's size.
        sd = np.sqrt(np.maximum(np.diag(self.covariance)[len(self.form.coefficients) :], 0))
        sd = np.where(self.form.logged, sd / np.where(self.form.logged, self.form.natural(best), 1), sd)
        reach = np.minimum(np.where(np.isfinite(sd), 4 * sd, 0) + 1e-9 * (highs - lows), highs - lows)
        # At n = 8 the widest interval asked for is that of a single new run: q^2 for 2 degrees of freedom covers all.
        limit = max(self.rss * stats.t.ppf(0.975, self.dof) ** 2 / self.dof, float(self.allowances.max()))
        for _ in range(2):
            profile = Profile(self.form, self.x, wide, self.weights)
            rss = profile.rss(self.y)
            inside = wide[rss <= rss.min() + limit]
            low = np.clip(np.minimum(inside.min(axis=0) - steps, best - reach), lows, highs)
            high = np.clip(np.maximum(inside.max(axis=0) + steps, best + reach), lows, highs)
            wide = np.vstack([grid(list(zip(low, high, strict=True))), best])
            steps = (high - low) / (_GRID[len(box)] - 1)
            reach = np.minimum(reach, steps)
        return Profile(self.form, self.x, wide, self.weights)

    def loo(self) -> np.ndarray:
        """Leave-one-out residuals, (n,)."""
        return self.profile.leave_one_out(self.y)

    @cached_property
    def loo_rmse(self) -> float:
        """Root mean square of the leave-one-out residuals: how well the others predict each point."""
        return float(np.sqrt(np.mean(self.loo() ** 2)))

    @property
    def text(self) -> str:
        """The form with its parameters, such as 'y = A x^-b; A = 3.1, b = 0.12'."""
        pairs = zip(self.form.parameters, self.parameters, strict=True)
        return f"{self.form.formula}; {', '.join(f'{name} = {value:.4g}' for name, value in pairs)}"


def fit_curve(
    form: Form | str,
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None = None,
    method: Method = "least-squares",
    replication: Replication | None = None,
    loss: Huber | None = None,
) -> CurveFit:
    """Fits a form to points; the search starts from every point of a grid over the curved parameters.

    Args:
        form: the form or its name.
        x: sizes, shape (n,) or (n, axes).
        y: values, shape (n,).
        weights: relative precisions, shape (n,); equal by default.
        method: least-squares; log-log, a power law as a line of log y on log x, which minimises relative errors and so
            answers another question; huber, a Huber loss.
        replication: what the seeds of the points know of their scatter; nothing by default.
        loss: of method huber; of log residuals with delta 1e-3 by default.

    >>> import numpy as np
    >>> x = np.geomspace(1e5, 1e8, 8)
    >>> fit = fit_curve("power-offset", x, 0.3 + 20 * x**-0.4)
    >>> [round(float(value), 6) for value in fit.parameters]
    [0.3, 20.0, 0.4]

    Raises:
        UserError: an unknown form or method, shapes that do not fit, sizes without a logarithm, fewer points than
            parameters + 1, a delta that is not above 0, or logarithms asked for where y is not positive.
    """
    form = find_form(form) if isinstance(form, str) else form
    x, y = sizes(x), np.asarray(y, dtype=float)
    if x.shape != (len(y), form.axes):
        raise UserError(f"law {form.name}: sizes of shape {x.shape} and {len(y)} values; expected {form.axes} axes")
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise UserError(f"law {form.name}: a size or value is not finite")
    # Only these forms take an axis as it is.
    plain = {"linear": (0,), "plane": (1,), "interaction": (1,)}.get(form.name, ())
    if any(np.any(x[:, axis] <= 0) for axis in range(form.axes) if axis not in plain):
        raise UserError(f"law {form.name}: a size of {x.min():g} has no logarithm; expected sizes above 0")
    if len(y) <= len(form.parameters):
        raise UserError(f"law {form.name}: {len(y)} points for {len(form.parameters)} parameters")
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    if w.shape != y.shape or not np.all(w > 0):
        raise UserError(f"law {form.name}: expected one weight above 0 for each of {len(y)} points")
    w = w / w.mean()
    methods: dict[str, Callable[[Form, np.ndarray, np.ndarray, np.ndarray], CurveFit]]
    methods = {"least-squares": _least_squares, "log-log": _log_log, "huber": partial(_huber, loss=loss or Huber())}
    if method not in methods:
        raise UserError(f"method {method}: no such method; methods: {', '.join(methods)}")
    return replace(methods[method](form, x, y, w), replication=replication)


def _solve(phi: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients, residuals and pseudo-inverse of a small least-squares problem, columns scaled."""
    scale = _lengths(phi)
    scale[scale == 0] = 1
    inverse = np.linalg.pinv(phi / scale, rcond=1e-14) / scale[:, None]
    c = inverse @ y
    # One step of refinement: keeps the last digits where x is far from 1.
    c = c + inverse @ (y - phi @ c)
    return c, y - phi @ c, inverse


def _least_squares(form: Form, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> CurveFit:
    root = np.sqrt(w)
    target = y * root
    size = float(np.linalg.norm(target)) or 1.0
    box = form.box(x)
    best = np.zeros(0)
    if box:
        lows, highs = np.array(box).T
        profile = Profile(form, x, grid(box), w)
        few = profile.condensed

        def projected(t: np.ndarray, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
            """Residuals and their exact derivative by t (Golub and Pereyra 1973, equation 4.8), in units of |y|.

            Of many points those of the rows that stand for them, unless exact.
            """
            if exact or few is None:
                phi, slopes = form.basis(x, t)
                phi, slopes, wanted = phi * root[:, None], slopes * root[:, None, None], target
            else:
                phi, slopes = (few.rows(item.T).T for item in form.basis(few.cells.at, t))
                wanted = few.target(target)
            c, left, inverse = _solve(phi, wanted)
            moved = np.einsum("nkm,k->nm", slopes, c)
            jacobian = -(moved - phi @ (inverse @ moved)) - inverse.T @ np.einsum("nkm,n->km", slopes, left)
            return left / size, jacobian / size

        def descend(start: np.ndarray, tolerance: float, evaluations: int) -> tuple[float, np.ndarray]:
            result = optimize.least_squares(
                lambda t: projected(t)[0], np.clip(start, lows + 1e-9, highs - 1e-9), lambda t: projected(t)[1],
                bounds=(lows, highs), xtol=tolerance, ftol=tolerance, gtol=tolerance, max_nfev=evaluations,
            )  # fmt: skip
            return float(result.cost), result.x

        def polish(t: np.ndarray) -> np.ndarray:
            """Takes Gauss-Newton steps while the slope of the cost shrinks.

            The cost itself is flat, to rounding, within 1e-8 of its minimum, where a search that compares costs stops.
            """
            left, jacobian = projected(t, exact=True)
            for _ in range(20):
                moved = t - np.linalg.lstsq(jacobian, left, rcond=None)[0]
                if not np.all((lows < moved) & (moved < highs)):
                    break
                left_there, jacobian_there = projected(moved, exact=True)
                if np.linalg.norm(jacobian_there.T @ left_there) >= np.linalg.norm(jacobian.T @ left):
                    break
                t, left, jacobian = moved, left_there, jacobian_there
            return t

        found = [descend(start, 1e-9, 30) for start in _starts(profile.t, profile.rss(y), lows, highs)]
        best = polish(descend(min(found, key=lambda item: item[0])[1], 1e-15, 100)[1])
    c, left, _ = _solve(form.basis(x, best)[0] * root[:, None], target)
    parameters = np.concatenate([c, form.natural(best)]) if box else c
    return CurveFit(form, x, y, w, parameters, float(left @ left))


def _starts(candidates: np.ndarray, rss: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> list[np.ndarray]:
    """Up to three grid points with the least misfit, no two within a tenth of the box of each other."""
    chosen: list[np.ndarray] = []
    for index in np.argsort(rss)[:200]:
        point = candidates[index]
        if np.isfinite(rss[index]) and all(np.max(np.abs(point - other) / (highs - lows)) > 0.1 for other in chosen):
            chosen.append(point)
        if len(chosen) == 3 or (len(lows) == 1 and chosen):
            break
    return chosen


def _log_log(form: Form, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> CurveFit:
    if form.name != "power":
        raise UserError(f"method log-log: fits the power law alone, not {form.name}")
    if not np.all(y > 0):
        raise UserError("method log-log: expected values above 0")
    slope, intercept = np.polyfit(np.log(x[:, 0]), np.log(y), 1, w=np.sqrt(w))
    left = np.log(y) - intercept - slope * np.log(x[:, 0])
    return CurveFit(form, x, y, w, np.array([np.exp(intercept), -slope]), float(np.sum(w * left**2)), method="log-log")


def _huber(form: Form, x: np.ndarray, y: np.ndarray, w: np.ndarray, loss: Huber) -> CurveFit:
    log = loss.residuals == "log"
    if loss.delta is not None and not 0 < loss.delta < np.inf:
        raise UserError(f"method huber: a delta of {loss.delta:g}; expected a number above 0")
    if log and not np.all(y > 0):
        raise UserError(
            "method huber: the loss is of log residuals; expected values above 0, or plain residuals (--residuals "
            "plain)"
        )
    start = _least_squares(form, x, y, w / y**2 if log else w)
    scale = np.where(start.parameters == 0, 1, np.abs(start.parameters))
    lows, highs = -np.inf * np.ones(len(scale)), np.inf * np.ones(len(scale))
    for i, ((low, high), logged) in enumerate(zip(form.box(x), form.logged, strict=True), len(form.coefficients)):
        lows[i], highs[i] = (np.exp(low), np.exp(high)) if logged else (low, high)
    root = np.sqrt(w)
    delta = loss.delta or (HUBER_DELTA if log else HUBER_SDS * robust_sd(y - form.value(x, start.parameters)))
    if delta <= 0:
        return replace(start, weights=w, method="huber", loss=replace(loss, delta=delta))

    def predicted(v: np.ndarray) -> np.ndarray:
        value = form.value(x, v * scale)
        return np.maximum(value, 1e-12 * y.min()) if log else value

    def residuals(v: np.ndarray) -> np.ndarray:
        return np.asarray(root * (np.log(predicted(v)) - np.log(y) if log else predicted(v) - y))

    def jacobian(v: np.ndarray) -> np.ndarray:
        gradient = root[:, None] * form.gradient(x, v * scale) * scale
        return np.asarray(gradient / predicted(v)[:, None] if log else gradient)

    point = np.clip(start.parameters, lows, highs) / scale
    # From nearly squares to nearly absolute values: the last loss alone has kinks that a start far off gets caught in.
    for step in (100.0, 10.0, 1.0):
        point = optimize.least_squares(
            residuals, point, jacobian, bounds=(lows / scale, highs / scale), loss="huber", f_scale=step * delta,
            xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=500,
        ).x  # fmt: skip
    parameters = point * scale
    left = y - form.value(x, parameters)
    rss = float(np.sum(w * left**2))
    return CurveFit(form, x, y, w, parameters, rss, method="huber", loss=replace(loss, delta=delta))


def robust_sd(residuals: np.ndarray) -> float:
    """1.4826 median absolute residuals: the standard deviation of normal ones, whatever a few others do."""
    return 1.4826 * float(np.median(np.abs(residuals)))
