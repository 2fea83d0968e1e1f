"""The trained tokenizer as a folder of safetensors and JSON, for whoever trains a diffusion model on its latents."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn

from drorae.config import EncoderConfig, Runtime, TrialConfig, default_cache_dir, from_dict, to_dict
from drorae.data.features import DTYPES
from drorae.data.mirrored import Mirrored
from drorae.diagnostics.latents import LatentStatistics, as_map, as_tokens, latent_statistics
from drorae.errors import UserError, brief
from drorae.models.encoder import Encoder, encoder_from_state, load_encoder
from drorae.models.tokenizer import Tokenizer, build_tokenizer
from drorae.models.weights import read_state, save_state, state_fingerprint
from drorae.storage.files import folder_bytes
from drorae.training.loop import Report
from drorae.trial.latents import mirrored_features
from drorae.trial.reload import load_trained
from drorae.trial.result import read_result
from drorae.trial.shared import Workshop

StatisticsCrops = Literal["centre", "training"]
"""Crops of the training images that latents' statistics are of. centre: ADM's centre crop and its flip, as RAE;
training: those that the decoder trained on."""
FORMAT = 1
WEIGHTS = "model.safetensors"
RESULT_FIELDS = ("config_hash", "status", "metrics", "baseline", "eval_images", "weights", "provenance")
"""What config.json says of a trial's result."""

CARD = """---
{{ card_data }}
---

# A visual tokenizer trained with drorae

A frozen vision encoder, a fusion of its layers and a ViT decoder (arXiv 2605.10780).

```python
from drorae.export.tokenizer import PretrainedTokenizer

tokenizer = PretrainedTokenizer.from_pretrained("{{ place }}")
latent = tokenizer.encode(images)  # [B, 3, H, W] in [0, 1] -> {{ shape }}, normalised
images = tokenizer.decode(latent)  # -> [B, 3, {{ size }}, {{ size }}], nominally in [0, 1]
```

Encoder: {{ encoder }} ({{ where }}). Measured by its trial: {{ metrics }}.
"""


