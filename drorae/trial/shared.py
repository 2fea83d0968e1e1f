"""What all trials of a sweep share, made once: features, the phase-1 decoder, reference statistics, the baseline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from drorae.config import Runtime, TrialConfig, canonical_json, config_hash, identity, shared_key, to_dict
from drorae.data.features import Features, open_features
from drorae.data.images import evaluation_crop, load_images
from drorae.errors import UserError
from drorae.losses.adversarial import make_adversary
from drorae.losses.discriminator import discriminator_fingerprint
from drorae.losses.lpips import Lpips, load_lpips
from drorae.losses.objective import Objective, load_objective
from drorae.metrics.evaluate import Evaluation, evaluate, to_uint8
from drorae.metrics.extractors import FeatureExtractor, load_extractor
from drorae.metrics.frechet import Moments
from drorae.metrics.references import Origin, Reference, extractor_of, read_reference, write_reference
from drorae.metrics.samples import FeatureSample
from drorae.models.encoder import Encoder, load_encoder
from drorae.models.rae_decoder import Released, read_released
from drorae.models.tokenizer import Tokenizer, build_tokenizer
from drorae.models.weights import fit_state, read_state, save_sealed, state_sha256
from drorae.runtime import distributed, out_of_memory
from drorae.storage.cache import Cache
from drorae.storage.files import write_json
from drorae.storage.sealed import read_sealed, write_sealed
from drorae.training.loop import Diverged, Report, train_phase
from drorae.training.phases import PHASE1

DECODER = "decoder.safetensors"


@dataclass
class Workshop:
    """Everything a trial needs beside its own fusion."""

    config: TrialConfig
    runtime: Runtime
    device: torch.device
    encoder: Encoder
    train: Features
    val: Features
    objective: Objective
    extractors: list[FeatureExtractor]
    references: dict[str, FeatureSample]
    """Features of the validation images by metric."""
    decoder: dict[str, Tensor]
    """State of the phase-1 decoder: trained here, or released (`decoder.weights`)."""
    baseline: dict[str, float]
    """Metrics of the phase-1 decoder on z_base: RAE, no fusion."""
    fingerprints: dict[str, str]
    """Of images and networks by their contents; `phase1_decoder` is an address in the cache, `phase1_weights` the
    SHA-256 of what was found there."""
    lpips: Lpips | None = None
    external: dict[str, Moments] = field(default_factory=dict)
    """Statistics of `evaluation.reference` by metric."""
    notes: dict[str, str] = field(default_factory=dict)
    """What a reader of the results should know, for their provenance."""

    def tokenizer(self) -> Tokenizer:
        """A fresh fusion before the phase-1 decoder, on the device."""
        tokenizer = build_tokenizer(self.config, self.encoder)
        tokenizer.decoder.load_state_dict(self.decoder)
        tokenizer.decoder.checkpointing = self.runtime.activation_checkpointing
        return tokenizer.to(self.device).requires_grad_(False).eval()

    def evaluate(self, tokenizer: Tokenizer, fused: bool = True) -> Evaluation:
        """Metrics of a tokenizer's reconstructions of the validation images; without fusion, of z_base's.

        Where memory does not hold `evaluation.batch_size` images, fewer at once.
        """

        def measure(size: int) -> Evaluation:
            return evaluate(
                _reconstructions(self.config, self.val, tokenizer, self.device, fused, size),
                self.extractors,
                self.references,
                lpips=self.lpips,
                external=self.external,
                replicates=self.config.evaluation.bootstrap,
            )

        size = min(self.config.evaluation.batch_size, len(self.val))
        return out_of_memory.retry_smaller(
            size, measure, "evaluation", "the same images, up to rounding the same metrics"
        )[0]

    def origin(self, extractor: FeatureExtractor) -> Origin:
        """What the references' statistics were measured on."""
        return Origin(
            extractor.metric,
            extractor.fingerprint,
            self.fingerprints["images_val"],
            evaluation_crop(self.config.images.size),
            len(self.val),
        )

    def write_references(self, folder: str | Path) -> list[Path]:
        """Writes the validation images' statistics as METRIC.npz, to measure others' images against."""
        paths = [Path(folder) / f"{extractor.metric}.npz" for extractor in self.extractors]
        for path, extractor in zip(paths, self.extractors, strict=True):
            write_reference(path, self.references[extractor.metric].statistics, self.origin(extractor))
        return paths


