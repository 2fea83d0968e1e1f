"""The metrics: their names, titles, which way is better, and where they are shown.

Whatever lists metrics (tables, charts, laws, searches) reads this list. A further metric is a row here and the class or
function that measures it. Imports nothing but the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """A number that says how well a tokenizer does, or a generator on its latents."""

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
    network: str = ""
    """The network in whose features it is measured otherwise: by that name, or by `objective.perceptual`'s."""
    generated: bool = False
    """It is a Fréchet distance of generated images, which reports set against reconstruction."""
    prompted: bool = False
    """It is of images that were generated for texts."""


METRICS = (
    Metric(
        "rfd_effnet2", "Fréchet distance (EfficientNet-Lite2 features)", "lower",
        fitted=True, charted=True, column=True, listed=True, announced=True, extractor="effnet2",
    ),
    Metric(
        "psnr", "PSNR (dB)", "higher",
        fitted=True, charted=True, column=True, listed=True, announced=True, published="PSNR",
    ),
    Metric("ssim", "SSIM", "higher", fitted=True, charted=True, column=True, listed=True, published="SSIM"),
    Metric(
        "rfd_dinov2", "Fréchet distance (DINOv2 features)", "lower",
        fitted=True, charted=True, column=True, listed=True, announced=True, extractor="dinov2",
    ),
    Metric(
        "rfid_inception", "rFID (Inception features)", "lower",
        fitted=True, charted=True, listed=True, extractor="inception", published="rFID",
    ),
    # Of others' tables: the features are not said.
    Metric("rfid", "rFID", "lower", fitted=True),
    Metric(
        "rfd_effnet", "Fréchet distance (EfficientNet-Lite0 features)", "lower",
        fitted=True, charted=True, listed=True, extractor="effnet",
    ),
    Metric("l1", "L1 error", "lower", column=True),
    Metric("lpips_vgg", "LPIPS (VGG16)", "lower", charted=True, published="LPIPS", network="lpips_vgg"),
    Metric("lpips_alex", "LPIPS (AlexNet)", "lower"),
    Metric("kd_effnet2", "Kernel distance (EfficientNet-Lite2 features)", "lower", network="effnet2"),
    Metric("kd_dinov2", "Kernel distance (DINOv2 features)", "lower", network="dinov2"),
    Metric("kid_inception", "KID (Inception features)", "lower", network="inception"),
    Metric("kd_effnet", "Kernel distance (EfficientNet-Lite0 features)", "lower", network="effnet"),
    Metric("probe_loss", "Probe's held-out loss", "lower", charted=True, published="DiT loss"),
    # Of a generator, and of the images it generates.
    Metric("generator_loss", "Generator's training loss", "lower", charted=True, published="DiT training loss"),
    Metric(
        "gfd_effnet2", "Generation's Fréchet distance (EfficientNet-Lite2 features)", "lower",
        fitted=True, charted=True, listed=True, announced=True, network="effnet2", generated=True,
    ),
    Metric(
        "gfd_dinov2", "Generation's Fréchet distance (DINOv2 features)", "lower",
        fitted=True, charted=True, listed=True, network="dinov2", generated=True,
    ),
    Metric(
        "gfid_inception", "gFID (Inception features)", "lower",
        fitted=True, charted=True, listed=True, announced=True, network="inception", generated=True,
        published="gFID",
    ),
    Metric(
        "gfd_effnet", "Generation's Fréchet distance (EfficientNet-Lite0 features)", "lower",
        fitted=True, charted=True, listed=True, network="effnet", generated=True,
    ),
    Metric("sfid_inception", "sFID (Inception features in their places)", "lower", network="inception"),
    Metric("is_effnet2", "Inception Score (EfficientNet-Lite2 classes)", "higher", charted=True, network="effnet2"),
    Metric("is_inception", "Inception Score", "higher", charted=True, network="inception", published="IS"),
    Metric("is_effnet", "Inception Score (EfficientNet-Lite0 classes)", "higher", network="effnet"),
    Metric("precision_effnet2", "Generation's precision (EfficientNet-Lite2 features)", "higher", network="effnet2"),
    Metric("recall_effnet2", "Generation's recall (EfficientNet-Lite2 features)", "higher", network="effnet2"),
    Metric("precision_dinov2", "Generation's precision (DINOv2 features)", "higher", network="dinov2"),
    Metric("recall_dinov2", "Generation's recall (DINOv2 features)", "higher", network="dinov2"),
    Metric(
        "precision_inception", "Generation's precision (Inception features)", "higher",
        network="inception", published="precision",
    ),
    Metric(
        "recall_inception", "Generation's recall (Inception features)", "higher",
        network="inception", published="recall",
    ),
    Metric("precision_effnet", "Generation's precision (EfficientNet-Lite0 features)", "higher", network="effnet"),
    Metric("recall_effnet", "Generation's recall (EfficientNet-Lite0 features)", "higher", network="effnet"),
    Metric(
        "accuracy_effnet2", "Images of the class asked for (linear classifier, EfficientNet-Lite2 features)", "higher",
        charted=True, network="effnet2",
    ),
    Metric(
        "accuracy_effnet2_real", "Validation images seen as of their class (the same classifier)", "higher",
        network="effnet2",
    ),
    Metric(
        "accuracy_effnet2_reconstructions", "Reconstructions seen as of their class (the same classifier)", "higher",
        network="effnet2",
    ),
    Metric(
        "accuracy_effnet2_gaussian", "A Gaussian's images seen as of the class asked for (the same classifier)",
        "higher", network="effnet2",
    ),
    # Of a text-to-image model, by GenEval's own evaluator.
    Metric("geneval", "GenEval score", "higher", fitted=True, charted=True, listed=True, prompted=True),
    Metric("geneval_single_object", "GenEval, single object", "higher", prompted=True),
    Metric("geneval_two_object", "GenEval, two objects", "higher", prompted=True),
    Metric("geneval_counting", "GenEval, counting", "higher", prompted=True),
    Metric("geneval_colors", "GenEval, colors", "higher", prompted=True),
    Metric("geneval_position", "GenEval, position", "higher", prompted=True),
    Metric("geneval_color_attr", "GenEval, color attribution", "higher", prompted=True),
)  # fmt: skip
GENERATOR_LOSS = "generator_loss"
"""Of a trial's own generator, as its training last reported it."""
BASELINE = "baseline_"
"""Before a metric's name, in tables: what the tokenizer measures without fusion."""
GAIN = "gain_"
"""Before a metric's name, in tables: by how much fusion improves it (`drorae.metrics.gain`); more is better."""
INFLUENCE = "_influence"
"""After the name of a Frechet distance, in `per_image.npz`: what every image does to it."""
COUNT = "_images"
"""After a metric's name, in tables: the number of images it is of, where that is not `eval_images`."""
CONTROLS = {
    "real": "real training images",
    "reconstructions": "reconstructions",
    "gaussian": "a Gaussian per position, decoded",
}
"""What else a distance of generated images is measured of, by what stands behind its name: gfd_effnet2_real."""
AUTOGUIDED = " with AutoGuidance"
"""Behind a column of arXiv 2605.10780: of images drawn with `PUBLISHED_GUIDANCE`."""
PUBLISHED_GUIDANCE = "autoguidance=1.5"
GENERATED = tuple(metric.name for metric in METRICS if metric.generated)
_PHASE = re.compile(r"phase([123])\.")
_GUIDANCE = re.compile(r"(cfg|autoguidance|internal)_(\d+(?:\.\d+)?)\.")
"""Before a metric of generated images, in tables: the guidance they are drawn with, where it is not the first."""
_BY_NAME = {metric.name: metric for metric in METRICS}
_LOWER = {"rfid", "rfd", "gfid", "gfd", "sfid", "fid", "lpips", "l1", "l2", "mse", "loss", "dists", "kid", "kd"}
_HIGHER = {"psnr", "ssim", "is", "precision", "recall", "accuracy", "acc", "geneval"}


