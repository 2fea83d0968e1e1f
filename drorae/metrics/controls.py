"""What a generated number is read beside: real images, reconstructions, a Gaussian, and the nearest training images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from drorae.metrics.frechet import Influences, frechet_influence, frechet_influences
from drorae.metrics.gain import Gain, interval
from drorae.metrics.neighbours import two_nearest
from drorae.metrics.rows import blocks
from drorae.metrics.samples import FeatureSample

LEVEL = 0.05
"""Of "memorises": how often a generator that has memorised nothing may be said to; half of it for either test."""
CLOSEST = 0.01
"""Share of all images, those closest to one training image alone, among which copies are counted; at least `FEWEST`."""
FEWEST = 10


@dataclass(frozen=True)
class ControlSets:
    """The features of five sets of images in one network; all were cropped alike."""

    train: FeatureSample
    """Of the images that the generator was trained on, all of them: copies are of any. All in one view, then in the
    next."""
    val: FeatureSample
    """Of images that nothing was trained on."""
    reconstructions: FeatureSample
    """Of the same, through the tokenizer, in the same order."""
    gaussian: FeatureSample
    """Of latents drawn from a Gaussian per position, decoded (`drorae.diagnostics.gaussian`); as many as samples."""
    samples: FeatureSample
    """Of generated images."""
    views: int = 1
    """Of every training image: 2 where its flip is there, too."""


class Distance(NamedTuple):
    """A set's Frechet distance to the validation images."""

    value: float
    standard_error: float
    """Over other images of both sets; over other pairs, of reconstructions."""
    n: int
    """Number of images."""


