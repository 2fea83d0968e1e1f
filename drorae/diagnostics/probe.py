"""The probe: how well a small latent diffusion transformer learns a tokenizer's latents.

The paper judges a fusion by the loss of a diffusion transformer trained on its latents (arXiv 2605.10780, Table 3).
The probe is that at pocket size: flow matching on the linear path x_t = (1 - t) x + t eps, whose target is the
velocity v = eps - x (Lipman et al., arXiv 2210.02747; Liu et al., arXiv 2209.03003; the paper's "v-prediction"),
learned by an unconditional DiT (Peebles and Xie, arXiv 2212.09748) for a fixed number of steps. Reported is the
held-out E |v - v_hat|^2 per latent element at fixed noise levels t.

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
- A DiT narrower than the latent cannot represent the velocity of its minor directions (RAE, arXiv 2510.11690), a
  penalty that depends on the latent's spectrum and not on how hard it is to learn. So the transformer only corrects
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

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import GELUTanh
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from drorae.config import ProbeConfig
from drorae.data.features import Features
from drorae.diagnostics.latents import latent_batches
from drorae.errors import UserError
from drorae.models.decoder import sincos_positions
from drorae.models.tokenizer import Tokenizer
from drorae.runtime import out_of_memory
from drorae.training.loop import Report
from drorae.training.schedule import epoch_order

FREQUENCIES = 128
"""Sines, and as many cosines, that a time is embedded in; DiT's 256 together, with its base of 10000."""
TIME_SCALE = 1000.0
"""Times are scaled to DiT's range of steps before they are embedded."""
DEVIATION_FLOOR = 1e-6
"""Least deviation a channel is divided by: a constant channel becomes 0."""
VARIANCE_FLOOR = 1e-6
"""Least variance along a principal axis; below it the axis is taken as noise-free and empty."""
ORDER = 4
"""The probe's place beside phases 1 to 3 in the order of images."""


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


