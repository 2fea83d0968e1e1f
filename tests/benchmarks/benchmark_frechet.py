"""The Frechet distance of 2048 features from moments against torch-fidelity's and pytorch-fid's, and all of rFID.

    python tests/benchmarks/benchmark_frechet.py          # about five minutes on 2 cores

pytorch-fid's formula is its `calculate_frechet_distance`: `scipy.linalg.sqrtm` of the product. The whole is
`drorae.metrics.evaluate.evaluate`, which gives the standard error, kernel distance, PSNR and SSIM besides, against
torch-fidelity's `calculate_metrics` for the distance alone, with one stand-in network in both.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy.linalg
import torch
from alternate import alternate, arguments, record, timed
from torch import Tensor
from torch.utils.data import TensorDataset
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_statistics_to_metric

from drorae.metrics.evaluate import evaluate
from drorae.metrics.extractors import FeatureExtractor
from drorae.metrics.frechet import Moments, frechet_distance

DIM, SIDE = 2048, 8


def features(images: Tensor) -> Tensor:
    """What stands for a network: rectified random projections of the pixels."""
    weights = torch.randn(3 * SIDE**2, DIM, generator=torch.Generator().manual_seed(0)) / SIDE
    noise = torch.rand(len(images), DIM, generator=torch.Generator().manual_seed(int(images.sum())))
    return (images.flatten(1).float() / 128 @ weights + noise).relu()


class Own(FeatureExtractor):
    """For drorae."""

    name, metric, kernel_metric, dim, input_size, fingerprint = "own", "rfd_own", "kd_own", DIM, SIDE, "own"

    def forward(self, images: Tensor) -> Tensor:
        """As `FeatureExtractor.forward`."""
        return features(images)


class Theirs(FeatureExtractorBase):
    """For torch-fidelity."""

    def __init__(self, name: str, features_list: list[str], **_: object) -> None:
        super().__init__(name, features_list)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Features, in a tuple as long as the list that was asked for."""
        return (features(images),)

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        """Their only layer."""
        return ("layer",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The same for every metric."""
        return "layer"

    @staticmethod
    def can_be_compiled() -> bool:
        """No."""
        return False


def moments(seed: int) -> Moments:
    """Moments of 3 * 2048 features whose spectrum falls as a network's does."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(9), dtype=torch.float64) / DIM**0.5
    scale = torch.arange(1, DIM + 1, dtype=torch.float64) ** -0.8
    rows = torch.randn(3 * DIM, DIM, generator=generator, dtype=torch.float64) * scale @ mixing + 0.01 * seed
    return Moments(rows.mean(0), torch.cov(rows.T))


def by_scipy(a: Moments, b: Moments) -> float:
    """pytorch-fid's formula."""
    root = scipy.linalg.sqrtm(a.cov.numpy() @ b.cov.numpy()).real
    traces = float(a.cov.trace() + b.cov.trace())
    return float((a.mean - b.mean).square().sum()) + traces - 2 * float(np.trace(root))


def by_fidelity(a: Moments, b: Moments) -> float:
    """torch-fidelity's."""
    given = ({"mu": one.mean.numpy(), "sigma": one.cov.numpy()} for one in (a, b))
    return float(fid_statistics_to_metric(*given, False)["frechet_inception_distance"])


def main() -> None:
    """Runs the comparisons, checks that all agree, and records them."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=4000)
    options = parser.parse_args()
    a, b = moments(0), moments(1)
    ways = {"drorae": frechet_distance, "torch-fidelity": by_fidelity, "pytorch-fid's formula": by_scipy}
    values = {name: way(a, b) for name, way in ways.items()}
    np.testing.assert_allclose(list(values.values()), values["drorae"], rtol=1e-6)
    things = {name: timed(partial(way, a, b)) for name, way in ways.items()}
    alone = alternate(f"from moments, {DIM} features", things, rounds=options.rounds, warm_up=False, at_most=1.2)
    generator = torch.Generator().manual_seed(0)
    originals = torch.randint(0, 256, (options.images, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    painted = (originals * 0.9 + 10).to(torch.uint8)
    register_feature_extractor("stand-in", Theirs)

    def ours() -> float:
        parts = zip(painted.split(64), originals.split(64), strict=True)
        return evaluate(parts, [Own()]).metrics["rfd_own"]

    def theirs() -> float:
        found = calculate_metrics(
            input1=Single(painted), input2=Single(originals), feature_extractor="stand-in", fid=True, cuda=False,
            batch_size=64, verbose=False, cache=False, datasets_dataloader_workers=0, save_cpu_ram=True,
        )  # fmt: skip
        return float(found["frechet_inception_distance"])

    np.testing.assert_allclose(ours(), theirs(), rtol=1e-4)
    whole = alternate(
        f"rFID of {options.images} images, with drorae's errors, kernel distance, PSNR, SSIM",
        {"drorae": timed(ours), "torch-fidelity": timed(theirs)},
        rounds=options.rounds,
        warm_up=False,
    )
    record("frechet", [alone, whole], options.out, note="All agree: from moments to 1e-6.")


class Single(TensorDataset):
    """Images without labels, as torch-fidelity takes them."""

    def __getitem__(self, index: int) -> Tensor:
        """uint8 [3, H, W]."""
        return super().__getitem__(index)[0]


if __name__ == "__main__":
    main()
