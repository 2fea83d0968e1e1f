"""Looking inside a tokenizer: the analyses of arXiv 2605.10780 (Secs. 4.6 and App. E) as arrays and numbers.

What the paper only shows in pictures is defined here; where it leaves a choice, the docstring says which was made.
B images, n fused layers (shallowest first), a grid of gh x gw tokens of width C.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drorae.metrics.evaluate import to_uint8
from drorae.models.tokenizer import Tokenizer
from drorae.storage.files import replacing, write_json

if TYPE_CHECKING:
    from drorae.trial.shared import Workshop

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

    def save(self, directory: Path) -> None:
        """Writes samples.npz, inspection.npz and inspection.json."""
        with replacing(directory / "samples.npz") as path:
            np.savez(path, **dict[str, Any](self.samples))
        with replacing(directory / "inspection.npz") as path:
            np.savez_compressed(path, **dict[str, Any](self.arrays))
        write_json(directory / "inspection.json", self.numbers)


@torch.no_grad()
def observe(tokenizer: Tokenizer, layers: Tensor) -> Observation:
    """Runs the fusion on layers [B, n or more, N, C] and keeps what passes inside it."""
    fusion = tokenizer.fusion
    made = tokenizer.fuse(layers)
    outputs = fusion.norm(layers[:, -fusion.num_layers :]) if made.outputs is None else made.outputs
    return Observation(tokenizer.base(layers), made.fused, made.latent, made.weights, outputs, made.logits)


def log_spectrum(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float64 [B, H, W]: ln(1 + |FFT2(luma)|), the zero frequency in the middle.

    The paper shows "2D FFT log-magnitude spectra" (Fig. 6) and no more; luma on the scale 0 to 255, the natural
    logarithm and the 1 that keeps empty frequencies finite are chosen here.
    """
    luma = torch.einsum("bchw,c->bhw", images.double(), torch.tensor(LUMA, dtype=torch.float64, device=images.device))
    return torch.log1p(torch.fft.fftshift(torch.fft.fft2(luma), dim=(-2, -1)).abs())


