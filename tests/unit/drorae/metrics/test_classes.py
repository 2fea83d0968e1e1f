"""The classifier of generated images, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from drorae.metrics.classes import RIDGE, LinearClassifier
from drorae.metrics.samples import FeatureSample

DIM, CLASSES = 12, 4


def made(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features that lie about their class's centre, which is the same for every seed; the last one never changes."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, n)
    features = np.random.default_rng(0).normal(size=(CLASSES, DIM))[labels] + draw.normal(size=(n, DIM))
    features = features * np.geomspace(0.01, 100, DIM) + 50
    features[:, -1] = 3
    return features.astype(np.float32), labels


def sample_of(features: np.ndarray) -> FeatureSample:
    sample = FeatureSample(DIM)
    sample.update(torch.from_numpy(features))
    return sample


def test_it_sees_the_classes_that_scikit_learn_s_ridge_classifier_sees() -> None:
    (train, labels), (fresh, truth) = made(300, 1), made(5000, 2)
    scaler = StandardScaler().fit(train.astype(float))
    reference = RidgeClassifier(alpha=RIDGE * len(train)).fit(scaler.transform(train.astype(float)), labels)
    found = LinearClassifier.fitted(sample_of(train), labels)
    scores = reference.decision_function(scaler.transform(fresh.astype(float)))
    np.testing.assert_allclose((fresh - found.mean) @ found.weights + found.bias, scores, rtol=1e-6, atol=1e-9)
    share = found.accuracy(sample_of(fresh), truth)
    assert share.value == reference.score(scaler.transform(fresh.astype(float)), truth) and share.n == 5000
    assert 0.5 < share.value < 1 and share.standard_error == pytest.approx(
        np.std(scores.argmax(1) == truth) / np.sqrt(5000)
    )


def test_a_class_that_training_images_lack_is_never_seen() -> None:
    train, labels = made(300, 1)
    found = LinearClassifier.fitted(sample_of(train[labels != 1]), labels[labels != 1])
    assert found.weights.shape == (DIM, CLASSES)
    assert found.accuracy(sample_of(train[labels == 1]), labels[labels == 1]).value == 0