LOOKED_THROUGH = "looked_through"
"""Column of a table: the networks that a trial's training, or its tokenizer, looks through, each with which of them."""
MARKS = {"tokenizer": "in the tokenizer's own features", "training": "in training's features"}
"""What is said of a metric that is measured in such a network's features, which flatters what was made with it."""
OWN_NETWORK = "own_network"
"""Note of a trial: the extractor whose network is the tokenizer's encoder, to the last weight."""


def looked_through(config: Mapping[str, Any], own: str = "") -> str:
    """Returns the cell of `LOOKED_THROUGH` for a config by dotted names.

    Args:
        config: the fields.
        own: the extractor that was found to be the tokenizer's encoder; none by default.

    >>> fields = {"objective.perceptual": "effnet", "objective.perceptual_weight": 0.1, "encoder.weights": "offline"}
    >>> looked_through(fields), looked_through({"objective.perceptual": "none", "encoder.weights": "hub"})
    ('dinov2=tokenizer effnet=training', '')
    """
    network = own or ("dinov2" if config.get("encoder.weights") == "offline" else "")
    perceptual = str(config.get("objective.perceptual", "none"))
    heard = perceptual != "none" and float(config.get("objective.perceptual_weight", 1)) > 0
    return " ".join([f"{network}=tokenizer"] * bool(network) + [f"{perceptual}=training"] * heard)


