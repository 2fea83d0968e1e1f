"""Looking inside a tokenizer: the analyses of arXiv 2605.10780 (Secs. 4.6 and App. E) as arrays and numbers.

What the paper only shows in pictures is defined here; where it leaves a choice, the docstring says which was made.
B images, n fused layers (shallowest first), a grid of gh x gw tokens of width C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drorae.data.features import Features
from drorae.data.pixels import to_uint8
from drorae.diagnostics.latents import read_batch
from drorae.models.tokenizer import Tokenizer
from drorae.storage.files import replacing, write_json

IMAGES = 16
"""Validation images looked at where nobody asks for another number."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601)."""
COMPONENTS = 3
"""Principal components kept: red, green and blue."""


class Observation(NamedTuple):
    """A fusion's work on B images."""

    base: Tensor
    """[B, N, C]: z_base."""
    fused: Tensor
    """[B, N, C]: z_fuse."""
    latent: Tensor
    """[B, N, C]: what the decoder reads."""
    weights: Tensor
    """[B, N, n]: each layer's weight, as the aggregation uses it (hirae: before its bounds)."""
    outputs: Tensor
    """[B, n, N, C]: h_k, what the weights multiply: LN of the experts' outputs, or LN(z(k)) without experts
    (cross_attention: before its value projection)."""
    logits: Tensor | None
    """[B, N, n]: the router's raw output, before any normalisation (Eq. 3); None without a router."""


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found."""

    numbers: dict[str, float]
    """Means over the images, by name."""
    samples: dict[str, np.ndarray]
    """original, phase1 and fused uint8 [B, S, S, 3]; routing, the weights, float32 [B, n, gh, gw]."""
    arrays: dict[str, np.ndarray]
    """See `inspect`."""

    def save(self, samples: Path, arrays: Path, numbers: Path) -> None:
        """Writes samples and arrays as npz, numbers as JSON."""
        with replacing(samples) as path:
            np.savez(path, **dict[str, Any](self.samples))
        with replacing(arrays) as path:
            np.savez_compressed(path, **dict[str, Any](self.arrays))
        write_json(numbers, self.numbers)


@torch.no_grad()
def observe(tokenizer: Tokenizer, layers: Tensor) -> Observation:
    """Runs the fusion on layers [B, `LayerFusion.reads` or more, N, C] and keeps what passes inside it."""
    fusion, output = tokenizer.fusion, tokenizer.fuse(layers)
    outputs = fusion.norm(fusion.picked(layers).transpose(0, 1)) if output.outputs is None else output.outputs
    return Observation(tokenizer.base(layers), output.fused, output.latent, output.weights, outputs, output.logits)


def _luma(images: Tensor) -> Tensor:
    """Images uint8 [B, 3, H, W] -> float64 [B, H, W], on the scale 0 to 255."""
    weights = torch.tensor(LUMA, dtype=torch.float64, device=images.device)
    return torch.einsum("bchw,c->bhw", images.double(), weights)


def log_spectrum(images: Tensor) -> Tensor:
    """Images uint8 [B, 3, H, W] -> float64 [B, H, W]: ln(1 + |FFT2(luma)|), the zero frequency in the middle.

    The paper shows "2D FFT log-magnitude spectra" (Fig. 6) and no more; luma on the scale 0 to 255, the natural
    logarithm and the 1 that keeps empty frequencies finite are chosen here.
    """
    return torch.log1p(torch.fft.fftshift(torch.fft.fft2(_luma(images)), dim=(-2, -1)).abs())


def spectrum_difference(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Returns log_spectrum(reconstruction) - log_spectrum(original), [B, H, W] (Fig. 6).

    Its mean absolute value is the figure's MAD. Two independent complex Gaussian spectra of the same power have
    a MAD of ln 2 = 0.69 (the log of the ratio of two exponential variables is logistic), so that a value near it
    says that magnitudes agree no better than by their power; the paper prints 0.53 to 0.69.
    """
    return log_spectrum(reconstruction) - log_spectrum(original)


class Basis(NamedTuple):
    """Principal axes of a set of tokens."""

    mean: Tensor
    """[C]."""
    axes: Tensor
    """[C, 3], orthonormal; the largest entry of each is positive, so that colours do not depend on a sign."""

    def project(self, tokens: Tensor) -> Tensor:
        """[..., C] -> [..., 3]."""
        return (tokens.double() - self.mean) @ self.axes


