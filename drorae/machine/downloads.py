"""Pretrained weights that come with no package: which a trial reads, and where they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from drorae.config import TrialConfig
from drorae.storage.remote import expanded

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
"""torch-fidelity's Inception, under the name torch's hub caches it by."""
LPIPS_FILE = "vgg16-397923af.pth"
"""torchvision's ImageNet VGG16, under the name torch's hub caches it by."""


def downloaded(name: str) -> Path:
    """Returns where torch's hub keeps a file it has downloaded, as torch.hub.get_dir says, without importing torch."""
    hub = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    return expanded(hub) / "hub" / "checkpoints" / name


@dataclass(frozen=True)
class NeededWeights:
    """A file of pretrained weights that a trial reads."""

    what: str
    where: str
    here: bool
    """On this machine already."""


def needed_weights(config: TrialConfig) -> list[NeededWeights]:
    """Returns the weights a trial reads that come with no package: files it names, and downloads."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    found = []
    for what, part in (("encoder", config.encoder), ("discriminator", config.discriminator)):
        if what == "discriminator" and config.objective.gan_weight == 0:
            continue
        if part.weights == "file":
            found.append(_file(what, part.path))
        elif part.weights == "hub":
            settings = timm.get_pretrained_cfg(part.name)
            repository = settings.hf_hub_id if settings else None
            here = bool(repository) and any(
                isinstance(try_to_load_from_cache(f"{repository}", name), str)
                for name in ("model.safetensors", "pytorch_model.bin")
            )
            found.append(NeededWeights(what, f"hub {repository or part.name}", here))
    if config.objective.perceptual == "lpips_vgg":
        found.append(_file("LPIPS", config.objective.lpips_path or str(downloaded(LPIPS_FILE))))
    if "inception" in config.evaluation.extractors:
        found.append(_file("Inception", config.evaluation.inception_path or str(downloaded(INCEPTION_FILE))))
    generator = config.generator
    if generator.epochs and generator.condition == "text":
        found.append(_text_encoder(generator.text_encoder))
    if config.decoder.weights:
        found.append(_file("decoder", config.decoder.weights))
    return found


def _text_encoder(name: str) -> NeededWeights:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if expanded(name).is_dir():
        return _file("text encoder", name)
    try:
        here = isinstance(try_to_load_from_cache(name, "model.safetensors"), str)
    except HFValidationError:
        return _file("text encoder", name)
    return NeededWeights("text encoder", f"hub {name}", here)


def _file(what: str, path: str) -> NeededWeights:
    return NeededWeights(what, path, expanded(path).exists())