def choose_device(runtime: Runtime) -> torch.device:
    """The device a runtime names, and torch's threads set as it says."""
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    if runtime.device != "auto":
        return torch.device(runtime.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _batches(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


@torch.no_grad()
def _reconstructions(
    config: TrialConfig, val: Features, tokenizer: Tokenizer, device: torch.device, fused: bool, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    depth = tokenizer.fusion.num_layers if fused else 1
    for items in _batches(len(val), size):
        batch = val.batch(items, 0, depth)
        layers = batch.layers.to(device).float()
        painted = tokenizer.decode(tokenizer.latent(layers, fused))
        yield to_uint8(painted, config.evaluation.quantise), batch.pixels.to(device)


def _sample(val: Features, extractor: FeatureExtractor, device: torch.device, size: int) -> FeatureSample:
    sample = FeatureSample(extractor.dim)
    for items in _batches(len(val), size):
        sample.update(extractor(val.batch(items, 0, 1).pixels.to(device)))
    return sample


def _references(
    config: TrialConfig,
    val: Features,
    extractors: list[FeatureExtractor],
    fingerprint: str,
    cache: Cache,
    device: torch.device,
) -> dict[str, FeatureSample]:
    """The originals' features per metric, computed once per set of images and extractor."""
    found: dict[str, FeatureSample] = {}
    for extractor in extractors:
        key = {"images": fingerprint, "extractor": extractor.fingerprint, "count": len(val)}
        entry = f"references/{config_hash(key)}"
        path = cache / f"{entry}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            for name in (f"{entry}.npy", f"{entry}.npz"):
                cache.fetch(name)
            sample = FeatureSample.load(path)
            if sample is None:
                size = min(config.evaluation.batch_size, len(val))
                measure = partial(_sample, val, extractor, device)
                sample = out_of_memory.retry_smaller(size, measure, f"features of {extractor.metric}")[0]
                sample.save(path)
                for name in (f"{entry}.npy", f"{entry}.npz"):
                    cache.share(name)
            found[extractor.metric] = sample
    return found


def _compare_with_file(workshop: Workshop, reference: Reference) -> None:
    """Sets up the second distance to `evaluation.reference`, and says what is doubtful about it."""
    extractor = extractor_of(reference, workshop.extractors)
    name = f"{extractor.metric}_reference"
    doubts = "; ".join(reference.doubts(workshop.origin(extractor)))
    workshop.external[extractor.metric] = reference.moments
    workshop.fingerprints[name] = reference.sha256[:16]
    workshop.notes[name] = f"{reference.path}: {doubts or 'cropped like the reconstructions'}"
    if doubts:
        warnings.warn(
            f"evaluation.reference {reference.path}: {doubts}; read {extractor.metric}, measured against the originals "
            f"as the reconstructions are cropped, rather than {name}",
            stacklevel=3,
        )


def _decoder_name(
    config: TrialConfig,
    train_fingerprint: str,
    encoder: Encoder,
    perceptual_fingerprint: str,
    released: Released | None,
    heard: dict[str, str],
    located: bool,
) -> str:
    """Address in the cache of a phase-1 decoder: a hash of all that it depends on; of a released one, its contents.

    `heard`: the fingerprint of a discriminator that is read from a file. `located`: the address that drorae 0.1.0 gave
    it, by the places of files instead of their contents.
    """
    tree = identity(config, located)
    key: dict[str, Any] = {name: tree[name] for name in ("decoder", "objective", "discriminator", "phase1")}
    key |= {"size": config.images.size, "views": config.images.views, "images": train_fingerprint}
    key |= {"encoder": encoder.fingerprint, "dtype": config.encoder.feature_dtype}
    key |= {"norm_affine": config.encoder.norm_affine, "perceptual": perceptual_fingerprint}
    if released is not None:
        key["decoder"] = {**tree["decoder"], "weights": released.fingerprint}
    if not located:
        key |= heard
    return f"decoders/{config_hash(key)}"


DECODER_REMEDY = "put that one back, or delete what is there and make it with the threads and the device of then"
"""What to do about a phase-1 decoder of other weights."""


def decoder_place(config: TrialConfig, runtime: Runtime, fingerprints: Mapping[str, str]) -> str:
    """Where the phase-1 decoder's weights lie, in words for a message."""
    return config.decoder.weights or f"{runtime.cache_dir}/decoders/{fingerprints['phase1_decoder']}"


def _read_json(path: Path) -> dict[str, float]:
    return json.loads(path.read_text())


_last: tuple[str, Workshop] | None = None
"""The workshop opened last in this process. A worker of a sweep runs trial after trial with the same one, and loading
networks and images anew takes a quick trial's time again."""


def open_workshop(
    config: TrialConfig,
    runtime: Runtime,
    report: Report = lambda row: None,
    check: Callable[[dict[str, str]], None] = lambda fingerprints: None,
) -> Workshop:
    """Loads, or makes where missing, what trials share. Safe to call from many processes at once.

    The last one opened is kept: a trial that differs only in fusion, phases 2 and 3 or seed gets it again.

    report gets rows of progress: `{"phase": "prepare", "note": ..., "done": ..., "total": ...}` and phase 1's.
    check is called with fingerprints of the images as soon as they are known, before anything is made of them, and
    with all in the end; what it raises is raised.

    Raises:
        UserError: images, weights, sizes or the cache's room are not as needed.
    """

    def note(what: str, done: int, total: int) -> None:
        report({"phase": "prepare", "note": what, "done": float(done), "total": float(total)})

    global _last
    device = choose_device(runtime)
    key = canonical_json({**shared_key(config), "runtime": to_dict(runtime)})
    if _last is not None and _last[0] == key:
        check(_last[1].fingerprints)
        return replace(_last[1], config=config)
    # Memory need not hold two.
    _last = None
    out_of_memory.release()
    cache = Cache(runtime.cache_dir)
    images = load_images(config.images)
    seen = {"images_train": images.train.fingerprint, "images_val": images.val.fingerprint}
    check(seen)
    encoder = load_encoder(config.encoder, runtime.cache_dir).to(device)
    objective = load_objective(config.objective).to(device)
    # Sizes and weights are checked before anything is encoded.
    settings = config.evaluation
    if settings.bootstrap < 0 or settings.bootstrap == 1:
        raise UserError(f"evaluation.bootstrap: {settings.bootstrap} replicates have no spread; give 0 or at least 2")
    lpips = load_lpips(settings.lpips, settings.lpips_path).to(device) if settings.lpips != "none" else None
    extractors = [load_extractor(name, settings, runtime.cache_dir, device) for name in settings.extractors]
    reference = read_reference(settings.reference) if settings.reference else None
    if reference is not None:
        extractor_of(reference, extractors)
    tokenizer = build_tokenizer(config, encoder).to(device)
    tokenizer.decoder.checkpointing = runtime.activation_checkpointing
    released = read_released(config.decoder.weights) if config.decoder.weights else None
    decoder = released.state_for(tokenizer.decoder, encoder) if released is not None else None
    train = open_features(
        images.train, encoder, config.encoder, config.images.views, objective.cached, runtime, device, note
    )
    val = open_features(images.val, encoder, config.encoder, 1, None, runtime, device, note)
    references = _references(config, val, extractors, images.val.fingerprint, cache, device)

    heard = discriminator_fingerprint(config)
    name, former = (
        _decoder_name(config, images.train.fingerprint, encoder, objective.fingerprint, released, heard, located)
        for located in (False, True)
    )
    if former != name and ((cache / former).is_dir() or cache.fetch(f"{former}/{DECODER}")):
        name = former
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / DECODER
    with distributed.main_lock(folder / ".lock"):
        if decoder is None and distributed.is_main():
            cache.fetch(f"{name}/{weights.name}")
        # Damaged weights are set aside by one process, on behalf of all.
        lacking = decoder is None and distributed.is_main() and read_sealed(weights, read_state) is None
        if distributed.from_main(lacking, device):
            checkpoint = folder / "checkpoint.pt"
            adversary = make_adversary(config, config.phase1, device, config.decoder.seed)
            try:
                trained = train_phase(
                    tokenizer, PHASE1, config.phase1, train, objective, adversary,
                    seed=config.decoder.seed, device=device, checkpoint=checkpoint, runtime=runtime, report=report,
                )  # fmt: skip
            except Diverged as error:
                raise UserError(f"{error}; until then no trial with this decoder can run") from None
            if distributed.is_main():
                write_json(folder / "history.json", trained.rows)
                save_sealed(weights, tokenizer.decoder.state_dict())
                cache.share(f"{name}/{weights.name}")
                checkpoint.unlink(missing_ok=True)
            distributed.barrier()
        if decoder is None:
            decoder = read_state(weights)
            fit_state(tokenizer.decoder, decoder, weights, "delete it, and it is trained again")
        workshop = Workshop(
            config, runtime, device, encoder, train, val, objective, extractors, references, decoder, {},
            {**seen, "encoder": encoder.fingerprint, "phase1_decoder": folder.name,
             "phase1_weights": state_sha256(decoder), "perceptual": objective.fingerprint}
            | ({"released_decoder": released.fingerprint} if released is not None else {}) | heard
            | {extractor.metric: extractor.fingerprint for extractor in extractors}
            | ({f"lpips_{lpips.name}": lpips.fingerprint} if lpips is not None else {}),
            lpips,
        )  # fmt: skip
        if reference is not None:
            _compare_with_file(workshop, reference)
        how = {"val": images.val.fingerprint, "quantise": settings.quantise, "bootstrap": settings.bootstrap}
        baseline = f"{name}/baseline-{config_hash(how | workshop.fingerprints)}.json"
        measured = cache / baseline
        if distributed.is_main():
            cache.fetch(baseline)
        if distributed.is_main() and read_sealed(measured, _read_json) is None:
            note("measuring the baseline", 0, 1)
            metrics = workshop.evaluate(workshop.tokenizer(), fused=False).metrics
            write_sealed(measured, lambda path: write_json(path, metrics))
            cache.share(baseline)
        distributed.barrier()
        workshop.baseline = _read_json(measured)
    check(workshop.fingerprints)
    _last = (key, workshop)
    return workshop
