"""PSNR, L1 and SSIM of each image against torchmetrics and scikit-image."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from photographs import crops, noisy

from drorae.metrics import image


def test_psnr_and_l1_per_image() -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    a, b = crops(6), noisy(crops(6), 20.0)
    found = image.psnr(b, a)
    expected = functional.peak_signal_noise_ratio(
        b.double(), a.double(), data_range=255.0, reduction="none", dim=(1, 2, 3)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    manual = 10 * np.log10(255**2 / ((a.numpy().astype(float) - b.numpy()) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(found.numpy(), manual, rtol=1e-12)
    np.testing.assert_allclose(
        image.l1(b, a).numpy(), np.abs(a.numpy().astype(float) - b.numpy()).mean((1, 2, 3)) / 255
    )


def test_identical_images_have_a_finite_psnr_above_any_other() -> None:
    a = crops(2, size=256)
    nearly = a.clone()
    nearly[1, 0, 0, 0] ^= 1
    found = image.psnr(nearly, a)
    assert found[0] == image.MAX_PSNR and torch.isfinite(found).all()
    assert 95 < found[1] <= found[0]


@pytest.mark.parametrize("size", [32, 64])
def test_ssim_equals_scikit_image(size: int) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a = crops(5, size)
    b = noisy(a, 25.0)
    # scikit-image leaves out a border of 5 px: it gets images that are reflected that far beyond theirs.
    wide_a, wide_b = (np.pad(x.numpy(), ((0, 0), (0, 0), (5, 5), (5, 5)), mode="reflect") for x in (a, b))
    expected = [
        metrics.structural_similarity(
            x, y, channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(wide_a, wide_b, strict=True)
    ]
    np.testing.assert_allclose(image.ssim(b, a).numpy(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(image.ssim(a, a).double(), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (6, 6), (48, 20)])
def test_ssim_equals_torchmetrics(shape: tuple[int, int]) -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    a = crops(5, 64)[..., : shape[0], : shape[1]]
    for b in (noisy(a, 25.0), a, 255 - a, torch.zeros_like(a)):
        expected = functional.structural_similarity_index_measure(
            b.double(), a.double(), data_range=255.0, reduction="none"
        )
        torch.testing.assert_close(image.ssim(b, a), expected, rtol=0, atol=1e-9)


def test_metrics_do_not_import_torchmetrics() -> None:
    """Which takes a second and a half of every process."""
    code = "import sys, drorae.metrics.evaluate; assert 'torchmetrics' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ssim_does_not_depend_on_the_batch() -> None:
    a = crops(4)
    b = noisy(a, 25.0)
    single = torch.cat([image.ssim(b[i : i + 1], a[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(image.ssim(b, a), single, rtol=1e-5, atol=1e-6)