def spectrum_difference(reconstruction: Tensor, original: Tensor) -> Tensor:
    """log_spectrum(reconstruction) - log_spectrum(original), [B, H, W] (Fig. 6).

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
    """The first three principal axes of tokens [M, C]: eigenvectors of their covariance, in float64."""
    centred = tokens.double() - tokens.double().mean(0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(-1)[:, :COMPONENTS]
    largest = axes.abs().argmax(0)
    return Basis(tokens.double().mean(0), axes * axes[largest, torch.arange(axes.shape[1])].sign())


def variance_share(basis: Basis, tokens: Tensor) -> float:
    """Share of the variance of tokens [M, C] about their mean that lies along the basis; 0 for equal tokens."""
    centred = tokens.double() - tokens.double().mean(0)
    total = centred.square().sum()
    return float((centred @ basis.axes).square().sum() / total) if total > 0 else 0.0


def as_colours(*projections: Tensor) -> list[np.ndarray]:
    """Projections [B, N, 3] -> the same in [0, 1], one scale per component for all: 1st to 99th percentile."""
    joined = torch.cat([values.reshape(-1, values.shape[-1]) for values in projections])
    low, high = (torch.quantile(joined, share, dim=0) for share in (0.01, 0.99))
    return [((v - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float().cpu().numpy() for v in projections]


def energy_share(weights: Tensor, outputs: Tensor) -> Tensor:
    """weights [B, N, n], outputs [B, n, N, C] -> [B, N, n], positive, summing to 1 over the layers.

    s_k = w_k^2 |h_k|^2 / sum_j w_j^2 |h_j|^2: a layer's part of the energy that Eq. 4 of arXiv 2605.10780 adds up,
    cross terms <w_j h_j, w_k h_k> left out, which may be negative and belong to no one layer. Where LN has no affine
    parameters |h_k|^2 is C for every layer, and s_k = w_k^2 / sum_j w_j^2. A token whose weights are all 0 has the
    same share for each layer.
    """
    energies = weights.double().square() * outputs.double().square().sum(-1).transpose(1, 2)
    total = energies.sum(-1, keepdim=True)
    return torch.where(total > 0, energies / total.clamp_min(1e-300), 1 / energies.shape[-1])


@torch.no_grad()
def inspect(workshop: Workshop, tokenizer: Tokenizer, count: int = IMAGES) -> Inspection:
    """Looks at a tokenizer's work on the first `count` validation images.

    Arrays, float32: `spectrum_original` and `spectrum_phase1`, `spectrum_fused` (differences) [B, S, S]; `cosine`
    and `distance` of z_fuse and z_base [B, gh, gw]; `pca_base` and `pca_fused` [B, gh, gw, 3] in [0, 1], both on
    the axes of z_base; `energy` and, where there is a router, `logits` [B, n, gh, gw]; `blocks` int64 [n], each
    layer's block counted from 1.

    Numbers: `fft_mad_phase1`, `fft_mad_fused`; `cos_fuse_base` (App. E) and `cos_latent_base`; `distance_fuse_base`,
    mean |z_fuse - z_base|; `pca_variance_base` and `pca_variance_fuse`, shares of variance on the three axes;
    per block `energy_share_07`, `logit_mean_07`, `logit_negative_07` (share of tokens); `images`.
    """
    items = np.arange(min(count, len(workshop.val)))
    batch = workshop.val.batch(items, 0, tokenizer.fusion.num_layers)
    layers = batch.layers.to(workshop.device).float()
    seen = observe(tokenizer, layers)
    baseline = workshop.tokenizer()
    original = batch.pixels.to(workshop.device)
    quantise = workshop.config.evaluation.quantise
    phase1 = to_uint8(baseline.decode(seen.base), quantise)
    fused = to_uint8(tokenizer.decode(seen.latent), quantise)
    grid, n = workshop.encoder.grid, seen.outputs.shape[1]
    blocks = np.arange(workshop.encoder.num_layers - n + 1, workshop.encoder.num_layers + 1)

    def layer_maps(values: Tensor) -> np.ndarray:
        """[B, N, n] -> [B, n, gh, gw]."""
        return values.float().transpose(1, 2).reshape(len(items), -1, grid, grid).cpu().numpy()

    def token_map(values: Tensor) -> np.ndarray:
        return values.float().reshape(len(items), grid, grid).cpu().numpy()

    samples = {
        name: images.permute(0, 2, 3, 1).cpu().numpy()
        for name, images in (("original", original), ("phase1", phase1), ("fused", fused))
    }
    samples["routing"] = layer_maps(seen.weights)
    share = energy_share(seen.weights, seen.outputs)
    off_phase1, off_fused = spectrum_difference(phase1, original), spectrum_difference(fused, original)
    cosine = F.cosine_similarity(seen.fused, seen.base, dim=-1)
    distance = (seen.fused - seen.base).norm(dim=-1)
    basis = principal_basis(seen.base.flatten(0, 1))
    colours = as_colours(basis.project(seen.base), basis.project(seen.fused))
    pca_base, pca_fused = (values.reshape(len(items), grid, grid, -1) for values in colours)
    numbers = {
        "images": float(len(items)),
        "fft_mad_phase1": float(off_phase1.abs().mean()),
        "fft_mad_fused": float(off_fused.abs().mean()),
        "cos_fuse_base": float(cosine.mean()),
        "cos_latent_base": float(F.cosine_similarity(seen.latent, seen.base, dim=-1).mean()),
        "distance_fuse_base": float(distance.mean()),
        "pca_variance_base": variance_share(basis, seen.base.flatten(0, 1)),
        "pca_variance_fuse": variance_share(basis, seen.fused.flatten(0, 1)),
    }
    arrays = {
        "spectrum_original": log_spectrum(original).float().cpu().numpy(),
        "spectrum_phase1": off_phase1.float().cpu().numpy(),
        "spectrum_fused": off_fused.float().cpu().numpy(),
        "cosine": token_map(cosine),
        "distance": token_map(distance),
        "pca_base": pca_base,
        "pca_fused": pca_fused,
        "energy": layer_maps(share),
        "blocks": blocks,
    }
    for block, value in zip(blocks, share.mean((0, 1)).tolist(), strict=True):
        numbers[f"energy_share_{block:02d}"] = value
    if seen.logits is not None:
        arrays["logits"] = layer_maps(seen.logits)
        for index, block in enumerate(blocks):
            numbers[f"logit_mean_{block:02d}"] = float(seen.logits[..., index].mean())
            numbers[f"logit_negative_{block:02d}"] = float((seen.logits[..., index] < 0).float().mean())
    return Inspection(numbers, samples, arrays)
