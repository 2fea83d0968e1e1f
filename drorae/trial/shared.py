"""What all trials of a sweep share, made once: features, the phase-1 decoder, reference statistics, the baseline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drorae.config import (
    UNTRAINED,
    Runtime,
    TrialConfig,
    canonical_json,
    config_hash,
    identity,
    shared_key,
    to_dict,
)
from drorae.data.crops import Images, evaluation_crop
from drorae.data.features import Note, TrainingFeatures, open_features
from drorae.data.images import load_images
from drorae.data.pixels import as_images
from drorae.diagnostics.latents import latent_batches, painted_batches
from drorae.errors import Notice, UserError, printable
from drorae.losses.discriminator import discriminator_fingerprint
from drorae.losses.lpips import Lpips, load_lpips
from drorae.losses.objective import Objective, load_objective
from drorae.machine.needs import EncoderShape, train_flops
from drorae.machine.precision import settled
from drorae.metrics.evaluate import Evaluation, Measured, measure
from drorae.metrics.extractors import FeatureExtractor, load_extractor
from drorae.metrics.frechet import Moments
from drorae.metrics.references import Origin, Reference, extractor_of, read_reference, write_reference
from drorae.metrics.registry import OWN_NETWORK
from drorae.metrics.samples import FeatureSample
from drorae.models.encoder import Encoder, load_encoder
from drorae.models.rae_decoder import read_released
from drorae.models.released_output import better_output
from drorae.models.tokenizer import Tokenizer, build_tokenizer
from drorae.models.weights import fit_state, read_state, save_sealed, state_sha256
from drorae.runtime import distributed, out_of_memory
from drorae.runtime.determinism import set_deterministic
from drorae.runtime.memory import keep_freed
from drorae.storage.cache import Cache
from drorae.storage.files import UNWRITABLE, write_json
from drorae.storage.remote import expanded
from drorae.storage.sealed import read_sealed, write_sealed
from drorae.training.adversary import make_adversary
from drorae.training.loop import DivergenceError, Report, train_phase
from drorae.trial.folder import DECODER, HEADS, SKIPPED
from drorae.trial.heads import keep_heads
from drorae.trial.held_out import HeldOut
from drorae.trial.image_sets import ImageSet, real_images

JUDGED = 16
"""Images that a released decoder paints to show whether `decoder.output` is the right one."""
DECODER_REMEDY = "put that one back, or rename what is there and make it with the threads and the device of then"
"""What to do about a phase-1 decoder of other weights."""


@dataclass
class Workshop:
    """Everything a trial needs beside its own fusion."""

    config: TrialConfig
    runtime: Runtime
    device: torch.device
    encoder: Encoder
    images: Images
    train: TrainingFeatures
    val: TrainingFeatures
    objective: Objective
    extractors: list[FeatureExtractor]
    lpips: Lpips | None
    fingerprints: dict[str, str]
    """Of images and networks by their contents; `phase1_decoder` is an address in the cache, `phase1_weights` the
    SHA-256 of what was found there."""
    decoder: dict[str, Tensor]
    """State of the phase-1 decoder: trained here, or released (`decoder.weights`); empty before it is trained."""
    references: dict[str, FeatureSample] = field(default_factory=dict)
    """Features of the validation images by metric."""
    baseline: dict[str, float] = field(default_factory=dict)
    """Metrics of the phase-1 decoder on the latent that it was trained on, z_base as a rule: RAE, no fusion. Empty
    where no phase 1 has trained it."""
    baseline_images: dict[str, np.ndarray] = field(default_factory=dict)
    """The same image by image (`Evaluation.per_image`), in the process that measures trials alone."""
    external: dict[str, Moments] = field(default_factory=dict)
    """Statistics of `evaluation.reference` by metric."""
    notes: dict[str, str] = field(default_factory=dict)
    """What a reader of the results should know, for their provenance."""

    def tokenizer(self, untrained: bool = False) -> Tokenizer:
        """Returns a fresh fusion before the phase-1 decoder, or an untrained one, on the device."""
        return self._ready(build_tokenizer(self.config, self.encoder), untrained)

    def baseline_tokenizer(self) -> Tokenizer:
        """Returns what phase 1 has made, behind the frozen encoder itself, on the device."""
        return self._ready(build_tokenizer(replace(self.config, phase2=UNTRAINED, phase3=UNTRAINED), self.encoder))

    def _ready(self, tokenizer: Tokenizer, untrained: bool = False) -> Tokenizer:
        if self.decoder and not untrained:
            tokenizer.decoder.load_state_dict(self.decoder)
        tokenizer.decoder.checkpointing = self.runtime.activation_checkpointing
        return tokenizer.to(self.device).requires_grad_(False).eval()

    def evaluate(self, tokenizer: Tokenizer, fused: bool = True) -> Evaluation:
        """Measures a tokenizer's reconstructions of the validation images; without fusion, those of z_base.

        Where memory does not hold `evaluation.batch_size` images, fewer at once. Several processes measure a part of
        the images each, cut into the batches that one process takes, and all return what the main one makes of it: the
        same numbers as one process's.
        """
        settings = self.config.evaluation

        def part(size: int) -> Measured:
            items = np.array(distributed.my_part(len(self.val), size), int)
            pairs = painted_batches(tokenizer, self.val, items, size, fused, settings.quantise)
            return measure(pairs, self.extractors, self.references, self.lpips)

        size, same = min(settings.batch_size, len(self.val)), "the same images, up to rounding the same metrics"
        measured = out_of_memory.retry_smaller(size, part, "evaluation", same, together=True)[0]
        for batch in distributed.from_others(measured.batches()):
            measured.add(batch)
        found = measured.evaluation(self.external, settings.bootstrap) if distributed.is_main() else None
        found = distributed.from_main(found)
        assert found is not None
        return found

    def look(self, directory: Path) -> HeldOut:
        """Returns what measures held-out images while a phase trains, and leaves its pictures in a folder."""
        return HeldOut(self.val, self.runtime.evaluate_images, self.config.evaluation, directory)

    def train_flops(self, fusion_params: int) -> float:
        """Returns the floating-point operations of a trial's own phases (`drorae.machine.needs.train_flops`)."""
        shape = EncoderShape(self.encoder.num_layers, self.encoder.width, self.encoder.patch_size)
        return train_flops(self.config, shape, len(self.train), fusion_params)

    def origin(self, extractor: FeatureExtractor) -> Origin:
        """Says what the references' statistics were measured on."""
        crop, images = evaluation_crop(self.config.images.size), self.fingerprints["images_val"]
        return Origin(extractor.metric, extractor.fingerprint, images, crop, len(self.val))

    def write_references(self, folder: str | Path) -> None:
        """Writes the validation images' statistics as METRIC.npz, to measure others' images against."""
        for extractor in self.extractors:
            statistics = self.references[extractor.metric].statistics
            write_reference(Path(folder) / f"{extractor.metric}.npz", statistics, self.origin(extractor))