def principal_basis(tokens: Tensor) -> Basis:
    """Returns the first three principal axes of tokens [M, C]: eigenvectors of their covariance, in float64."""
    centred = tokens.double() - tokens.double().mean(0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(-1)[:, :COMPONENTS]
    largest = axes.abs().argmax(0)
    return Basis(tokens.double().mean(0), axes * axes[largest, torch.arange(axes.shape[1])].sign())


def variance_share(basis: Basis, tokens: Tensor) -> float:
    """Returns how much of the variance of tokens [M, C] lies along the basis, as a share; 0 for equal tokens."""
    centred = tokens.double() - tokens.double().mean(0)
    total = centred.square().sum()
    return float((centred @ basis.axes).square().sum() / total) if total > 0 else 0.0


def as_colours(*projections: Tensor) -> list[Tensor]:
    """Maps projections [B, N, 3] to colours in [0, 1], one scale per component for all: 1st to 99th percentile."""
    joined = torch.cat([values.reshape(-1, values.shape[-1]) for values in projections])
    low, high = (torch.quantile(joined, share, dim=0) for share in (0.01, 0.99))
    return [((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1) for values in projections]


def energy_share(weights: Tensor, outputs: Tensor) -> Tensor:
    """Shares of energy: weights [B, N, n], outputs [B, n, N, C] -> [B, N, n], positive, of sum 1 over the layers.

    s_k = w_k^2 |h_k|^2 / sum_j w_j^2 |h_j|^2: a layer's part of the energy that Eq. 4 of arXiv 2605.10780 adds up,
    cross terms <w_j h_j, w_k h_k> left out, which may be negative and belong to no one layer. Where LN has no affine
    parameters |h_k|^2 is C for every layer, and s_k = w_k^2 / sum_j w_j^2. A token whose weights are all 0 has the
    same share for each layer.
    """
    energies = weights.double().square() * outputs.double().square().sum(-1).transpose(1, 2)
    total = energies.sum(-1, keepdim=True)
    return torch.where(total > 0, energies / total.clamp_min(1e-300), 1 / energies.shape[-1])


def image_gradients(images: Tensor, grid: int) -> Tensor:
    """Images uint8 [B, 3, H, W] -> float64 [B, grid * grid]: the mean gradient of the luma in each token's square.

    Magnitudes of central differences, on the scale 0 to 255. The paper's "image gradients" (Fig. 7) are not defined.
    """
    down, right = torch.gradient(_luma(images), dim=(1, 2))
    return F.adaptive_avg_pool2d(torch.hypot(down, right)[:, None], grid).flatten(1)


def correlations(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation over the tokens of an image, averaged over images: [..., B, N] twice -> [...].

    An image in which either is the same everywhere has none and is left out; without any other it is 0.
    """
    one, other = (values.double() - values.double().mean(-1, keepdim=True) for values in (one, other))
    scale = one.norm(dim=-1) * other.norm(dim=-1)
    found = (one * other).sum(-1) / scale.clamp_min(1e-300)
    valid = scale > 1e-12
    mean: Tensor = torch.where(valid, found, 0).sum(-1) / valid.sum(-1).clamp_min(1)
    return mean


def routing_numbers(logits: Tensor, gradients: Tensor, blocks: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """What Sec. 4.6 of arXiv 2605.10780 reads off its Fig. 7, as numbers.

    Args:
        logits: the router's, [B, N, n].
        gradients: of the images, [B, N] (`image_gradients`).
        blocks: numbers of the layers, [n].

    Returns:
        `gradient_correlation_07` for each block, of its logits and the gradients ("spatially correlated with image
        gradients"); `least_logit_correlation`, the lowest between two layers, and `least_logit_pair`, those layers as
        100 * first + second ("antagonistic pairs"). And the correlations of all layers with each other, float32 [n, n].
    """
    by_layer = logits.permute(2, 0, 1)
    found = correlations(by_layer, gradients.expand_as(by_layer))
    numbers = {f"gradient_correlation_{block:02d}": float(value) for block, value in zip(blocks, found, strict=True)}
    between = correlations(by_layer[:, None], by_layer[None])
    if len(blocks) > 1:
        first, second = np.unravel_index(int(between.argmin()), between.shape)
        numbers["least_logit_correlation"] = float(between.min())
        numbers["least_logit_pair"] = float(100 * blocks[min(first, second)] + blocks[max(first, second)])
    return numbers, between.float().cpu().numpy()


@torch.no_grad()
def inspect(
    tokenizer: Tokenizer,
    baseline: Tokenizer,
    features: Features,
    count: int = IMAGES,
    quantise: Literal["round", "truncate"] = "round",
    baseline_fused: bool = False,
) -> Inspection:
    """Looks at a tokenizer's work on the first `count` images.

    Arrays, float32: `spectrum_original` and `spectrum_phase1`, `spectrum_fused` (differences) [B, S, S]; `cosine`
    and `distance` of z_fuse and z_base [B, gh, gw]; `pca_base` and `pca_fused` [B, gh, gw, 3] in [0, 1], both on
    the axes of z_base; `energy` and, where there is a router, `logits` [B, n, gh, gw] and `logit_correlation` [n, n];
    `blocks` int64 [n], each layer's block counted from 1.

    Numbers: `fft_mad_phase1`, `fft_mad_fused`; `cos_fuse_base` (App. E) and `cos_latent_base`; `distance_fuse_base`,
    mean |z_fuse - z_base|; `pca_variance_base` and `pca_variance_fuse`, shares of variance on the three axes;
    per block `energy_share_07`, `logit_mean_07`, `logit_negative_07` (share of tokens); those of `routing_numbers`;
    `images`.

    Args:
        tokenizer: the one to look into; its parameters say on which device.
        baseline: the frozen encoder and the phase-1 decoder.
        features: the encoder's features of the images, the validation images as a rule.
        count: images looked at; fewer where there are fewer.
        quantise: how reconstructions become 8-bit images (`evaluation.quantise`).
        baseline_fused: whether the phase-1 decoder reads the fusion's latent; otherwise z_base.
    """
    items = np.arange(min(count, len(features)))
    layers, pixels = read_batch(tokenizer, features, items, tokenizer.fusion.reads)
    seen = observe(tokenizer, layers)
    before = read_batch(baseline, features, items, baseline.fusion.reads)[0] if tokenizer.encodes else layers
    images = {
        "original": pixels.to(layers.device),
        "phase1": to_uint8(baseline.decode(baseline.latent(before, baseline_fused)), quantise),
        "fused": to_uint8(tokenizer.decode(seen.latent), quantise),
    }
    samples = {name: pixels.permute(0, 2, 3, 1).cpu().numpy() for name, pixels in images.items()}
    samples["routing"] = _maps(seen.weights.transpose(1, 2))
    blocks = np.array(tokenizer.fusion.blocks)
    numbers, arrays = _look(seen, blocks)
    numbers["images"] = float(len(pixels))
    if seen.logits is not None:
        gradients = image_gradients(images["original"], tokenizer.encoder.grid)
        found, arrays["logit_correlation"] = routing_numbers(seen.logits, gradients, blocks)
        numbers |= found
    arrays["spectrum_original"] = log_spectrum(images["original"]).float().cpu().numpy()
    for name in ("phase1", "fused"):
        difference = spectrum_difference(images[name], images["original"])
        arrays[f"spectrum_{name}"] = difference.float().cpu().numpy()
        numbers[f"fft_mad_{name}"] = float(difference.abs().mean())
    return Inspection(numbers, samples, arrays)


def _maps(values: Tensor) -> np.ndarray:
    """[..., N] -> float32 [..., gh, gw]."""
    grid = math.isqrt(values.shape[-1])
    return values.float().reshape(*values.shape[:-1], grid, grid).cpu().numpy()


def _look(seen: Observation, blocks: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers and maps of latents before and after fusion, and of the layers' parts; `blocks` numbers the layers."""
    cosine = F.cosine_similarity(seen.fused, seen.base, dim=-1)
    distance = (seen.fused - seen.base).norm(dim=-1)
    basis = principal_basis(seen.base.flatten(0, 1))
    numbers = {
        "cos_fuse_base": float(cosine.mean()),
        "cos_latent_base": float(F.cosine_similarity(seen.latent, seen.base, dim=-1).mean()),
        "distance_fuse_base": float(distance.mean()),
        "pca_variance_base": variance_share(basis, seen.base.flatten(0, 1)),
        "pca_variance_fuse": variance_share(basis, seen.fused.flatten(0, 1)),
    }
    layers = {"energy": energy_share(seen.weights, seen.outputs)}
    means = {"energy_share": layers["energy"]}
    if seen.logits is not None:
        layers["logits"] = seen.logits
        means |= {"logit_mean": seen.logits, "logit_negative": (seen.logits < 0).float()}
    for name, values in means.items():
        pairs = zip(blocks, values.mean((0, 1)).tolist(), strict=True)
        numbers |= {f"{name}_{block:02d}": value for block, value in pairs}
    arrays = {"blocks": blocks, "cosine": _maps(cosine), "distance": _maps(distance)}
    arrays |= {name: _maps(values.transpose(1, 2)) for name, values in layers.items()}
    colours = as_colours(basis.project(seen.base), basis.project(seen.fused))
    for name, values in zip(("pca_base", "pca_fused"), colours, strict=True):
        arrays[name] = np.moveaxis(_maps(values.transpose(1, 2)), 1, -1)
    return numbers, arrays