def mark(name: str, cells: Iterable[str]) -> str:
    """Says whose features a metric is measured in where they are training's or the tokenizer's own; empty: neither.

    Args:
        name: the metric, also of a phase, of the baseline or against a reference.
        cells: of the runs' `LOOKED_THROUGH`; of none where a table does not say.

    >>> mark("kd_effnet", ["effnet=training"]), mark("rfd_effnet2", ["effnet=training"]), mark("rfd_dinov2", [])
    ("in training's features", '', '')
    """
    item = _BY_NAME.get(_controlled(plain(name).removeprefix(BASELINE).removesuffix("_reference"))[0])
    network = (item.extractor or item.network) if item else ""
    seen = {word for cell in cells for word in cell.split()}
    return next((said for who, said in MARKS.items() if network and f"{network}={who}" in seen), "")


def marked(name: str, mark: str) -> str:
    """Returns a metric's name with its mark, as every text has it.

    >>> marked("rfd_effnet", "in training's features"), marked("psnr", "")
    ("rfd_effnet (in training's features)", 'psnr')
    """
    return f"{name} ({mark})" if mark else name


def objective(extractors: Sequence[str], looked: str = "") -> str:
    """Names what a search optimises where nobody says: the first extractor's Fréchet distance, PSNR without any.

    Args:
        extractors: names, in the order of `evaluation.extractors`.
        looked: the trial's `LOOKED_THROUGH`; distances that it marks are passed over.

    >>> objective(("effnet", "dinov2")), objective(("effnet", "dinov2"), "effnet=training"), objective(())
    ('rfd_effnet', 'rfd_dinov2', 'psnr')
    """
    distances = (item.name for name in extractors for item in METRICS if item.extractor == name)
    return next((name for name in distances if not mark(name, [looked])), "psnr")


def measure_of(column: str, extractors: Sequence[str], lpips: str) -> str:
    """Names the metric that measures a column of arXiv 2605.10780 where some are measured; empty: none of them.

    The probe's loss stands for its DiT's; rFID and what is said of generated images, without Inception, are the first
    extractor's. Columns with AutoGuidance are those of its published scale.

    >>> measure_of("rFID", ("effnet",), "none"), measure_of("LPIPS", (), "none"), measure_of("gFID", (), "vgg")
    ('rfd_effnet', '', '')
    >>> measure_of("IS", ("effnet2",), "none"), measure_of("gFID with AutoGuidance", ("inception",), "none")
    ('is_effnet2', 'autoguidance_1.5.gfid_inception')
    """
    column, autoguided, _ = column.partition(AUTOGUIDED)
    found = next((item for item in METRICS if item.published == column), None)
    if found is None:
        return ""
    if found.name.startswith("lpips"):
        return found.name if found.name.endswith(lpips) else ""
    if found.network:
        network = found.network if found.network in extractors else next(iter(extractors), "")
        alike = (item.name for item in METRICS if network and item.network == network and _kind(item) == _kind(found))
        name = next(alike, "")
        return guided(PUBLISHED_GUIDANCE) + name if autoguided and name else name
    return objective(extractors) if found.extractor and found.extractor not in extractors else found.name