class _Opened(NamedTuple):
    key: str
    workshop: Workshop
    decoder: Path
    """The file, or diffusers' folder, that the phase-1 decoder was read from."""
    stamp: tuple[int, ...]

    def is_exchanged(self) -> bool:
        """Whether another decoder lies where this one was read; one that is gone was not exchanged."""
        return self.decoder.exists() and _stamp(self.decoder) != self.stamp


_last: _Opened | None = None
"""The workshop opened last in this process. A worker of a sweep runs trial after trial with the same one, and loading
networks and images anew takes a quick trial's time again."""


def open_workshop(
    config: TrialConfig,
    runtime: Runtime,
    report: Report = lambda row: None,
    check: Callable[[dict[str, str]], None] = lambda fingerprints: None,
    training: bool = True,
) -> Workshop:
    """Loads, or makes where missing, what trials share. Safe to call from many processes at once.

    The last one opened is kept: a trial that differs only in fusion, phases 2 and 3 or seed gets it again, unless
    another decoder was put in the place of its own meanwhile.

    Args:
        config: the trial.
        runtime: device, threads, cache.
        report: gets rows of progress: `{"phase": "prepare", "note": ..., "done": ..., "total": ...}` and phase 1's.
        check: called with fingerprints of the images as soon as they are known, before anything is made of them, and
            with all in the end; what it raises is raised.
        training: whether a trial is to be trained here; False: one that is finished is opened (`TrialConfig.check`).

    Raises:
        UserError: images, weights, sizes or the cache's room are not as needed.
    """
    global _last
    (config := settled(config)).check(training)
    device = choose_device(runtime)
    key = canonical_json({**shared_key(config), "runtime": to_dict(runtime)})
    if _last is not None and _last.key == key and not distributed.from_main(_last.is_exchanged()):
        check(_last.workshop.fingerprints)
        return replace(_last.workshop, config=config)
    # Memory need not hold two.
    _last = None
    out_of_memory.release()

    def note(what: str, done: int, total: int) -> None:
        report({"phase": "prepare", "note": what, "done": float(done), "total": float(total)})

    cache = Cache(runtime.cache_dir)
    cache.check()
    images = load_images(config.images, cache)
    if len(images.val) < 2:
        raise UserError("images: 1 validation image has no spread to compare; give at least 2")
    check(_image_fingerprints(images))
    with cache.naming_unwritable():
        workshop = _assemble(config, runtime, device, images, note)
        if images.skipped:
            workshop.notes[SKIPPED] = _summary(images.skipped)
        _collect_references(workshop, cache, note)
        address = _locate_decoder(workshop, cache)
        with distributed.main_lock(cache.lock(f"{address}/.lock")):
            path = expanded(config.decoder.weights) if config.decoder.weights else cache / f"{address}/{DECODER}"
            if not workshop.decoder:
                _make_decoder(workshop, cache, address, report)
            stamp = _stamp(path)
            workshop.fingerprints["phase1_weights"] = state_sha256(workshop.decoder)
            _measure_baseline(workshop, cache, address, note)
        _judge_output(workshop)
    check(workshop.fingerprints)
    _last = _Opened(key, workshop, path, stamp)
    return workshop


