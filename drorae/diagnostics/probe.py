"""The probe: how well a small latent diffusion transformer learns a tokenizer's latents.

The paper judges a fusion by the loss of a diffusion transformer trained on its latents (arXiv 2605.10780, Table 3).
The probe is that at pocket size: a small generator (`drorae.generation.transformer`) that is told nothing, trained for
a fixed number of steps in the generators' own way, and never sampled from. Its times are uniform and unshifted.
Reported is the held-out E |v - v_hat|^2 per latent element, v = eps - x, at fixed noise levels t of
x_t = (1 - t) x + t eps.

What makes the number comparable between tokenizers:

- Latents are standardised per channel by their own mean and deviation (as RAE does before its DiT), so that every
  element has variance 1 and every channel the same signal to noise at a given t. A denoiser that knows these
  variances alone has the loss 1 / ((1 - t)^2 + t^2), whatever the tokenizer: the *white* loss. `probe_relative` is
  the mean over t of loss / white; 1 means that nothing but the variances was learned.
  The paper does not say whether its fused latents were divided by their own deviations or by those of z_base, the
  ones published with RAE. `probe.scale=base` does the latter: a fusion that spreads the latent wider than z_base then
  has more to predict and a higher loss, hard to learn or not. The order of tokenizers can depend on this choice.
- The model, its initialisation, the order of images, the times and the noise are the same for all tokenizers
  (common random numbers; the seed is the probe's, not the trial's), so that differences come from the latents.
- A transformer narrower than the latent cannot represent the velocity of its minor directions (RAE, arXiv 2510.11690),
  a penalty that depends on the latent's spectrum and not on how hard it is to learn. So the transformer only corrects
  the best linear denoiser of single tokens, which has a closed form in the principal axes of the training latents
  and is not limited by the width. Training starts from exactly that denoiser; its own held-out loss is
  `probe_linear`, exact and without a seed. What the transformer adds, `probe_linear - probe_loss`, is structure
  across tokens and beyond second moments.

What it does not say. Standardising takes scale away but not redundancy: latents that carry less about the image,
or whose channels repeat each other, are easier to denoise, and a constant one would be perfect. A lower loss is
better generation only at equal reconstruction, and a higher one may be the price of the detail that fusion
brings; hence a plot of both. Errors count per latent element and not by what the decoder makes of them. A short run
of a small model sees early learning, not convergence; class labels and sampling are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from drorae.config import GeneratorConfig, GeneratorRun, GeneratorTraining, PhaseConfig, ProbeConfig, Runtime
from drorae.data.features import Features
from drorae.diagnostics.latents import as_map, latent_batches
from drorae.errors import UserError
from drorae.generation.training import GeneratorStepper, TrainingLatents
from drorae.generation.transformer import DiTDH, Prediction
from drorae.generation.transport import like_images, noised
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import out_of_memory
from drorae.training.loop import DivergenceError, PhaseRun, Report
from drorae.training.schedule import learning_rate

DEVIATION_FLOOR = 1e-6
"""Least deviation a channel is divided by: a constant channel becomes 0."""
VARIANCE_FLOOR = 1e-6
"""Least variance along a principal axis; below it the axis is taken as noise-free and empty."""


def white_loss(variances: Tensor, t: float) -> float:
    """Returns the loss at time t of the best denoiser that knows the channels' variances [C] alone.

    Mean over channels of l / ((1 - t)^2 l + t^2); 1 / ((1 - t)^2 + t^2) where all are 1.
    """
    return float((variances / ((1 - t) ** 2 * variances + t**2)).mean())


def level_name(t: float) -> str:
    """Names the metric of a noise level: probe_loss_t25 for t = 0.25. No dot, which marks a field of the config."""
    return f"probe_loss_t{round(100 * t):02d}"


@dataclass(frozen=True)
class LatentSpace:
    """Standardisation of a tokenizer's latents and their principal axes, from the training latents."""

    mean: Tensor
    """[C]."""
    deviation: Tensor
    """[C]: what the channels are divided by."""
    channel_variances: Tensor
    """[C]: what is left of each channel's variance then; 1 where it was divided by its own deviation."""
    axes: Tensor
    """[C, C]: columns are the eigenvectors of the standardised tokens' covariance."""
    variances: Tensor
    """[C]: the eigenvalues; their mean is that of the channels' variances."""

    def coordinates(self, latents: Tensor) -> Tensor:
        """Latents [..., C] -> standardised, in the principal axes. A rotation, so that losses stay what they were."""
        return ((latents - self.mean) / self.deviation) @ self.axes


def channel_deviation(latents: Tensor) -> Tensor:
    """Returns the deviation of each channel [C] over images and positions of latents [M, N, C], in float64."""
    return latents.double().flatten(0, 1).std(0, correction=0).clamp_min(DEVIATION_FLOOR)


