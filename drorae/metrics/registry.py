"""The metrics: their names, titles, which way is better, and where they are shown.

Whatever lists metrics (tables, charts, laws, searches) reads this list. A further metric is a row here and the class or
function that measures it. Imports nothing but the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """A number that says how well a tokenizer does."""

    name: str
    """In results, tables and MLflow."""
    title: str
    """For people, with its unit."""
    better: Better
    fitted: bool = False
    """A law is fitted to it wherever a table has it; the first in the list heads the report."""
    charted: bool = False
    """MLflow's view of a sweep has a chart of it against capacity."""
    column: bool = False
    """`trials.csv` has its column whether or not any trial has it."""
    listed: bool = False
    """The table that ends a sweep shows it."""
    announced: bool = False
    """The line that ends a trial shows it."""
    published: str = ""
    """The column of arXiv 2605.10780's tables that it measures."""
    extractor: str = ""
    """What `evaluation.extractors` calls the network in whose features it is a Fréchet distance."""


METRICS = (
    Metric(
        "rfd_dinov2", "Fréchet distance (DINOv2 features)", "lower",
        fitted=True, charted=True, column=True, listed=True, announced=True, extractor="dinov2",
    ),
    Metric(
        "psnr", "PSNR (dB)", "higher",
        fitted=True, charted=True, column=True, listed=True, announced=True, published="PSNR",
    ),
    Metric(
        "rfd_effnet", "Fréchet distance (EfficientNet features)", "lower",
        fitted=True, charted=True, column=True, listed=True, extractor="effnet",
    ),
    Metric("ssim", "SSIM", "higher", fitted=True, charted=True, column=True, listed=True, published="SSIM"),
    Metric(
        "rfid_inception", "rFID (Inception features)", "lower",
        fitted=True, charted=True, listed=True, extractor="inception", published="rFID",
    ),
    # Of others' tables: the features are not said.
    Metric("rfid", "rFID", "lower", fitted=True),
    Metric("l1", "L1 error", "lower", column=True),
    Metric("lpips_vgg", "LPIPS (VGG16)", "lower", charted=True, published="LPIPS"),
    Metric("lpips_alex", "LPIPS (AlexNet)", "lower"),
    Metric("kd_dinov2", "Kernel distance (DINOv2 features)", "lower"),
    Metric("kd_effnet", "Kernel distance (EfficientNet features)", "lower"),
    Metric("kid_inception", "KID (Inception features)", "lower"),
    Metric("probe_loss", "Probe's held-out loss", "lower", charted=True, published="DiT loss"),
)  # fmt: skip
_BY_NAME = {metric.name: metric for metric in METRICS}
_LOWER = {"rfid", "rfd", "gfid", "fid", "lpips", "l1", "l2", "mse", "loss", "dists", "kid", "kd"}
_HIGHER = {"psnr", "ssim", "is", "accuracy", "acc"}


def objective(extractors: Sequence[str]) -> str:
    """Names what a search optimises where nobody says: the Fréchet distance of the first extractor, without any PSNR.

    >>> objective(("effnet", "dinov2")), objective(())
    ('rfd_effnet', 'psnr')
    """
    return next((item.name for item in METRICS if extractors and item.extractor == extractors[0]), "psnr")


def measure_of(column: str, extractors: Sequence[str], lpips: str) -> str:
    """Names the metric that measures a column of arXiv 2605.10780 where some are measured; empty: none of them.

    The probe's loss stands for its DiT's, and rFID, without Inception, is the first extractor's Fréchet distance.

    >>> measure_of("rFID", ("effnet",), "none"), measure_of("LPIPS", (), "none"), measure_of("gFID", (), "vgg")
    ('rfd_effnet', '', '')
    """
    found = next((item for item in METRICS if item.published == column), None)
    if found is None or (found.name.startswith("lpips") and not found.name.endswith(lpips)):
        return ""
    return objective(extractors) if found.extractor and found.extractor not in extractors else found.name


def better(name: str) -> Better | None:
    """Says which way a metric is better, also of others' tables, by the first word of its name; None: not known.

    A phase before it says when it was measured.

    >>> better("rFID-50k"), better("phase2.psnr"), better("params")
    ('lower', 'higher', None)
    """
    name = plain(name)
    if name in _BY_NAME:
        return _BY_NAME[name].better
    word = name.lower().replace("-", "_").partition("_")[0]
    return "lower" if word in _LOWER else "higher" if word in _HIGHER else None


def title(name: str) -> str:
    """Returns a metric's title; a name that is not in the list stays as it is.

    >>> title("phase2.psnr"), title("params")
    ('PSNR (dB) after phase 2', 'params')
    """
    known = plain(name)
    if known not in _BY_NAME:
        return name
    return _BY_NAME[known].title + (f" after phase {name[5]}" if known != name else "")


def plain(name: str) -> str:
    """Returns a metric's name without the phase after which it was measured, as in `phase2.psnr`."""
    return re.sub(r"^phase[123]\.", "", name)