def _summary(skipped: Sequence[str]) -> str:
    """How many files were left out, and the first of them, in one line."""
    named = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
    return f"{len(skipped)} image files left out: {printable(named)}"


def choose_device(runtime: Runtime) -> torch.device:
    """Returns the device a runtime names, and sets torch's threads as it says.

    On CUDA, says whether the process takes deterministic kernels; on a CPU, has it keep the memory that it frees.
    """
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if runtime.device == "auto" else runtime.device)
    if device.type == "cuda":
        set_deterministic(not runtime.fast_kernels)
    else:
        keep_freed()
    return device


def decoder_place(config: TrialConfig, runtime: Runtime, fingerprints: Mapping[str, str]) -> str:
    """Says where the phase-1 decoder's weights lie, in words for a message."""
    return config.decoder.weights or f"{runtime.cache_dir}/decoders/{fingerprints['phase1_decoder']}"


def decoder_address(config: TrialConfig, fingerprints: Mapping[str, str], located: bool = False) -> str:
    """Returns the address in the cache of a phase-1 decoder: a hash of all that it depends on.

    Args:
        config: a trial that starts from it.
        fingerprints: of `images_train`, `encoder` and `perceptual`; of a `discriminator` that is read from a file; of
            a `released_decoder`, which is known by its contents.
        located: return the address that drorae 0.1.0 gave it, by the places of files instead of their contents.
    """
    tree = identity(config, located)
    key: dict[str, Any] = {name: tree[name] for name in ("decoder", "objective", "discriminator", "phase1")}
    key |= {"size": config.images.size, "views": config.images.views, "images": fingerprints["images_train"]}
    key |= {"encoder": fingerprints["encoder"], "dtype": config.encoder.feature_dtype}
    key |= {"norm_affine": config.encoder.norm_affine, "perceptual": fingerprints["perceptual"]}
    if "released_decoder" in fingerprints:
        key["decoder"] = {**tree["decoder"], "weights": fingerprints["released_decoder"]}
    if "discriminator" in fingerprints and not located:
        key["discriminator"] = fingerprints["discriminator"]
    if config.phases[0].fused:
        key["fusion"] = tree["fusion"]
    return f"decoders/{config_hash(key)}"


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes whenever a file takes the place of another."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _image_fingerprints(images: Images) -> dict[str, str]:
    return {"images_train": images.train.fingerprint, "images_val": images.val.fingerprint}