def latent_space(latents: Tensor, deviation: Tensor | None = None) -> LatentSpace:
    """Takes statistics over images and positions of latents [M, N, C], in float64.

    `deviation` [C] is what to divide the channels by; None: their own deviation.
    """
    tokens = latents.double().flatten(0, 1)
    mean = tokens.mean(0)
    scale = channel_deviation(latents) if deviation is None else deviation.double()
    scaled = (tokens - mean) / scale
    covariance = scaled.T @ scaled / len(scaled)
    values, axes = torch.linalg.eigh(covariance)
    parts = (mean, scale, covariance.diagonal(), axes.flip(-1), values.flip(-1).clamp_min(VARIANCE_FLOOR))
    return LatentSpace(*(part.float() for part in parts))


def linear_loss(space: LatentSpace, coordinates: Tensor, t: float) -> float:
    """Returns the exact expected loss at time t > 0 of the best linear denoiser of single tokens [M, N, C].

    Along an axis of variance l it estimates x as a x_t with a = (1 - t) l / ((1 - t)^2 l + t^2). Its error there is
    ((1 - (1 - t) a)^2 s + a^2 t^2) / t^2 in v, where s is the second moment of the coordinates it is measured on.
    """
    variances, moments = space.variances.double(), coordinates.double().square().mean((0, 1))
    gain = (1 - t) * variances / ((1 - t) ** 2 * variances + t**2)
    return float((((1 - (1 - t) * gain) ** 2 * moments + (gain * t) ** 2) / t**2).mean())


class Denoiser(DiTDH):
    """The best linear denoiser of single tokens in their principal axes, and a DiT^DH that corrects it.

    With variance l along an axis and d = (1 - t)^2 l + t^2, the linear estimate of v = eps - x is
    (t - (1 - t) l) / d x_t and leaves the variance l / d. The transformer reads x_t / sqrt(d) and its output is scaled
    by sqrt(l / d), so that what goes in and what is wanted of it have variance 1 along every axis: the
    preconditioning of EDM (Karras et al., arXiv 2206.00364), axis by axis. Its last layer starts at 0.

    Args:
        config: of the transformer.
        variances: l of each axis, [C].
        grid: tokens per side.
    """

    variances: Tensor

    def __init__(self, config: GeneratorConfig, variances: Tensor, grid: int) -> None:
        super().__init__(config, len(variances), grid)
        # They follow from the latents, and so are no part of the state.
        self.register_buffer("variances", variances.view(-1, 1, 1), persistent=False)

    def forward(self, noisy: Tensor, t: Tensor, given: Tensor | None = None) -> Prediction:
        """Noisy coordinates [B, C, S, S], t [B] in [0, 1] -> v_hat."""
        time = like_images(t, noisy)
        spread = (1 - time) ** 2 * self.variances + time**2
        linear = (time - (1 - time) * self.variances) / spread * noisy
        correction = super().forward(noisy / spread.sqrt(), t, given).final
        return Prediction(linear + (self.variances / spread).sqrt() * correction, None)


