"""`make gpu-check`: every module on a CUDA device against its float64 result on the CPU, whether its gradients are the
same bits every time, the speed of a step, and steps of every preset at full size (`preset_steps`).

Without CUDA it says so and claims nothing. `--device cpu --small` runs the check itself on a machine without one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import timm
import torch
from preset_steps import MICRO_BATCH, SECONDS, check_presets
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from drorae.config import DECODERS, PRESETS, DiscriminatorConfig, FusionConfig
from drorae.losses.adversarial import adaptive_weight
from drorae.losses.discriminator import DinoDiscriminator
from drorae.losses.perceptual import PerceptualNetwork
from drorae.metrics import image
from drorae.models.decoder import Decoder
from drorae.models.fusion.registry import VARIANTS, LayerFusion
from drorae.runtime.determinism import set_deterministic

RELATIVE = 1e-4
"""Largest relative error of float32 with TF32 off that passes."""


def relative(found: Tensor, true: Tensor) -> float:
    return float((found.double().cpu() - true.double()).norm() / true.double().norm())


def compare(module: nn.Module, inputs: list[Tensor], device: torch.device, call: Callable[..., Tensor]) -> list[float]:
    """Relative errors of a module's output and of its gradients: float32 on the device against float64 on the CPU."""
    found = []
    for where, kind in ((device, torch.float32), (torch.device("cpu"), torch.float64)):
        module = module.to(where, kind)
        given = [tensor.to(where, kind).detach().requires_grad_() for tensor in inputs]
        output = call(module, *given)
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # Against random numbers: outputs of a norm have a constant square, whose gradient is rounding alone.
        random = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        loss = (output * random.to(where, kind)).mean()
        gradients = torch.autograd.grad(loss, [*given, *weights], allow_unused=True)
        kept = [gradient.detach().flatten().double().cpu() for gradient in gradients if gradient is not None]
        found.append((output.detach(), torch.cat(kept)))
    (fast, fast_gradient), (true, true_gradient) = found
    return [relative(fast, true), relative(fast_gradient, true_gradient)]


def repeats(module: nn.Module, inputs: list[Tensor], device: torch.device, call: Callable[..., Tensor]) -> bool:
    """Whether a module's gradients are the same bits three times over, in float32 and under bf16 autocast."""
    module = module.to(device, torch.float32)
    given = [tensor.to(device, torch.float32).detach().requires_grad_() for tensor in inputs]
    weights = [*given, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
    for low in (False, True):
        found = []
        for _ in range(3):
            torch.manual_seed(0)
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                loss = call(module, *given).float().square().mean()
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            found.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]))
        if not all(torch.equal(found[0], other) for other in found[1:]):
            return False
    return True


def modules(small: bool) -> dict[str, tuple[nn.Module, list[Tensor], Callable[..., Tensor]]]:
    """Name -> module, inputs and how it is called."""
    torch.manual_seed(0)
    width, depth, tokens = (64, 4, 16) if small else (768, 12, 256)
    norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
    layers = torch.randn(2, depth, tokens, width)
    # Of another size than the networks' own, as it is in a trial.
    picture = torch.rand(2, 3, 48, 48)
    found: dict[str, tuple[nn.Module, list[Tensor], Callable[..., Tensor]]] = {}
    for name, variant in VARIANTS.items():
        if variant.routing is None and not variant.attends:
            continue
        config = FusionConfig(variant=name, expert_hidden_dim=128)  # type: ignore[arg-type]
        # The fusion borrows the encoder's norm, which has no parameters here and so no device.
        found[f"fusion {name}"] = (LayerFusion(config, depth, norm).eval(), [layers], lambda m, x: m(x).latent)
    decoder = DECODERS["tiny" if small else "B"]
    grid = 4 if small else 16
    found["decoder"] = (Decoder(decoder, width, grid, grid * 16), [torch.randn(2, tokens, width)], lambda m, x: m(x))
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).eval().requires_grad_(False)
    found["encoder (ViT)"] = (vit, [torch.rand(2, 3, 64, 64)], lambda m, x: m.forward_features(x))
    network = PerceptualNetwork(timm.create_model("tf_efficientnet_lite0"), 64)
    found["perceptual (EfficientNet)"] = (
        network,
        [picture],
        lambda m, x: torch.cat([f.flatten() for f in m.features(x)]),
    )
    critic = DinoDiscriminator(vit, DiscriminatorConfig(input_size=64)).eval()
    holder = nn.ModuleList([critic, vit])
    found["discriminator"] = (holder, [2 * picture - 1], lambda m, x: m[0](x))
    return found


