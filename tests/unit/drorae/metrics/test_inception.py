"""The Inception Score against torch-fidelity's and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from drorae.metrics.inception import inception_score


def logits(n: int, classes: int, scale: float = 3.0) -> np.ndarray:
    return (scale * np.random.default_rng(0).standard_normal((n, classes))).astype(np.float32)


@pytest.mark.parametrize(("n", "splits"), [(200, 10), (203, 10), (57, 1), (40, 40)])
def test_is_torch_fidelity_s(n: int, splits: int) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_isc")
    found = inception_score(logits(n, 30), splits)
    theirs = fidelity.isc_features_to_metric(torch.from_numpy(logits(n, 30)), splits, True, 2020)
    assert found.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert found.deviation == pytest.approx(theirs["inception_score_std"], rel=1e-6, abs=1e-12)
    assert (found.n, found.splits) == (n, splits)
    unshuffled = fidelity.isc_features_to_metric(torch.from_numpy(logits(n, 30)), splits, False)
    assert inception_score(logits(n, 30), splits, None).mean == pytest.approx(unshuffled["inception_score_mean"])


def test_the_limits_are_one_and_the_number_of_classes() -> None:
    assert inception_score(np.zeros((50, 7), np.float32)).mean == pytest.approx(1)
    sure = np.tile(200 * np.eye(5, dtype=np.float32), (40, 1))
    assert inception_score(sure, 1).mean == pytest.approx(5)
    # A class that nothing is of: its probability underflows everywhere.
    assert inception_score(np.pad(sure, ((0, 0), (0, 1)), constant_values=-2000), 1).mean == pytest.approx(5)


def test_the_standard_error_is_that_of_the_mean_of_the_parts() -> None:
    found = inception_score(logits(400, 10))
    assert found.standard_error == pytest.approx(found.deviation / 3)
    assert inception_score(logits(400, 10), 1).standard_error == math.inf


def test_more_parts_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="9 images in 10 parts"):
        inception_score(logits(9, 3))
