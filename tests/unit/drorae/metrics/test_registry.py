"""The list of metrics: what is measured is in it, and directions are those of the metrics themselves."""

from __future__ import annotations

import pytest

from drorae.metrics import extractors
from drorae.metrics.registry import METRICS, better, objective, title


def test_every_extractor_s_distances_are_in_the_list() -> None:
    classes = [kind for kind in extractors.FeatureExtractor.__subclasses__() if kind.__module__ == extractors.__name__]
    frechet = {item.name: item.extractor for item in METRICS if item.extractor}
    assert {kind.metric: kind.name for kind in classes} == frechet
    assert {kind.kernel_metric for kind in classes} <= {item.name for item in METRICS}


def test_names_are_unique() -> None:
    names = [item.name for item in METRICS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("psnr", "higher"), ("rFID-50k", "lower"), ("baseline", None), ("ssim_val", "higher"), ("lpips_squeeze", "lower")],
)
def test_directions(name: str, wanted: str | None) -> None:
    assert better(name) == wanted


def test_the_objective_of_a_search() -> None:
    assert objective(("inception", "dinov2")) == "rfid_inception"
    assert objective(()) == "psnr"


def test_a_name_without_title_stays_as_it_is() -> None:
    assert title("psnr") == "PSNR (dB)" and title("mine") == "mine"
