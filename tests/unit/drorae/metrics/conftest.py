"""A feature extractor that is at hand without a download."""

from __future__ import annotations

import pytest

from drorae.config import EvaluationConfig
from drorae.metrics.extractors import FeatureExtractor, load_extractor


@pytest.fixture(scope="module")
def effnet() -> FeatureExtractor:
    return load_extractor("effnet", EvaluationConfig(effnet_size=32), "unused", "cpu")