class ProbeStepper(GeneratorStepper):
    """Takes a probe's steps: a generator's, on images that are not flipped, so many as its config says.

    Args:
        config: see `ProbeConfig`.
        space: of the training latents.
        clean: their coordinates, float32 [M, N, C].
        device: where the model trains.
        runtime: images at once.

    Raises:
        UserError: the batch cannot be shared by the processes.
    """

    name = "probe"
    number = 4

    def __init__(
        self, config: ProbeConfig, space: LatentSpace, clean: Tensor, device: torch.device, runtime: Runtime
    ) -> None:
        run = _run_of(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = Denoiser(run.model, space.variances, math.isqrt(clean.shape[1])).to(device)
        latents = TrainingLatents(
            len(clean), lambda items: as_map(clean[items % len(clean)]), normalise=lambda found: found, labels=None
        )
        super().__init__(model, run, latents, device, runtime)
        self.total = config.steps
        self._rates = PhaseConfig(1, lr=config.lr, final_lr=0.0, warmup_steps=round(config.warmup * config.steps))

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step (counted from 0): it rises to `lr`, and a cosine takes it down to 0."""
        return learning_rate(self._rates, step, self.total)


def _run_of(config: ProbeConfig) -> GeneratorRun:
    """The generator that a probe is."""
    model = GeneratorConfig(
        config.width, config.depth, config.heads, config.head_width, config.head_depth, config.head_heads,
        condition="none", times="uniform", shift=1.0,
    )  # fmt: skip
    # As its steps are counted, its epochs are not.
    training = GeneratorTraining(batch_size=config.batch_size, lr=config.lr, clip_norm=config.clip_norm, ema_decay=0.0)
    return GeneratorRun(model, training, config.seed)


@torch.no_grad()
def held_out_loss(model: nn.Module, coordinates: Tensor, t: float, config: ProbeConfig, device: torch.device) -> float:
    """Measures the mean squared velocity error at time t, with the same noise for every tokenizer.

    Args:
        model: a generator that predicts velocities and is told nothing.
        coordinates: clean tokens [M, N, C].
        t: the noise level, between 0 and 1.
        config: seed, draws of the noise, batch size.
        device: where the model is.
    """
    chance = torch.Generator().manual_seed(config.seed * 1000 + round(1000 * t))
    total = 0.0
    for _ in range(config.draws):
        for clean in torch.split(as_map(coordinates), config.batch_size):
            noise = torch.randn(clean.shape, generator=chance)
            times = torch.full((len(clean),), t)
            predicted = model(noised(clean, noise, times).to(device), times.to(device)).final
            total += float((predicted - (noise - clean).to(device)).square().sum(dtype=torch.float64))
    return total / (config.draws * coordinates.numel())


def train_probe(
    train: Tensor,
    held_out: Tensor,
    config: ProbeConfig,
    device: torch.device,
    checkpoint: Path,
    runtime: Runtime,
    report: Report = lambda row: None,
    deviation: Tensor | None = None,
) -> dict[str, float]:
    """Trains the probe on latents and measures it on others; reproducible to the bit on one CPU, interrupted or not.

    Args:
        train: latents [M, N, C], float32, as the decoder reads them; the same in all processes, which share batches.
        held_out: latents of other images.
        config: see `ProbeConfig`.
        device: where the model trains.
        checkpoint: file to resume from and to write to; it stays.
        runtime: how often to save and report, images at once.
        report: called with rows of progress, as of a phase.
        deviation: [C], what to divide the channels by; None: the training latents' own deviation.

    Returns:
        probe_loss, the mean over the levels, and probe_loss_t25 and so on per level; probe_relative; probe_linear;
        probe_images, how many held-out images; probe_steps.

    Raises:
        UserError: no steps, tokens that are no square grid, sizes that do not divide, levels outside 0 to 1, or a
            training that diverges.
    """
    if config.steps < 1:
        raise UserError(f"probe.steps: {config.steps} trains nothing; expected 1 or more")
    if math.isqrt(train.shape[1]) ** 2 != train.shape[1]:
        raise UserError(f"probe: {train.shape[1]} tokens are no square grid, which the probe's positions need")
    config.check()
    space = latent_space(train, deviation)
    stepper = ProbeStepper(config, space, space.coordinates(train), device, runtime)
    try:
        PhaseRun(stepper, runtime, checkpoint, report).to_the_end()
    except DivergenceError as error:
        raise UserError(str(error)) from None
    clean = space.coordinates(held_out)
    losses = {t: held_out_loss(stepper.module, clean, t, config, device) for t in config.levels}
    return {
        "probe_loss": float(np.mean(list(losses.values()))),
        **{level_name(t): loss for t, loss in losses.items()},
        "probe_relative": float(np.mean([loss / white_loss(space.channel_variances, t) for t, loss in losses.items()])),
        "probe_linear": float(np.mean([linear_loss(space, clean, t) for t in config.levels])),
        "probe_images": float(len(held_out)),
        "probe_steps": float(config.steps),
    }


def probe(
    tokenizer: Tokenizer,
    train: Features,
    held_out: Features,
    config: ProbeConfig,
    batch_size: int,
    checkpoint: Path,
    runtime: Runtime,
    report: Report = lambda row: None,
) -> dict[str, float]:
    """Trains the probe on a tokenizer's latents and measures it on those of other images; in all processes alike.

    See `train_probe` for the numbers and what it raises.

    Args:
        tokenizer: whose latents; its parameters say on which device the probe trains.
        train: the encoder's features of the images that it trains on, at most `config.train_images` of them.
        held_out: those of the images that it is measured on, at most `config.val_images` of them.
        config: see `ProbeConfig`.
        batch_size: images fused at once; fewer where memory does not hold them.
        checkpoint: file to resume from and to write to; it stays.
        runtime: how often to save and report, images at once.
        report: called with rows of progress, as of a phase.
    """

    def latents(features: Features, count: int, fused: bool = True) -> Tensor:
        """[M, N, C] of the first items, float32, on the CPU."""
        items = np.arange(min(count, len(features)))

        def collect(size: int) -> list[Tensor]:
            return [found.float().cpu() for found, _ in latent_batches(tokenizer, features, items, size, fused)]

        return torch.cat(out_of_memory.retry_smaller(batch_size, collect, "the probe's latents")[0])

    clean, other = latents(train, config.train_images), latents(held_out, config.val_images)
    deviation = None
    if config.scale == "base":
        deviation = channel_deviation(latents(train, config.train_images, fused=False))
    device = tokenizer.decoder.embed.weight.device
    with out_of_memory.as_user_error("probe", "lower probe.batch_size, probe.width or probe.depth"):
        return train_probe(clean, other, config, device, checkpoint, runtime, report, deviation)