class PretrainedTokenizer(
    nn.Module, PyTorchModelHubMixin, library_name="drorae", tags=["image-tokenizer"], model_card_template=CARD
):
    """A frozen tokenizer whose `encode` and `decode` work as RAE's do for a diffusion model.

    Latents are [B, C, h, w] and normalised element by element, (z - mean) / std, with the statistics of the
    training images; `normalised=False` gives and takes the fusion's own. Computes in float32, or under
    `torch.autocast`. Gradients reach the latent through `decode`; no parameter takes any.

    `save_pretrained(folder)` writes model.safetensors, config.json and a model card;
    `from_pretrained(folder or Hub name)` reads them. Without `encoder_embedded` the folder holds fusion and decoder
    only, and loading takes the encoder from where the trial did and checks its weights by their hash;
    `from_pretrained(..., encoder_path=FILE)` names the file of an encoder whose weights were one.

    Args:
        tokenizer: the trained modules.
        statistics: of its latents (`drorae.diagnostics.latents.latent_statistics`).
        config: what config.json holds, as `describe` makes it.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, tokenizer: Tokenizer, statistics: LatentStatistics, config: dict[str, Any]) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.config = config
        self.register_buffer("latent_mean", statistics.mean.float().cpu())
        self.register_buffer("latent_std", statistics.std.float().cpu())
        self._feature_dtype = DTYPES[config["encoder"]["feature_dtype"]]
        self.requires_grad_(False).eval()
        self.to(tokenizer.decoder.embed.weight.device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w."""
        channels, height, width = self.latent_mean.shape
        return channels, height, width

    @torch.no_grad()
    def encode(self, images: Tensor, normalised: bool = True) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], square, resized to the encoder's input -> latent [B, C, h, w]."""
        latent = as_map(self._fused(images))
        return (latent - self.latent_mean) / self.latent_std if normalised else latent

    def decode(self, latent: Tensor, normalised: bool = True) -> Tensor:
        """Latent [B, C, h, w] -> images [B, 3, S, S], nominally in [0, 1], not clamped."""
        return self.tokenizer.decode(as_tokens(latent * self.latent_std + self.latent_mean if normalised else latent))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> reconstruction [B, 3, S, S], to the bit what the trial measured.

        decode(encode(images)) equals it but for the rounding of the normalisation and back.
        """
        return self.tokenizer.decode(self._fused(images))

    @torch.no_grad()
    def _fused(self, images: Tensor) -> Tensor:
        # Features are rounded in training, so here too.
        layers = self.tokenizer.encoder(images).layers.to(self._feature_dtype)
        return self.tokenizer.latent(layers.float())

    def _save_pretrained(self, save_directory: Path) -> None:
        parts: dict[str, nn.Module] = {"fusion": self.tokenizer.fusion, "decoder": self.tokenizer.decoder}
        if self.config["encoder_embedded"]:
            parts["encoder"] = self.tokenizer.encoder.vit
        tensors = {"latent_mean": self.latent_mean, "latent_std": self.latent_std}
        for part, module in parts.items():
            tensors |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
        save_state(save_directory / WEIGHTS, tensors)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        config: dict[str, Any] | None = None,
        encoder_path: str | Path = "",
        **download: Any,
    ) -> PretrainedTokenizer:
        if not config or config.get("format") != FORMAT:
            raise UserError(f"{model_id}: no config.json of format {FORMAT} here; expected a folder of `drorae export`")
        folder = Path(model_id)
        path = folder / WEIGHTS if folder.is_dir() else Path(hf_hub_download(model_id, WEIGHTS, **download))
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in read_state(path).items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        tree = {name: config[name] for name in ("encoder", "fusion", "decoder")}
        trial = from_dict(TrialConfig, {"images": {"size": config["image_size"]}, **tree})
        encoder = _load_encoder(trial.encoder, config, parts["encoder"], str(encoder_path), model_id)
        tokenizer = build_tokenizer(trial, encoder)
        try:
            tokenizer.fusion.load_state_dict(parts["fusion"])
            tokenizer.decoder.load_state_dict(parts["decoder"])
            statistics = LatentStatistics(parts["latent_mean"][""], parts["latent_std"][""], config["latent_images"])
        except (RuntimeError, KeyError) as error:
            reason = brief(error)
            raise UserError(f"{path}: does not fit the config.json beside it ({reason}); export it again") from None
        tokenizer.encodes = config.get("encoder_trained", False)
        # Exports of drorae 0.1.0 do not say whose latents' they are.
        found = latents_fingerprint(tokenizer, statistics)
        if config.get("latents", found) != found:
            raise UserError(f"{path}: holds the statistics of another tokenizer's latents; export the trial again")
        return cls(tokenizer.to(map_location), statistics, config)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Writes the model card, with the metrics that the trial measured."""
        measured = sorted(self.config["trial"].get("metrics", {}).items())
        filled = {
            "place": "FOLDER",
            "shape": ["B", *self.latent_shape],
            "size": self.config["image_size"],
            "encoder": self.config["encoder_fingerprint"],
            "where": "weights in this folder" if self.config["encoder_embedded"] else "weights not in this folder",
            "metrics": ", ".join(f"{name} {value:.5g}" for name, value in measured) or "nothing",
        }
        return super().generate_model_card(*args, **filled, **kwargs)


def latents_fingerprint(tokenizer: Tokenizer, statistics: LatentStatistics) -> str:
    """Returns the fingerprint of the latents' statistics with the fusion and the encoder that they are of."""
    parts = {"fusion": tokenizer.fusion} | ({"encoder": tokenizer.encoder.vit} if tokenizer.encodes else {})
    state = {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}
    state |= {"latent_mean": statistics.mean.float(), "latent_std": statistics.std.float()}
    # An encoder that was trained has other weights than those of its fingerprint.
    encoder = "trained" if tokenizer.encodes else tokenizer.encoder.fingerprint
    return f"{encoder}-{state_fingerprint(state)}"


def describe(
    config: TrialConfig, encoder: Encoder, statistics: LatentStatistics, embed_encoder: bool, trial: dict[str, Any]
) -> dict[str, Any]:
    """Makes the config.json of a trial's tokenizer. Paths of this machine are left out.

    Args:
        config: the trial's.
        encoder: that of the tokenizer.
        statistics: of its latents.
        embed_encoder: whether the encoder's weights are in the folder, as those that the trial has trained always are.
        trial: what is known of the training, such as its metrics and provenance; plain values.
    """
    # What a trained encoder says is not rounded: nothing of it is cached.
    rounded = "fp32" if config.trains_encoder else config.encoder.feature_dtype
    return {
        "format": FORMAT,
        "image_size": config.images.size,
        "encoder": to_dict(replace(config.encoder, path="", feature_dtype=rounded)),
        "encoder_fingerprint": encoder.fingerprint,
        "encoder_embedded": embed_encoder or config.trains_encoder,
        "encoder_trained": config.trains_encoder,
        "fusion": to_dict(config.fusion),
        "decoder": to_dict(replace(config.decoder, weights="")),
        "latent_images": statistics.images,
        "trial": trial,
    }