def _kind(item: Metric) -> str:
    """What a metric of generated images is, whatever the network."""
    return "distance" if item.generated else item.name.partition("_")[0]


def better(name: str) -> Better | None:
    """Says which way a metric is better, also of others' tables, by the first word of its name; None: not known.

    A phase before it says when it was measured, a guidance of which images. More of a gain is better, whatever it is a
    gain of.

    >>> better("rFID-50k"), better("phase2.psnr"), better("gain_l1"), better("params"), better("cfg_2.is_effnet2")
    ('lower', 'higher', 'higher', None, 'higher')
    """
    if name.startswith(GAIN):
        return "higher" if better(name.removeprefix(GAIN)) else None
    name = plain(name.removeprefix(BASELINE))
    if name in _BY_NAME:
        return _BY_NAME[name].better
    word = name.lower().replace("-", "_").partition("_")[0]
    return "lower" if word in _LOWER else "higher" if word in _HIGHER else None


def guided(guidance: str) -> str:
    """Returns what stands before the name of a metric of images that were drawn with a guidance.

    >>> guided("autoguidance=1.5"), guided("none")
    ('autoguidance_1.5.', 'none.')
    """
    return guidance.replace("=", "_") + "."


def title(name: str, between: str = ", ") -> str:
    """Returns a metric's title; a name that is not in the list stays as it is.

    between: what stands before the guidance of what is measured.

    >>> title("phase2.psnr"), title("gain_ssim"), title("cfg_1.5.is_inception"), title("params")
    ('PSNR (dB) after phase 2', 'SSIM gain over no fusion', 'Inception Score, cfg 1.5', 'params')
    """
    gained = name.removeprefix(GAIN)
    if gained != name:
        return f"{title(gained)} gain over no fusion" if gained in _BY_NAME else name
    known, control = _controlled(plain(name))
    if known not in _BY_NAME:
        return name
    said = _BY_NAME[known].title + (f" of {CONTROLS[control]}" if control else "")
    if phase := _PHASE.match(name):
        return f"{said} after phase {phase[1]}"
    guidance = _GUIDANCE.match(name)
    return f"{said}{between}{guidance[1]} {guidance[2]}" if guidance else said


def plain(name: str) -> str:
    """Returns a metric's name without the phase after which it was measured, or the guidance of what it measures.

    >>> plain("phase2.psnr"), plain("autoguidance_1.5.gfd_effnet2"), plain("generator.epochs")
    ('psnr', 'gfd_effnet2', 'generator.epochs')
    """
    before = _PHASE.match(name) or _GUIDANCE.match(name)
    return name[before.end() :] if before else name


def generated(columns: Iterable[str]) -> list[str]:
    """Returns the columns that are Fréchet distances of generated images: the registry's order, every guidance of each.

    >>> generated(["cfg_2.gfd_effnet2", "gfd_dinov2", "gfd_effnet2_se", "gfd_effnet2", "psnr"])
    ['gfd_effnet2', 'cfg_2.gfd_effnet2', 'gfd_dinov2']
    """
    found = [name for name in columns if plain(name) in GENERATED and not _PHASE.match(name)]
    return sorted(found, key=lambda name: (GENERATED.index(plain(name)), name != plain(name)))


def _controlled(name: str) -> tuple[str, str]:
    """Splits the name of a control of a distance of generated images; any other's second part is empty."""
    head, _, tail = name.rpartition("_")
    return (head, tail) if tail in CONTROLS and head in GENERATED else (name, "")
