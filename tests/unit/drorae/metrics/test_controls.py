"""The verdicts on generated images where the truth is known: simulated features."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
import torch

from drorae.metrics.controls import ControlSets, has_learned, has_memorised, measure_controls
from drorae.metrics.frechet import frechet_distance, frechet_influences
from drorae.metrics.neighbours import Nearest
from drorae.metrics.samples import FeatureSample

DIM, N, VAL, TRAIN = 8, 200, 160, 500


def features(n: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Of a network: correlated, and no Gaussian's."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((DIM, DIM)) / np.sqrt(DIM)
    return (scale * generator.gamma(2.0, 1.0, (n, DIM)) @ mixing + shift).astype(np.float32)


def sample(rows: np.ndarray) -> FeatureSample:
    found = FeatureSample(rows.shape[1])
    found.update(torch.from_numpy(rows))
    return found


def sets(seed: int, samples: np.ndarray, gaussian: np.ndarray | None = None) -> ControlSets:
    val = features(VAL, 10_000 + seed)
    painted = val + 0.05 * np.random.default_rng(seed).standard_normal(val.shape).astype(np.float32)
    gaussian = features(N, 20_000 + seed, 1.3, 0.3) if gaussian is None else gaussian
    return ControlSets(*map(sample, (features(TRAIN, 30_000 + seed), val, painted, gaussian, samples)))


def test_fresh_samples_of_the_same_distribution_have_learned_and_memorised_nothing() -> None:
    found = measure_controls(sets(0, features(N, 1)))
    assert found.learned.verdict and not found.memorised.verdict
    assert found.reconstructions.value < found.real.value < found.gaussian.value
    assert found.samples.value < found.gaussian.value
    assert (found.real.n, found.samples.n, found.gaussian.n, found.reconstructions.n) == (N, N, N, VAL)
    assert (found.train_images, found.val_images) == (TRAIN, VAL)
    assert str(found.learned).startswith("has learned: beats the Gaussian by +")
    assert str(found.memorised).startswith("not shown to memorise: a training image is the nearest real one of ")
    record = json.loads(json.dumps(found.record()))
    assert record["learned"]["verdict"] is True and record["memorised"]["level"] == 0.05
    assert record["samples"] == {
        "value": found.samples.value, "standard_error": found.samples.standard_error, "n": N,
    }  # fmt: skip


def test_every_row_is_a_distance_to_the_validation_images() -> None:
    these = sets(0, features(N, 1))
    found = measure_controls(these)
    for name in ("reconstructions", "gaussian", "samples"):
        expected = frechet_distance(getattr(these, name).statistics, these.val.statistics)
        assert getattr(found, name).value == pytest.approx(expected, rel=1e-6)
    few = ControlSets(sample(features(90, 5)), these.val, these.reconstructions, these.gaussian, these.samples)
    assert measure_controls(few).real.n == 90


def test_the_gaussian_control_again_has_rarely_learned() -> None:
    """Both sides of the comparison from one distribution: false verdicts at most at their level, in 400 draws."""
    verdicts = [measure_controls(sets(seed, features(N, 40_000 + seed, 1.3, 0.3))) for seed in range(400)]
    assert np.mean([one.learned.verdict for one in verdicts]) <= 0.05
    # The interval is not so wide that it says nothing: the difference leaves it on either side now and then.
    outside = np.mean([abs(one.learned.gain) > one.learned.half for one in verdicts])
    assert 0.01 < outside < 0.09


@pytest.mark.parametrize(("n", "val", "dim"), [(60, 150, 48), (40, 40, 48), (150, 60, 48)])
def test_the_gaussian_again_has_rarely_learned_with_few_images_per_feature(n: int, val: int, dim: int) -> None:
    """Covariances of one side or of both are singular."""
    spectrum, verdicts = np.geomspace(1, 0.05, dim), []
    for seed in range(150):
        generator = np.random.default_rng(seed)
        real, *both = (generator.standard_normal((count, dim)) * spectrum for count in (val, n, n))
        against = sample(real.astype(np.float32))
        drawn = [sample((1.3 * rows).astype(np.float32)) for rows in both]
        found = [
            frechet_influences(one.statistics, one.features, against.statistics, against.features) for one in drawn
        ]
        verdicts.append(has_learned(*found).verdict)
    assert np.mean(verdicts) <= 0.05


def test_fresh_samples_are_rarely_said_to_be_memorised() -> None:
    verdicts = [measure_controls(sets(seed, features(N, 50_000 + seed))) for seed in range(400)]
    # Three standard errors of 5% over 400 draws are 3.3%.
    assert np.mean([one.memorised.verdict for one in verdicts]) <= 0.05 + 0.033
    assert np.mean([one.learned.verdict for one in verdicts]) > 0.95


@pytest.mark.parametrize(("shrunk", "dim"), [(0.4, DIM), (0.0, DIM), (0.4, 2)])
def test_nor_are_images_that_lie_close_to_everything(shrunk: float, dim: int) -> None:
    """Blurred images, the same one again and again, and images of few kinds, whose neighbours are all alike."""
    found, centre = [], features(2000, 2).mean(0)
    for seed in range(150):
        drawn = features(N, 60_000 + seed)
        drawn[:, dim:] = centre[dim:]
        found.append(measure_controls(sets(seed, shrunk * drawn + (1 - shrunk) * centre)).memorised)
    assert np.mean([one.samples for one in found]) < np.mean([one.val for one in found])
    # Three standard errors of 5% over 150 draws are 5.3%.
    assert np.mean([one.verdict for one in found]) <= 0.05 + 0.053


@pytest.mark.parametrize(("copied", "most"), [(1.0, 0.001), (0.3, 0.001), (0.1, 0.05)])
def test_copies_of_training_images_are_found(copied: float, most: float) -> None:
    train = features(TRAIN, 30_000)
    samples = features(N, 1)
    count = round(copied * N)
    samples[:count] = train[np.random.default_rng(0).integers(0, TRAIN, count)]
    found = measure_controls(sets(0, samples))
    assert found.memorised.verdict and found.memorised.p < most and found.memorised.copies == count
    assert str(found.memorised).startswith("memorises: ")
    assert found.memorised.expected == TRAIN / (TRAIN + VAL)


def test_blurred_copies_are_found_and_a_few_among_poor_samples() -> None:
    train = features(TRAIN, 30_000)
    noise = 0.1 * np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
    assert measure_controls(sets(0, train[:N] + noise)).memorised.verdict
    # Nine in ten lie far from everything, so that samples as a whole are not closer.
    poor = features(N, 1, 1.5, 2.0)
    poor[:20] = (train[:N] + noise)[:20]
    found = measure_controls(sets(0, poor)).memorised
    assert found.verdict and found.samples > found.val and found.copies == 0


def test_a_collapsed_generator_has_not_learned() -> None:
    found = measure_controls(sets(0, np.repeat(features(1, 1), N, axis=0)))
    assert not found.learned.verdict


def test_a_copy_of_an_image_whose_flip_is_there_too_is_one() -> None:
    train = features(TRAIN, 30_000)
    these = sets(0, train[:N])
    # A symmetric image is its own flip.
    twice = {"train": train, "val_views": np.array(these.val.features[:])}
    flipped = {name: sample(np.concatenate([rows, rows])) for name, rows in twice.items()}
    both = dataclasses.replace(these, views=2, **flipped)
    assert measure_controls(both).memorised == measure_controls(these).memorised
    assert measure_controls(both).memorised.verdict


@pytest.mark.parametrize("of_train", [30, 36, 40])
def test_the_test_of_memorising_is_the_hypergeometric_distribution_s(of_train: int) -> None:
    """Where every sample has a nearest image of its own, as near as the next, only their number counts."""
    near, far = np.tile([1.0, 1.0], (40, 1)), np.tile([2.0, 2.0], (40, 1))
    numbers = np.arange(40)
    closer = (numbers < of_train)[:, None]
    train = Nearest(np.where(closer, near, far), numbers)
    val = Nearest(np.where(closer, far, near), numbers)
    p, share = has_memorised(train, val, (300, 100))
    one_sided = scipy.stats.hypergeom.sf(of_train - 1, 400, 300, 40)
    assert share == of_train / 40
    assert p == pytest.approx(min(1, 2 * one_sided), abs=5 * 2 * (one_sided * (1 - one_sided) / 2999) ** 0.5 + 1e-3)


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="199 samples and 200 images of the Gaussian"):
        measure_controls(sets(0, features(N - 1, 1)))