def _load_encoder(
    config: EncoderConfig, saved: dict[str, Any], state: dict[str, Tensor], path: str, model_id: str
) -> Encoder:
    """Loads the encoder that a tokenizer was trained on: out of its folder, or found again and checked."""
    if saved["encoder_embedded"]:
        return encoder_from_state(config, state)
    if config.weights == "file":
        if not path:
            raise UserError(
                f"{model_id}: its encoder {config.name} was read from a file that is not in the folder; "
                "name it with encoder_path=FILE, or export again with --embed-encoder"
            )
        config = replace(config, path=path)
    encoder = load_encoder(config, default_cache_dir())
    if encoder.fingerprint != saved["encoder_fingerprint"]:
        raise UserError(
            f"{model_id}: was trained on the encoder {saved['encoder_fingerprint']}, found {encoder.fingerprint}; "
            "export it with --embed-encoder where the right weights are"
        )
    return encoder


def _statistics(workshop: Workshop, tokenizer: Tokenizer, crops: StatisticsCrops, images: int) -> LatentStatistics:
    """Takes the statistics of a trial's latents over at most so many of its training images; 0: all."""
    if crops == "training":
        return latent_statistics(tokenizer, workshop.train, images)
    mirrored = Mirrored(workshop.images.train, images)
    return latent_statistics(tokenizer, mirrored_features(workshop, mirrored))


class Exported(NamedTuple):
    """What `export_trial` wrote."""

    latent_shape: tuple[int, int, int]
    latent_images: int
    """Crops that the statistics were taken over: of every image two where they are centre crops and their flips."""
    bytes: int
    metrics: dict[str, tuple[float, float]]
    """The trial's metrics and those of the folder loaded again; empty where that was not asked for."""


def export_trial(
    directory: str | Path,
    folder: str | Path,
    runtime: Runtime,
    embed_encoder: bool = False,
    statistics_images: int = 0,
    check: bool = False,
    report: Report = lambda row: None,
    statistics_crops: StatisticsCrops = "centre",
) -> Exported:
    """Saves a finished trial's tokenizer to `folder`, with the latents' statistics over its training images.

    Args:
        directory: the trial's.
        folder: written with `save_pretrained`.
        runtime: device, threads, cache.
        embed_encoder: put the encoder's weights in as well.
        statistics_images: at most so many training images for the statistics; 0: all.
        check: load the folder again and measure it on the trial's validation images. To the bit on a CPU with as
            many threads as the trial had; CUDA may round otherwise.
        report: called with rows of progress while what the trial was made of is made ready.
        statistics_crops: through which crops the statistics see the images: as RAE, ADM's centre crop and its flip, or
            as the decoder was trained.

    Raises:
        UserError: no finished trial there, or what it was trained on is gone.
    """
    folder = Path(folder)
    workshop, tokenizer = load_trained(directory, runtime, report=report)
    result = read_result(directory)
    assert result is not None  # load_trained has read it
    statistics = _statistics(workshop, tokenizer, statistics_crops, statistics_images)
    trial = {name: getattr(result, name) for name in RESULT_FIELDS}
    config = describe(workshop.config, workshop.encoder, statistics, embed_encoder, trial)
    config |= {"latents": latents_fingerprint(tokenizer, statistics), "latent_crops": statistics_crops}
    model = PretrainedTokenizer(tokenizer, statistics, config)
    model.save_pretrained(folder)
    metrics: dict[str, tuple[float, float]] = {}
    if check:
        loaded = PretrainedTokenizer.from_pretrained(
            folder, map_location=str(workshop.device), encoder_path=workshop.config.encoder.path
        )
        again = workshop.evaluate(loaded.tokenizer).metrics
        # What is measured beside the evaluation, such as the probe, has no counterpart here.
        metrics = {name: (result.metrics[name], value) for name, value in again.items()}
    return Exported(model.latent_shape, statistics.images, folder_bytes(folder), metrics)
