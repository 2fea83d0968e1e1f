"""What a generated number is read beside: real images, reconstructions, a Gaussian, and the nearest training images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from drorae.metrics.frechet import Influences, frechet_influence, frechet_influences
from drorae.metrics.gain import Gain, interval
from drorae.metrics.neighbours import Nearest, two_nearest
from drorae.metrics.rows import blocks
from drorae.metrics.samples import FeatureSample

LEVEL = 0.05
"""Of "memorises": how often a generator that has memorised nothing may be said to; half of it for either test."""
RELABELLINGS = 2999
"""Random ones, with which the true labels are compared."""


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
    val_views: FeatureSample | None = None
    """The validation images in as many views as the training images, in the same order; None: in one, as both are."""
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
    """Whether the samples lie closer to training images than to validation images."""

    p: float
    """Of both one-sided tests together (Bonferroni)."""
    share: float
    """Of the samples, those whose nearest real image is a training image."""
    expected: float
    """The training images' share of all real images."""
    samples: float
    """The samples' median distance to the nearest training image."""
    val: float
    """The validation images'."""
    reconstructions: float
    """That of their reconstructions: what the tokenizer alone does to it."""
    copies: int
    """How many samples coincide with a training image, in features."""

    @property
    def verdict(self) -> bool:
        """Whether it is below `LEVEL`."""
        return self.p < LEVEL

    def __str__(self) -> str:
        said = "memorises" if self.verdict else "not shown to memorise"
        shares = f"of {self.share:.1%} of the images, of {self.expected:.1%} by chance"
        return f"{said}: a training image is the nearest real one {shares} (p {self.p:.2g})"


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
        seed: chooses those training images, and labels anew.

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
        _memorised(sets, seed),
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


def has_memorised(train: Nearest, val: Nearest, images: tuple[int, int], seed: int = 0) -> tuple[float, float]:
    """Asks whether samples lie closer to training images than they would if these had not been trained on.

    To a generator that has memorised none, training images are what validation images are: whatever it draws, which of
    the real images around are training images is chance, as the split was. So the labels are dealt out anew, at random,
    and what the samples have with the true ones is compared with what they have then (Schilling 1986, J. Am. Stat.
    Assoc. 81, 799-806, counts neighbours of the same label so). Images that are blurred, or of few kinds, lie close to
    everything, and to no kind of label more. Two one-sided tests, each at half of `LEVEL`, exact up to the number of
    relabellings: of the number of samples whose nearest real image is a training image, and of the same with each
    sample counted by how much nearer that image is than the next, 1 - d1 / d2, which finds few copies among many.

    Few validation images, or a tokenizer that blurs copies until other images are as close, can hide copies.

    Args:
        train: the training images nearest to n samples.
        val: the validation images nearest to them.
        images: the numbers of both.
        seed: of the relabellings.

    Returns:
        p of both tests together (Bonferroni), and the share of samples whose nearest image is a training image.
    """
    # An image that is in both sets is no evidence.
    of_train = train.distances[:, 0] < val.distances[:, 0]
    (to_train, next_train), (to_val, next_val) = train.distances.T, val.distances.T
    nearest = np.minimum(to_train, to_val)
    following = np.where(of_train, np.minimum(next_train, to_val), np.minimum(next_val, to_train))
    nearer = 1 - np.divide(nearest, following, out=np.ones(len(nearest)), where=following > 0)
    hit = np.where(of_train, train.image, images[0] + val.image)
    hits, places = np.unique(hit, return_inverse=True)
    # Of every real image that is the nearest one of any sample: how many samples, and by how much.
    counts = np.stack([np.bincount(places), np.bincount(places, nearer)], 1)
    true = counts[hits < images[0]].sum(0)
    generator = np.random.default_rng(seed)
    trained = generator.hypergeometric(*images, len(hits), RELABELLINGS)
    # Sums in another order must not decide between equal labellings.
    least = true - 1e-9 * counts.sum(0)
    as_large = sum(counts[generator.permutation(len(hits))[:count]].sum(0) >= least for count in trained)
    p = min(1.0, 2 * float(np.min((1 + as_large) / (1 + RELABELLINGS))))
    return p, float(of_train.mean())


def _memorised(sets: ControlSets, seed: int) -> Memorised:
    held_out = sets.val_views or sets.val
    to_train, to_val = (
        two_nearest(sets.samples.features, real.features, sets.views) for real in (sets.train, held_out)
    )
    images = sets.train.statistics.n // sets.views, held_out.statistics.n // sets.views
    p, share = has_memorised(to_train, to_val, images, seed)
    val, painted = (
        two_nearest(one.features, sets.train.features, sets.views) for one in (sets.val, sets.reconstructions)
    )
    return Memorised(
        p,
        share,
        images[0] / sum(images),
        samples=float(np.median(to_train.distances[:, 0])),
        val=float(np.median(val.distances[:, 0])),
        reconstructions=float(np.median(painted.distances[:, 0])),
        copies=int((to_train.distances[:, 0] == 0).sum()),
    )


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
