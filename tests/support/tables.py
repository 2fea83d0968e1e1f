"""Tables of runs, and parameters and sizes of every law, that several tests fit."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.inference.cautions import cautions
from analysis.inference.evidence import LawComparison, compare_laws
from analysis.laws.forms import FORMS
from analysis.laws.intervals import points
from analysis.laws.line import Line, fit_line
from analysis.table.selection import select


def trials(**columns: object) -> pd.DataFrame:
    """A sweep of six sizes; `columns` replace its own."""
    frame = pd.DataFrame(
        {
            "config_hash": [f"hash{i}" for i in range(6)],
            "expert_hidden_dim": [8, 16, 32, 64, 128, 256],
            "fusion_params": [1e5, 2e5, 4e5, 8e5, 16e5, 32e5],
            "psnr": [20.0, 20.4, 20.9, 21.2, 21.8, 22.1],
            "eval_images": [1500] * 6,
            "status": ["finished"] * 6,
        }
    )
    return frame.assign(**columns)  # type: ignore[arg-type]


def replicated(rng: np.random.Generator, seeds: int = 3) -> pd.DataFrame:
    """Five sizes with several seeds each."""
    sizes = [8, 32, 128, 512, 2048]
    rows = [(h, s, h * 1e4, 20 + np.log10(h) + rng.normal(0, 0.2)) for h in sizes for s in range(seeds)]
    return pd.DataFrame(rows, columns=["expert_hidden_dim", "seed", "params", "psnr"])


def saturating(n: int, sd: float, seed: int) -> LawComparison:
    """Laws fitted to points of one that levels off."""
    x = np.geomspace(0.1, 10, n)
    y = 0.3 + 0.2 * x**-0.3 + np.random.default_rng(seed).normal(0, sd, n)
    return compare_laws(points(x, y))


def uneven() -> pd.DataFrame:
    """Eight sizes with one to five seeds, so that their means weigh differently."""
    rng = np.random.default_rng(4)
    rows = [
        (10 ** (5 + k / 3), 2**k, seed, 1 - 0.1 * k + 0.01 * k**2 + rng.normal(0, 0.05))
        for k, seeds in enumerate((5, 4, 3, 3, 2, 2, 1, 1))
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["params", "expert_hidden_dim", "seed", "rfid"])


TRUTHS = {
    "log-linear": [0.9, -0.05],
    "linear": [0.5, -0.006],
    "power": [3.0, 0.12],
    "power-offset": [0.3, 20.0, 0.4],
    "log-quadratic": [3.0, -0.5, 0.02],
    "shifted-power": [40.0, 2e6, 0.3],
    "broken-power": [30.0, 0.3, -0.2, 5e6],
    "plane": [1.0, -0.05, -0.01],
    "interaction": [1.0, -0.05, -0.01, 0.003],
    "log-plane": [1.0, -0.05, -0.01],
    "log-interaction": [1.0, -0.05, -0.01, 0.003],
    "two-powers": [0.3, 20.0, 0.5, 0.4, 0.8],
    "two-powers-crossed": [0.3, 20.0, 0.5, -8.0, 0.4, 0.8],
    # Hoffmann et al. (2022), equation 10.
    "chinchilla": [1.69, 406.4, 410.7, 0.34, 0.28],
}


def sizes(name: str) -> np.ndarray:
    """Sizes at which a law of `TRUTHS` shows all its parameters, shape (n,) or (n, axes)."""
    if name == "chinchilla":
        return np.array([(n, d) for n in np.geomspace(5e7, 1e10, 5) for d in np.geomspace(1e9, 5e11, 5)])
    if FORMS[name].axes == 2:
        return np.array([(p, layers) for p in np.geomspace(1e5, 1e8, 5) for layers in (1, 3, 6, 9, 12)])
    return np.arange(1.0, 13.0) if name == "linear" else np.geomspace(1e5, 1e8, 12)


def sweep() -> pd.DataFrame:
    """Five sizes of two seeds, one run of which diverged; its texts are hostile to a page."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "config_hash": f"{k}{seed}abcdef",
            "variant": "<b>energy</b>",
            "expert_hidden_dim": h,
            "seed": seed,
            "fusion_params": h * 9000,
            "psnr": 15 + np.log10(h) + rng.normal(0, 0.1),
            "rfd_dinov2": 300 - 20 * np.log10(h) + rng.normal(0, 3),
            "eval_images": 1500,
            "status": "finished",
            "reason": None,
        }
        for k, h in enumerate([8, 32, 128, 512, 2048])
        for seed in (0, 1)
    ]
    rows[3] |= {"status": "diverged", "reason": "loss is NaN & <gone>"}
    return pd.DataFrame(rows)


def fit(
    frame: pd.DataFrame, x: str = "params", y: str = "rfid", law: str = "log-linear", unit: str = "configuration"
) -> Line:
    return fit_line(select(frame, x, y, log=law == "log-linear"), law, unit)  # type: ignore[arg-type]


def codes(result: Line) -> list[str]:
    return [item.code for item in cautions(result)]


def checked(small: float, large: float) -> pd.DataFrame:
    """Five sizes of two seeds, and the smallest and the largest with twice the steps, which moves them by so much."""
    rows = [(h, seed, "", 20 + 0.6 * np.log10(h) + 0.01 * (-1) ** seed) for h in (1, 4, 16, 64, 256) for seed in (0, 1)]
    rows += [(1, 0, "convergence", rows[0][-1] + small), (256, 0, "convergence", rows[-2][-1] + large)]
    frame = pd.DataFrame(rows, columns=["expert_hidden_dim", "seed", "role", "psnr"])
    names = [f"hash{i}" for i in range(len(frame))]
    return frame.assign(config_hash=names, fusion_params=1e4 * frame["expert_hidden_dim"], status="finished")


GUIDED = "autoguidance_1.5."


def generating(seeds: int = 2) -> pd.DataFrame:
    """A sweep of six sizes whose trials have a generator: the better they reconstruct, the worse they generate.

    With guidance they generate the better, too. Plain and guided distances are of the same number of images.
    """
    rng = np.random.default_rng(5)
    rows = []
    for k, hidden in enumerate((8, 16, 32, 64, 128, 256)):
        for seed in range(seeds):
            row = {"config_hash": f"{k:04x}{seed:04x}", "variant": "energy", "expert_hidden_dim": hidden, "seed": seed,
                   "fusion_params": 1e4 * hidden, "eval_images": 400, "status": "finished",
                   "psnr": 20 + 0.4 * k + rng.normal(0, 0.05), "generator_loss": 0.9 + 0.02 * k,
                   "rfd_effnet2": 30 - 2 * k + rng.normal(0, 0.3), "rfd_effnet2_se": 0.4}  # fmt: skip
            for before, slope in (("", 3), (GUIDED, -2)):
                row |= {f"{before}gfd_effnet2": 90 + slope * k + rng.normal(0, 0.5), f"{before}gfd_effnet2_se": 1.5,
                        f"{before}gfd_effnet2_images": 500, f"{before}is_effnet2": 9.0 + 0.1 * k}  # fmt: skip
            row |= {"gfd_effnet2_real": 80.0, "gfd_effnet2_reconstructions": 84.0 - k, "gfd_effnet2_gaussian": 900.0}
            rows.append(row)
    return pd.DataFrame(rows)