@dataclass(frozen=True)
class Learned:
    """Whether the samples are closer to the validation images than the Gaussian's are."""

    gain: float
    """By how much: the Gaussian's distance minus the samples'."""
    half: float
    """Of the width of its 95% interval."""

    @property
    def verdict(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.gain > self.half

    def __str__(self) -> str:
        return f"{'has learned' if self.verdict else 'not shown to have learned'}: beats the Gaussian by " + str(
            Gain(self.gain, self.half)
        )


@dataclass(frozen=True)
class Memorised:
    """Whether the samples lie closer to one training image than to the next, more so than validation images do."""

    p: float
    """Of both one-sided tests together (Bonferroni)."""
    samples: float
    """The samples' median distance to the nearest training image."""
    val: float
    """The validation images'."""
    reconstructions: float
    """That of their reconstructions: what the tokenizer alone does to it."""
    samples_ratio: float
    """The samples' median distance to the nearest training image, as a share of that to the next."""
    val_ratio: float
    """The validation images'."""
    copies: int
    """How many samples coincide with a training image, in features."""

    @property
    def verdict(self) -> bool:
        """Whether it is below `LEVEL`."""
        return self.p < LEVEL

    def __str__(self) -> str:
        said = "memorises" if self.verdict else "not shown to memorise"
        medians = f"{self.samples_ratio:.3f} of the next one's distance, of validation images {self.val_ratio:.3f}"
        return f"{said}: nearest training image at {medians} (p {self.p:.2g})"


@dataclass(frozen=True)
class Controls:
    """The table beside a generated Frechet distance."""

    real: Distance
    """Training images: the floor, what a perfect generator and a perfect tokenizer would measure."""
    reconstructions: Distance
    """The tokenizer's ceiling: nothing that is decoded gets closer. Paired with the validation images, which makes it a
    little smaller than that of reconstructions of other images."""
    gaussian: Distance
    """What is decoded without anything learned of how positions go together."""
    samples: Distance
    """The generated images."""
    learned: Learned
    memorised: Memorised
    train_images: int
    val_images: int

    def record(self) -> dict[str, Any]:
        """Everything as plain numbers, with the verdicts, for JSON; the Gaussian's own `record` goes beside it."""
        distances = {name: getattr(self, name)._asdict() for name in ("real", "reconstructions", "gaussian", "samples")}
        return distances | {
            "learned": asdict(self.learned) | {"verdict": self.learned.verdict},
            "memorised": asdict(self.memorised) | {"verdict": self.memorised.verdict, "level": LEVEL},
            "train_images": self.train_images,
            "val_images": self.val_images,
        }


def measure_controls(sets: ControlSets, seed: int = 0) -> Controls:
    """Measures every set against the validation images, and says what that shows.

    Of the training images as many are taken for the floor as there are samples, where there are more: a Frechet
    distance falls with the number of images, so that only equal numbers compare.

    Args:
        sets: features; they are streamed from their files.
        seed: chooses those training images.

    Raises:
        ValueError: another number of the Gaussian's images than of samples, of reconstructions than of validation
            images, or too few of any.
    """
    if sets.gaussian.statistics.n != sets.samples.statistics.n:
        raise ValueError(
            f"{sets.samples.statistics.n} samples and {sets.gaussian.statistics.n} images of the Gaussian: a Frechet "
            "distance depends on the number of images; draw as many of both"
        )
    val, painted = sets.val, sets.reconstructions
    paired = frechet_influence(painted.statistics, painted.features, val.statistics, val.features)
    gaussian, samples = _influences(sets.gaussian, val), _influences(sets.samples, val)
    floor = _some(sets.train, sets.samples.statistics.n, seed)
    return Controls(
        _distance(_influences(floor, val)),
        Distance(paired.distance, paired.standard_error, painted.statistics.n),
        _distance(gaussian),
        _distance(samples),
        has_learned(gaussian, samples),
        has_memorised(
            *(two_nearest(one.features, sets.train.features, sets.views) for one in (sets.samples, val, painted))
        ),
        sets.train.statistics.n,
        val.statistics.n,
    )


def has_learned(gaussian: Influences, samples: Influences) -> Learned:
    """Compares two distances to the same validation images.

    The samples and the Gaussian's images are independent of each other, the validation images are the same for both:
    the variance of the difference is var(samples) + var(Gaussian's) + var(difference of the validation images'
    influences), the first two as of independent sets, the last paired. What kind of validation images happen to be
    there moves both distances alike and drops out of it. The interval is t's, with the degrees of freedom of the
    smallest set.

    Args:
        gaussian: of the Gaussian's images (a) and the validation images (b).
        samples: of the samples, as many, and the validation images.
    """
    error = math.sqrt(
        sum(float(np.square(part - part.mean()).sum()) / (len(part) * (len(part) - 1))
            for part in (samples.a, gaussian.a, gaussian.b - samples.b))
    )  # fmt: skip
    found = interval(gaussian.distance - samples.distance, error, min(len(samples.a), len(samples.b)))
    return Learned(found.value, found.half)


def has_memorised(samples: np.ndarray, val: np.ndarray, reconstructions: np.ndarray) -> Memorised:
    """Compares how much closer samples lie to one training image than to any other, with validation images.

    What is compared is the distance to the nearest training image as a share of that to the next nearest. A copy's is
    small. The distance itself would tell blurred images, which lie close to everything, from real ones rather than
    copies from fresh images; the share of an image that is equally close to many is near 1.

    Given the training images, shares of a generator that draws from the images' own distribution and has memorised none
    are drawn like the validation images'. Two one-sided tests of that, each at half of `LEVEL`, whose p-values are
    exact given the ranks up to the first's normal approximation: Mann and Whitney's, that samples as a whole have
    smaller ones (Meehan, Chaudhuri & Dasgupta 2020, arXiv 2004.05675, section 3, there of distances), and Fisher's,
    that too many of the very smallest of both are samples, which finds few copies among many. A tokenizer that blurs
    copies until they are as close to other images hides them, and so does a training image that is there twice.

    Args:
        samples: distances [n, 2] to the nearest training image and to the next.
        val: those [m, 2] of validation images.
        reconstructions: those of the validation images through the tokenizer; told, not tested.
    """
    own, others = _shares(samples), _shares(val)
    p = min(1.0, 2 * min(_mann_whitney(own, others), _among_smallest(own, others)))
    return Memorised(
        p,
        samples=float(np.median(samples[:, 0])),
        val=float(np.median(val[:, 0])),
        reconstructions=float(np.median(reconstructions[:, 0])),
        samples_ratio=float(np.median(own)),
        val_ratio=float(np.median(others)),
        copies=int((samples[:, 0] == 0).sum()),
    )


def _shares(distances: np.ndarray) -> np.ndarray:
    """The nearest as a share of the next; of an image that is equal to two, 1."""
    shares = np.ones(len(distances))
    np.divide(distances[:, 0], distances[:, 1], out=shares, where=distances[:, 1] > 0)
    return shares


def _mann_whitney(low: np.ndarray, high: np.ndarray) -> float:
    """One-sided p of `low` being smaller: the normal approximation with corrections for ties and continuity."""
    n, m = len(low), len(high)
    _, inverse, counts = np.unique(np.concatenate([low, high]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    u = ranks[:n].sum() - n * (n + 1) / 2
    total = n + m
    variance = n * m / 12 * (total + 1 - float((counts.astype(float) ** 3 - counts).sum()) / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    return 0.5 * math.erfc((n * m / 2 - u - 0.5) / math.sqrt(2 * variance))


def _among_smallest(samples: np.ndarray, val: np.ndarray) -> float:
    """One-sided p of so many samples among the smallest of both: the hypergeometric distribution's upper tail."""
    together = np.concatenate([samples, val])
    wanted = min(max(FEWEST, round(CLOSEST * len(together))), len(together))
    border = np.partition(together, wanted - 1)[wanted - 1]
    # What is as large as the last one counts, too.
    drawn, found = int((together <= border).sum()), int((samples <= border).sum())
    n, m = len(samples), len(val)

    def log_choose(of: int, k: int) -> float:
        return math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)

    tail = range(max(found, drawn - m), min(drawn, n) + 1)
    return sum(math.exp(log_choose(n, k) + log_choose(m, drawn - k) - log_choose(n + m, drawn)) for k in tail)


def _influences(one: FeatureSample, val: FeatureSample) -> Influences:
    return frechet_influences(one.statistics, one.features, val.statistics, val.features)


def _distance(found: Influences) -> Distance:
    return Distance(found.distance, found.standard_error, len(found.a))


def _some(sample: FeatureSample, n: int, seed: int) -> FeatureSample:
    """At most n of a set's images, drawn without replacement."""
    total = sample.statistics.n
    if total <= n:
        return sample
    chosen = np.sort(np.random.default_rng(seed).choice(total, n, replace=False))
    found = FeatureSample(sample.statistics.dim)
    for part in blocks(n):
        found.update(torch.from_numpy(sample.features[chosen[part]]))
    return found
