"""The smallest finished trial, and the smallest generator of its latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tiny import tiny_config, tiny_images

from drorae.config import (
    GENERATORS,
    EvaluationConfig,
    GeneratorRun,
    GeneratorTraining,
    ImagesConfig,
    PhaseConfig,
    Runtime,
)
from drorae.trial.generator import Generator, ready_generator
from drorae.trial.run import run_trial

RUN = GeneratorRun(replace(GENERATORS["tiny"], early_depth=1), GeneratorTraining(3, 8, 3e-3, ema_decay=0.5))
CLASSES = 4
CAPTIONS = ("a red cat", "two dog", "a bench of a blue dog", "a red cat of a bench")


def tiny_runtime(folder: Path) -> Runtime:
    return Runtime(device="cpu", threads=1, cache_dir=str(folder / "cache"), log_steps=1, checkpoint_seconds=0)


def label(path: Path, classes: int = CLASSES) -> Path:
    """Puts labels beside the images of an .npz, by turns; 0 classes: none."""
    arrays = {name: array for name, array in np.load(path).items() if not name.endswith("_labels")}
    labels = {f"{name}_labels": np.arange(len(array)) % classes for name, array in arrays.items()} if classes else {}
    np.savez(path, **arrays, **labels)
    return path


def tiny_trial(folder: Path) -> Path:
    """A trial's folder below `folder`, whose images are in classes by turns."""
    return _finished(folder, ImagesConfig(source="npz", path=str(label(tiny_images(folder / "images.npz")))))


def tiny_captioned_trial(folder: Path) -> Path:
    """The same of images in files, each with one of `CAPTIONS` beside it by turns."""
    return _finished(folder, captioned_images(folder))


def captioned_images(folder: Path, classes: int = 1) -> ImagesConfig:
    """Images in files, each with one of `CAPTIONS` beside it by turns, and in a folder of a class by turns."""
    with np.load(tiny_images(folder / "images.npz")) as arrays:
        for side, pixels in arrays.items():
            for number, image in enumerate(pixels):
                beneath = f"class{number % classes}" if classes > 1 else ""
                path = folder / "images" / side / beneath / f"{number:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
                path.with_suffix(".txt").write_text(CAPTIONS[number % len(CAPTIONS)])
    return ImagesConfig(source="folder", path=str(folder / "images"))


def _finished(folder: Path, images: ImagesConfig) -> Path:
    config = tiny_config(
        folder, phase1=PhaseConfig(epochs=1, batch_size=16),
        phase2=PhaseConfig(epochs=1, batch_size=16), evaluation=EvaluationConfig(extractors=()),
    )  # fmt: skip
    config = replace(config, images=images)
    run_trial(config, directory=folder / "trial", runtime=tiny_runtime(folder))
    return folder / "trial"


def tiny_generator(folder: Path) -> Generator:
    """The generator `RUN`, called mine, of such a trial."""
    return ready_generator(tiny_trial(folder), RUN, "mine", tiny_runtime(folder))
