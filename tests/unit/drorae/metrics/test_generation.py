"""Generated images' metrics against torch-fidelity on the same features, and what a file of references allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from thumbnail import Thumbnail
from torch import Tensor

from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import frechet_distance
from drorae.metrics.generation import Target, image_features, measure_generated
from drorae.metrics.references import read_reference, reference_sample

N, M = 120, 90


def images(n: int, seed: int, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)


def measured(target: Target | None = None) -> dict[str, float]:
    extractor = Thumbnail()
    target = target or Target.of(image_features(images(M, 1).split(32), extractor))
    return measure_generated(extractor, image_features(images(N, 0, 200).split(32), extractor), target)


def test_all_are_torch_fidelity_s() -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    isc = pytest.importorskip("torch_fidelity.metric_isc")
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    extractor, found = Thumbnail(), measured()
    samples, reference = (extractor(part).double() for part in (images(N, 0, 200), images(M, 1)))

    def distance(a: Tensor, b: Tensor) -> float:
        statistics = (fid.fid_features_to_statistics(part) for part in (a, b))
        return float(fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"])

    score = isc.isc_features_to_metric(extractor.logits(extractor(images(N, 0, 200))))
    covered = prc.prc_features_to_metric(samples, reference, prc_neighborhood=3, verbose=False)
    expected = {
        "gfd_thumbnail": distance(samples, reference),
        "is_thumbnail": score["inception_score_mean"],
        "precision_thumbnail": covered["precision"],
        "recall_thumbnail": covered["recall"],
        "sfd_thumbnail": distance(samples[:, 16:32], reference[:, 16:32]),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert found["is_thumbnail_se"] == pytest.approx(score["inception_score_std"] / 3, rel=1e-6)
    # Each name says of how many images it is; errors are there but for the spatial distance's.
    assert {found[f"{name}_images"] for name in expected} == {N} and found["generated_references"] == M
    assert {name.removesuffix("_se") for name in found if name.endswith("_se")} == {*expected} - {"sfd_thumbnail"}


def test_the_distance_s_error_is_over_the_samples_alone() -> None:
    extractor = Thumbnail()
    target = Target(image_features([images(2000, 1)], extractor).features.statistics)
    drawn = [
        measure_generated(extractor, image_features([images(200, 10 + seed, 200)], extractor), target)
        for seed in range(60)
    ]
    spread = np.std([one["gfd_thumbnail"] for one in drawn])
    assert 0.7 < np.mean([one["gfd_thumbnail_se"] for one in drawn]) / spread < 1.6


def test_a_network_without_classes_and_places_has_neither_score_nor_spatial_distance() -> None:
    class Plain(Thumbnail):
        score_metric = spatial_metric = ""

        def with_places(self, images: Tensor) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

    extractor: FeatureExtractor = Plain()
    target = Target.of(image_features([images(M, 1)], extractor))
    found = measure_generated(extractor, image_features([images(N, 0)], extractor), target)
    assert {"gfd_thumbnail", "precision_thumbnail", "recall_thumbnail"} <= set(found)
    assert not {"is_thumbnail", "sfd_thumbnail", ""} & set(found)


def test_adm_s_file_is_measured_against_by_its_statistics_and_images(tmp_path: Path) -> None:
    """Its statistics are of other images than its own, many more, as in ADM's VIRTUAL files."""
    extractor, many, few = Thumbnail(), images(400, 2), images(M, 1)
    everything = image_features([many], extractor)
    assert everything.places is not None
    statistics, places = everything.features.statistics, everything.places.statistics
    path = tmp_path / "VIRTUAL.npz"
    np.savez(
        path, mu=statistics.mean.numpy(), sigma=statistics.cov.numpy(), mu_s=places.mean.numpy(),
        sigma_s=places.cov.numpy(), arr_0=few.permute(0, 2, 3, 1).numpy(),
    )  # fmt: skip
    generated = image_features([images(N, 0, 200)], extractor)
    assert generated.places is not None
    found = measured(Target.from_file(read_reference(path), reference_sample(path, extractor)))
    assert found["gfd_thumbnail"] == pytest.approx(frechet_distance(generated.features.statistics, statistics))
    assert found["sfd_thumbnail"] == pytest.approx(frechet_distance(generated.places.statistics, places))
    beside = measured()
    assert found["precision_thumbnail"] == beside["precision_thumbnail"]
    assert found["recall_thumbnail"] == beside["recall_thumbnail"]
    assert "generated_references" not in found
    # Statistics alone: no balls to lie in.
    assert "precision_thumbnail" not in measured(Target.from_file(read_reference(path)))