def check(device: torch.device, small: bool, console: Console) -> bool:
    """Prints the table of errors; True where all are small."""
    table = Table("module", "output", "gradients", "repeats", title=f"float32 on {device} against float64 on the CPU")
    fine = True
    for name, (module, inputs, call) in modules(small).items():
        errors = compare(module, inputs, device, call)
        fine &= max(errors) < RELATIVE
        same = repeats(module, inputs, device, call)
        fine &= same
        table.add_row(name, *(f"{error:.1e}" for error in errors), "yes" if same else "NO")
    first, second = (torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8) for _ in range(2))
    for name in ("psnr", "ssim", "l1"):
        measure = getattr(image, name)
        error = relative(measure(first.to(device), second.to(device)), measure(first, second))
        fine &= error < RELATIVE
        table.add_row(name, f"{error:.1e}", "-", "-")
    console.print(table)
    return fine


def speed(device: torch.device, small: bool, console: Console) -> None:
    """A phase-2 step of the paper's setting, untrained weights, bf16: images/s, memory, and each part's share."""
    name, decoder_size, batch, size, width = "vit_base_patch14_reg4_dinov2", "XL", 64, 224, 768
    if small:
        name, decoder_size, batch, size, width = "vit_tiny_patch16_224", "tiny", 2, 64, 192
    vit: nn.Module = timm.create_model(name, num_classes=0, img_size=size).to(device).eval().requires_grad_(False)
    norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
    grid = vit.patch_embed.grid_size[0]
    fusion = LayerFusion(FusionConfig(expert_hidden_dim=64 if small else 3072), 12, norm).to(device)
    decoder = Decoder(DECODERS[decoder_size], width, grid, grid * 16).to(device).requires_grad_(False)
    network = PerceptualNetwork(timm.create_model("tf_efficientnet_lite0"), 64 if small else 224).to(device)
    settings = DiscriminatorConfig(name="vit_small_patch8_224.dino", weights="random")
    if small:
        settings = replace(settings, name="vit_tiny_patch16_224", input_size=64)
    frozen = timm.create_model(settings.name, num_classes=0, img_size=settings.input_size).eval().requires_grad_(False)
    critic = DinoDiscriminator(frozen.to(device), settings).to(device).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(fusion.parameters(), lr=1e-4, foreach=True)
    pixels = torch.rand(batch, 3, size, size, device=device)
    wanted = torch.rand(batch, 3, grid * 16, grid * 16, device=device)
    seconds: dict[str, float] = {}

    def timed(part: str, work: Callable[[], Tensor]) -> Tensor:
        started = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - started
        return result

    def encode() -> Tensor:
        with torch.no_grad():
            return torch.stack(vit.forward_intermediates(pixels, output_fmt="NLC", intermediates_only=True), 1)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            layers = timed("encoder", encode)
            latent = timed("fusion", lambda: fusion(layers).latent)
            offset = torch.zeros_like(decoder.head.weight, requires_grad=True)
            painted = timed("decoder", lambda: decoder(latent, offset))
            distance = timed(
                "perceptual", lambda: network.distance(network.features(painted), network.features(wanted))
            )
            loss = (painted - wanted).abs().mean() + distance
            gan = timed("gan", lambda: -critic(2 * painted - 1).mean())
            gradients = [torch.autograd.grad(term, offset, retain_graph=True)[0] for term in (loss, gan)]
            weight = timed("gan", lambda: adaptive_weight(*gradients, 1e4))
        optimiser.zero_grad(set_to_none=True)
        timed("backward of all", lambda: (loss + 0.75 * weight * gan).backward() or loss)
        timed("optimiser", lambda: optimiser.step() or loss)

    for _ in range(2):
        step()
    rounds = 2 if small else 10
    rates: dict[bool, list[float]] = {True: [], False: []}
    for deterministic in (False, True) * 3:
        set_deterministic(deterministic)
        step()
        seconds.clear()
        started = time.perf_counter()
        for _ in range(rounds):
            step()
        taken = time.perf_counter() - started
        rates[deterministic].append(rounds * batch / taken)
    table = Table("part", "share", title=f"a phase-2 step: {name}, decoder {decoder_size}, batch {batch}, bf16")
    for part, spent in seconds.items():
        table.add_row(part, f"{spent / taken:.0%}")
    console.print(table)
    console.print(f"{max(rates[True]):.1f} images/s; {max(rates[False]):.1f} with --fast-kernels")
    if device.type == "cuda":
        console.print(f"peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="begin no preset's phase after so many")
    arguments = parser.parse_args()
    console = Console(width=160)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        console.print("no CUDA device here: nothing was checked and nothing is claimed")
        return 0
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device(arguments.device)
    set_deterministic()
    fine = check(device, arguments.small, console)
    speed(device, arguments.small, console)
    fine &= check_presets(list(PRESETS), device, arguments.small, console, MICRO_BATCH, arguments.seconds)
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