def _assemble(config: TrialConfig, runtime: Runtime, device: torch.device, images: Images, note: Note) -> Workshop:
    """Loads networks and features; sizes and weights are checked before anything is encoded."""
    settings = config.evaluation
    encoder = load_encoder(config.encoder, runtime.cache_dir).to(device)
    objective = load_objective(config.objective).to(device)
    lpips = None
    if settings.lpips != "none":
        lpips = load_lpips(settings.lpips, settings.lpips_path, precision=settings.precision).to(device)
    extractors = [load_extractor(name, settings, runtime.cache_dir, device) for name in settings.extractors]
    reference = read_reference(settings.reference, extractors) if settings.reference else None
    compared = extractor_of(reference, extractors) if reference is not None else None
    untrained = build_tokenizer(config, encoder).decoder
    fingerprints = _image_fingerprints(images) | discriminator_fingerprint(config)
    fingerprints |= {"encoder": encoder.fingerprint, "perceptual": objective.fingerprint}
    fingerprints |= {extractor.metric: extractor.fingerprint for extractor in extractors}
    if lpips is not None:
        fingerprints[f"lpips_{lpips.name}"] = lpips.fingerprint
    decoder: dict[str, Tensor] = {}
    if config.decoder.weights:
        released = read_released(config.decoder.weights)
        decoder = released.state_for(untrained, encoder)
        fingerprints["released_decoder"] = released.fingerprint
    features = partial(open_features, encoder=encoder, config=config.encoder, runtime=runtime, device=device, note=note)
    depth = encoder.num_layers
    train = features(images.train, views=config.images.views, network=objective.cached, depth=config.reads(depth))
    # Whatever is trained, it is measured behind its fusion.
    val = features(images.val, views=1, network=None, depth=config.fusion.reads(depth))
    workshop = Workshop(
        config, runtime, device, encoder, images, train, val, objective, extractors, lpips, fingerprints, decoder
    )
    for extractor in extractors:
        if extractor.is_of(encoder):
            workshop.notes[OWN_NETWORK] = extractor.name
    if images.notices:
        workshop.notes["images"] = "; ".join(images.notices)
    if reference is not None and compared is not None:
        _compare_with_file(workshop, reference, compared)
    return workshop


def _compare_with_file(workshop: Workshop, reference: Reference, extractor: FeatureExtractor) -> None:
    """Sets up the second distance to `evaluation.reference`, and says what is doubtful about it."""
    name = f"{extractor.metric}_reference"
    doubts = "; ".join(reference.doubts(workshop.origin(extractor)))
    workshop.external[extractor.metric] = reference.moments
    workshop.fingerprints[name] = reference.sha256[:16]
    workshop.notes[name] = f"{reference.path}: {doubts or 'cropped like the reconstructions'}"
    if doubts:
        warnings.warn(
            f"evaluation.reference {reference.path}: {doubts}; read {extractor.metric}, measured against the originals "
            f"as the reconstructions are cropped, rather than {name}",
            stacklevel=4,
        )


def _collect_references(workshop: Workshop, cache: Cache, note: Note) -> None:
    """Reads the originals' features per metric; computed once per set of images and extractor, a part by each process.

    Raises:
        UserError: what the main process has computed is not here.
    """
    originals = real_images(workshop.val, workshop.config.evaluation.batch_size, workshop.device)
    for extractor in workshop.extractors:
        say = partial(note, "measuring the originals", 0, 1)
        workshop.references[extractor.metric] = kept_features(
            cache, workshop.fingerprints["images_val"], extractor, originals, say
        )


def kept_features(
    cache: Cache,
    fingerprint: str,
    extractor: FeatureExtractor,
    images: ImageSet,
    say: Callable[[], None] = lambda: None,
) -> FeatureSample:
    """Returns the features of a set of real images, from the cache, or computed and left there.

    Args:
        cache: of all trials.
        fingerprint: of the set.
        extractor: whose features.
        images: the set; each process of a trial goes through a part of it.
        say: called where they are computed.

    Raises:
        UserError: what the main process has computed is not here.
    """
    key = {"images": fingerprint, "extractor": extractor.fingerprint, "count": images.count}
    names = [f"references/{config_hash(key)}.{suffix}" for suffix in ("npy", "npz")]
    path = cache / names[1]
    with distributed.main_lock(cache.lock(f"{names[1]}.lock")):
        found = None
        if distributed.is_main():
            for name in names:
                cache.fetch(name)
            found = FeatureSample.load(path)
        if distributed.from_main(found is None):
            say()
            found = images.features(extractor).features
            if distributed.is_main():
                found.save(path)
                for name in names:
                    cache.share(name)
    if not distributed.is_main():
        found = FeatureSample.load(path)
    if found is None:
        raise UserError(f"{path}: not here; a trial's processes must share the cache's folder (--cache-dir)")
    return found


def _locate_decoder(workshop: Workshop, cache: Cache) -> str:
    """Finds the address of the phase-1 decoder, that of an older version where it is there; makes its folder."""
    address, former = (decoder_address(workshop.config, workshop.fingerprints, located) for located in (False, True))
    if former != address and ((cache / former).is_dir() or cache.fetch(f"{former}/{DECODER}")):
        address = former
    (cache / address).mkdir(parents=True, exist_ok=True)
    workshop.fingerprints["phase1_decoder"] = Path(address).name
    return address