class Block(nn.Module):
    """A DiT block with adaLN-Zero (arXiv 2212.09748): identity at initialisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(width, 4 * width, act_layer=GELUTanh)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens x [B, N, W], condition [B, W] -> [B, N, W]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        change: Tensor = gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return x + change


class VelocityModel(nn.Module):
    """v_hat(x_t, t) for tokens in their principal axes: the best linear denoiser plus a DiT.

    With variance l along an axis and d = (1 - t)^2 l + t^2, the linear estimate of v = eps - x is
    (t - (1 - t) l) / d x_t and leaves the variance l / d. The DiT reads x_t / sqrt(d) and its output is scaled by
    sqrt(l / d), so that what goes in and what is wanted of it have variance 1 along every axis: the
    preconditioning of EDM (Karras et al., arXiv 2206.00364), axis by axis. Its last layer starts at 0.

    Args:
        config: width, depth and heads.
        variances: [C], along the axes.
        grid: tokens per side.
    """

    positions: Tensor
    frequencies: Tensor
    variances: Tensor

    def __init__(self, config: ProbeConfig, variances: Tensor, grid: int) -> None:
        super().__init__()
        width, channels = config.width, len(variances)
        self.register_buffer("variances", variances)
        self.register_buffer("positions", sincos_positions(grid, width)[None])
        self.register_buffer("frequencies", TIME_SCALE * 10000.0 ** (-torch.arange(FREQUENCIES) / FREQUENCIES))
        self.embed = nn.Linear(channels, width)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if isinstance(module, Block):
                nn.init.zeros_(module.modulation.weight)
        for linear in (self.modulation, self.head):
            nn.init.zeros_(linear.weight)

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        """Noisy tokens [B, N, C], t [B] in [0, 1] -> v_hat [B, N, C]."""
        time = t.view(-1, 1, 1)
        spread = (1 - time) ** 2 * self.variances + time**2
        linear = (time - (1 - time) * self.variances) / spread * noisy
        angles = t[:, None] * self.frequencies
        condition = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))
        x = self.embed(noisy / spread.sqrt()) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        correction: Tensor = self.head(self.norm(x) * (1 + scale) + shift)
        return linear + (self.variances / spread).sqrt() * correction


def _check(config: ProbeConfig, shape: torch.Size) -> int:
    """Returns the tokens per side; raises UserError for what cannot be built or measured."""
    grid = math.isqrt(shape[1])
    if config.steps < 1:
        raise UserError(f"probe.steps: {config.steps} trains nothing; expected 1 or more")
    if grid**2 != shape[1]:
        raise UserError(f"probe: {shape[1]} tokens are no square grid, which the probe's positions need")
    config.check()
    return grid


@torch.no_grad()
def held_out_loss(model: nn.Module, coordinates: Tensor, t: float, config: ProbeConfig, device: torch.device) -> float:
    """Measures the mean squared velocity error at time t, with the same noise for every tokenizer.

    Args:
        model: maps noisy tokens [B, N, C] and times [B] to velocities [B, N, C].
        coordinates: clean tokens [M, N, C].
        t: the noise level, between 0 and 1.
        config: seed, draws of the noise, batch size.
        device: where the model is.
    """
    noise = torch.Generator().manual_seed(config.seed * 1000 + round(1000 * t))
    total = 0.0
    for _ in range(config.draws):
        for clean in torch.split(coordinates, config.batch_size):
            eps = torch.randn(clean.shape, generator=noise)
            noisy, target = ((1 - t) * clean + t * eps).to(device), (eps - clean).to(device)
            predicted = model(noisy, torch.full((len(clean),), t, device=device))
            total += float((predicted - target).square().sum(dtype=torch.float64))
    return total / (config.draws * coordinates.numel())


def train_probe(
    train: Tensor,
    held_out: Tensor,
    config: ProbeConfig,
    device: torch.device,
    report: Report = lambda row: None,
    deviation: Tensor | None = None,
) -> dict[str, float]:
    """Trains the probe on latents and measures it on others; reproducible to the bit on one CPU.

    Args:
        train: latents [M, N, C], float32, as the decoder reads them.
        held_out: latents of other images.
        config: see `ProbeConfig`.
        device: where the model trains.
        report: called with rows of `phase` (probe), `step`, `loss`.
        deviation: [C], what to divide the channels by; None: the training latents' own deviation.

    Returns:
        probe_loss, the mean over the levels, and probe_loss_t25 and so on per level; probe_relative; probe_linear;
        probe_images, how many held-out images; probe_steps.

    Raises:
        UserError: sizes that do not divide, or levels outside 0 to 1.
    """
    grid = _check(config, train.shape)
    space = latent_space(train, deviation)
    clean_held_out = space.coordinates(held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = VelocityModel(config, space.variances, grid).to(device)
    _train(model, space.coordinates(train), config, device, report)
    losses = {t: held_out_loss(model, clean_held_out, t, config, device) for t in config.levels}
    return {
        "probe_loss": float(np.mean(list(losses.values()))),
        **{level_name(t): loss for t, loss in losses.items()},
        "probe_relative": float(np.mean([loss / white_loss(space.channel_variances, t) for t, loss in losses.items()])),
        "probe_linear": float(np.mean([linear_loss(space, clean_held_out, t) for t in config.levels])),
        "probe_images": float(len(held_out)),
        "probe_steps": float(config.steps),
    }


def _train(model: nn.Module, coordinates: Tensor, config: ProbeConfig, device: torch.device, report: Report) -> None:
    """Trains on whole batches of one permutation per epoch."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.steps + 1, pct_start=config.warmup, cycle_momentum=False
    )
    chance = torch.Generator().manual_seed(config.seed * 1000)
    batch_size = min(config.batch_size, len(coordinates))
    window: list[Tensor] = []
    for step in range(1, config.steps + 1):
        epoch, position = divmod(step - 1, len(coordinates) // batch_size)
        items = epoch_order(config.seed, ORDER, epoch, len(coordinates))[position * batch_size :][:batch_size]
        clean = coordinates[items]
        t = torch.rand(batch_size, generator=chance)
        eps = torch.randn(clean.shape, generator=chance)
        noisy = torch.lerp(clean, eps, t.view(-1, 1, 1)).to(device)
        loss = F.mse_loss(model(noisy, t.to(device)), (eps - clean).to(device))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        schedule.step()
        window.append(loss.detach())
        if step % 10 == 0 or step == config.steps:
            report({"phase": "probe", "step": float(step), "loss": float(torch.stack(window).mean())})
            window = []
    model.eval()


def probe(
    tokenizer: Tokenizer,
    train: Features,
    held_out: Features,
    config: ProbeConfig,
    batch_size: int,
    report: Report = lambda row: None,
) -> dict[str, float]:
    """Trains the probe on a tokenizer's latents and measures it on those of other images.

    See `train_probe` for the numbers and what it raises.

    Args:
        tokenizer: whose latents; its parameters say on which device the probe trains.
        train: the encoder's features of the images that it trains on, at most `config.train_images` of them.
        held_out: those of the images that it is measured on, at most `config.val_images` of them.
        config: see `ProbeConfig`.
        batch_size: images fused at once; fewer where memory does not hold them.
        report: called with rows of `phase` (probe), `step`, `loss`.
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
    with out_of_memory.as_user_error("probe", "lower probe.batch_size, probe.width or probe.depth"):
        return train_probe(clean, other, config, tokenizer.decoder.embed.weight.device, report, deviation)