def _make_decoder(workshop: Workshop, cache: Cache, address: str, report: Report) -> None:
    """Reads the phase-1 decoder from the cache; trains it where it is missing or damaged."""
    weights, tokenizer = cache / f"{address}/{DECODER}", workshop.baseline_tokenizer()
    if distributed.is_main():
        cache.fetch(f"{address}/{DECODER}")
    # Damaged weights are set aside by one process, on behalf of all.
    lacking = distributed.is_main() and read_sealed(weights, read_state) is None
    if distributed.from_main(lacking):
        config, checkpoint = workshop.config, weights.with_name("checkpoint.pt")
        adversary = make_adversary(
            config, config.phase1, workshop.device, config.decoder.seed, compiling=workshop.runtime.compile
        )
        try:
            trained = train_phase(
                tokenizer, config.phases[0], workshop.train, workshop.objective, adversary,
                seed=config.decoder.seed, device=workshop.device, checkpoint=checkpoint,
                runtime=workshop.runtime, report=report, look=workshop.look(weights.parent),
            )  # fmt: skip
        except DivergenceError as error:
            raise UserError(f"{error}; until then no trial with this decoder can run") from None
        if distributed.is_main():
            write_json(weights.with_name("history.json"), trained.rows)
            if adversary is not None and trained.steps:
                keep_heads(weights.with_name(HEADS), adversary)
                cache.share(f"{address}/{HEADS}")
            save_sealed(weights, tokenizer.decoder.state_dict())
            cache.share(f"{address}/{DECODER}")
            checkpoint.unlink(missing_ok=True)
        distributed.barrier()
    state = read_state(weights)
    fit_state(tokenizer.decoder, state, weights, "rename it, and it is trained again")
    workshop.decoder = state


def _measure_baseline(workshop: Workshop, cache: Cache, address: str, note: Note) -> None:
    """Reads what the phase-1 decoder measures without fusion; measured once per decoder and way of measuring."""
    config = workshop.config
    if not config.phase1.epochs and not config.decoder.weights:
        return
    settings = config.evaluation
    val = workshop.fingerprints["images_val"]
    how = {"val": val, "quantise": settings.quantise, "bootstrap": settings.bootstrap}
    name, images = (f"{address}/baseline-{config_hash(how | workshop.fingerprints)}.{kind}" for kind in ("json", "npz"))
    metrics = per_image = None
    if distributed.is_main():
        cache.fetch(name)
        cache.fetch(images)
        metrics = read_sealed(cache / name, _read_metrics)
        per_image = read_sealed(cache / images, _read_arrays)
    if distributed.from_main(metrics is None or per_image is None):
        note("measuring the baseline", 0, 1)
        found = workshop.evaluate(workshop.baseline_tokenizer(), config.phases[0].fused)
        per_image = found.per_image
        if distributed.is_main():
            _keep_baseline(cache, name, images, found, metrics is None)
    workshop.baseline_images = per_image or {}
    distributed.barrier()
    workshop.baseline = _read_metrics(cache / name)


def _keep_baseline(cache: Cache, name: str, images: str, found: Evaluation, lacking: bool) -> None:
    """Leaves what the baseline measures in the cache; its metrics where they are `lacking` there."""
    if lacking:
        write_sealed(cache / name, partial(write_json, tree=found.metrics))
        cache.share(name)
    try:
        write_sealed(cache / images, partial(_write_arrays, arrays=found.per_image))
        cache.share(images)
    except OSError as error:
        # An older version's cache that cannot be written to serves what it holds.
        if lacking or error.errno not in UNWRITABLE:
            raise


def _judge_output(workshop: Workshop) -> None:
    """Says where a released decoder would paint far better with another `decoder.output`."""
    config = workshop.config
    if not config.decoder.weights:
        return
    tokenizer, items = workshop.baseline_tokenizer(), np.arange(min(JUDGED, len(workshop.val)))
    with torch.no_grad():
        ((latent, pixels),) = latent_batches(tokenizer, workshop.val, items, JUDGED, config.phases[0].fused)
        painted = tokenizer.decode(latent)
    better = better_output(tokenizer.decoder, workshop.encoder, painted, as_images(pixels.to(workshop.device)))
    if better:
        said = f"decoder.output={better} fits it far better than {config.decoder.output}"
        workshop.notes["decoder_output"] = said
        warnings.warn(Notice(f"decoder.weights: {config.decoder.weights}: {said}; set it so"), stacklevel=3)


def _read_metrics(path: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads(path.read_text())
    return metrics


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez(path, **dict[str, Any](arrays))
