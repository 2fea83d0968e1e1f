"""Images of a trial's generator: drawn batch by batch into PNGs or an npz, going on where they were stopped."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from drorae.config import config_hash
from drorae.data.pixels import to_uint8
from drorae.diagnostics.latents import as_tokens
from drorae.diagnostics.picture import write_mosaic
from drorae.errors import Notice, UserError
from drorae.generation.drawing import Drawing, check_drawing, check_prompts, draw_latents
from drorae.generation.guidance import Network
from drorae.metrics.references import IMAGES, reference_images
from drorae.models.weights import state_sha256
from drorae.runtime import distributed, out_of_memory
from drorae.storage.files import naming_full_disk, remove_drafts, replacing
from drorae.training.loop import Report
from drorae.trial.folder import GRID, SAMPLED, read_tree, write_tree
from drorae.trial.generator import Generator
from drorae.trial.prompts import Prompt

GRID_IMAGES = 64
"""Images of the grid, the first ones."""
METADATA, SHOWN = "metadata.jsonl", "samples"
"""In the folder of a prompt, its line of the file of prompts and the folder of its images: GenEval's names."""
REMEDY = "draw fewer at once (--batch-size), which draws images of other last bits"


class Sink(Protocol):
    """Where images go, batch by batch, and are read again from."""

    def has(self, images: range) -> bool:
        """Whether a batch is there, whole, from this sitting or an earlier one."""

    def write(self, images: range, pixels: np.ndarray) -> None:
        """Takes a batch, uint8 [B, H, W, 3]."""

    def finish(self) -> None:
        """Ends the writing, when all batches are there."""

    def batches(self, size: int, part: range | None = None) -> Iterator[np.ndarray]:
        """Yields images again, uint8 [size or fewer, H, W, 3], once all are there.

        Args:
            size: images at once.
            part: which of them, beginning at a multiple of `size`; None: all.
        """


class PngFolder:
    """A PNG for each image, by its number."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def path(self, image: int) -> Path:
        """Returns an image's file."""
        return self.folder / f"{image:06d}.png"

    def has(self, images: range) -> bool:
        """Whether every image has its file: they are never seen half-written."""
        return all(self.path(image).is_file() for image in images)

    def write(self, images: range, pixels: np.ndarray) -> None:
        """Writes the files."""
        for image, picture in zip(images, pixels, strict=True):
            with replacing(self.path(image)) as temporary:
                Image.fromarray(picture).save(temporary)

    def finish(self) -> None:
        """Nothing is left to do."""

    def batches(self, size: int, part: range | None = None) -> Iterator[np.ndarray]:
        """Reads the files again."""
        part = range(self.count) if part is None else part
        for start in range(part.start, part.stop, size):
            pictures = []
            for image in range(start, min(start + size, part.stop)):
                with Image.open(self.path(image)) as picture:
                    pictures.append(np.array(picture))
            yield np.stack(pictures)


class PromptFolders(PngFolder):
    """A folder for each prompt, by its number, with its line and a PNG for each of its images: GenEval's layout.

    Args:
        folder: holds them.
        count: of all images.
        prompts: of which there are images.
        each: images of a prompt.
    """

    def __init__(self, folder: Path, count: int, prompts: Sequence[Prompt], each: int) -> None:
        super().__init__(folder, count)
        self.prompts, self.each = prompts, each

    def path(self, image: int) -> Path:
        """Returns an image's file."""
        return self._place(image // self.each) / SHOWN / f"{image % self.each:04d}.png"

    def finish(self) -> None:
        """Writes the prompts' lines."""
        for number in range(math.ceil(self.count / self.each)):
            prompt = self.prompts[number % len(self.prompts)]
            with replacing(self._place(number) / METADATA) as temporary:
                temporary.write_text(f"{prompt.line}\n", encoding="utf-8")

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:05d}"


class NpzFile:
    """All images as the array arr_0 of one npz, as ADM's evaluator reads them; on disk, never in memory at once.

    Until they are complete they lie beside the other files of the samples as a draft, whose length says how many are
    whole.
    """

    def __init__(self, path: Path, folder: Path, count: int, side: int) -> None:
        self.path, self.count, self.side = path, count, side
        self.draft = folder / f".{IMAGES}.raw"

    @property
    def _bytes(self) -> int:
        return self.side * self.side * 3

    def has(self, images: range) -> bool:
        """Whether the draft, or the npz, goes so far."""
        if not self.draft.is_file():
            return self.path.is_file()
        return self.draft.stat().st_size >= images.stop * self._bytes

    def write(self, images: range, pixels: np.ndarray) -> None:
        """Puts a batch at its place; what a kill left of it there is overwritten."""
        with self.draft.open("r+b" if self.draft.is_file() else "wb") as file:
            file.truncate(min(images.start * self._bytes, os.fstat(file.fileno()).st_size))
            file.seek(images.start * self._bytes)
            file.write(np.ascontiguousarray(pixels).data)
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Makes the npz of the draft."""
        if not self.draft.is_file():
            return
        remove_drafts(self.path)
        shape = (self.count, self.side, self.side, 3)
        with (
            replacing(self.path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
            archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as member,
            self.draft.open("rb") as file,
        ):
            npy.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
            while part := file.read(2**24):
                member.write(part)
        self.draft.unlink()

    def batches(self, size: int, part: range | None = None) -> Iterator[np.ndarray]:
        """Reads the npz again."""
        part = range(self.count) if part is None else part
        for number, images in enumerate(reference_images(self.path, size)):
            if part.start <= number * size < part.stop:
                yield images.permute(0, 2, 3, 1).numpy()


def settings_of(generator: Generator, drawing: Drawing, bad: Generator | None, quantise: str) -> dict[str, Any]:
    """Returns all that a set of samples depends on, as plain values."""
    tree = dataclasses.asdict(drawing)
    # Without prompts as it was before there were any.
    spoken = {"prompts": list(tree.pop("prompts")), "per_prompt": tree.pop("per_prompt")}
    tree |= spoken if drawing.prompts else {}
    tree["guidance"] = {**tree["guidance"], "interval": list(drawing.guidance.interval)}
    tree |= {"classes": list(drawing.classes), "generator": generator.directory.name, "quantise": quantise}
    tree["weights"] = state_sha256(generator.model.state_dict())
    if drawing.guidance.kind == "autoguidance":
        tree["bad"] = {"name": "", "weights": ""}
        if bad is not None:
            tree["bad"] = {"name": bad.directory.name, "weights": state_sha256(bad.model.state_dict())}
    return tree


def sample(
    generator: Generator,
    drawing: Drawing,
    out: Path | None = None,
    npz: Path | None = None,
    bad: Generator | None = None,
    report: Report = lambda row: None,
    prompts: Sequence[Prompt] = (),
) -> tuple[Path, Sink]:
    """Draws images, or those that an earlier call with the same settings has not drawn, and a grid of the first.

    Several processes on a trial, all of which call it, draw a batch each, in turn: the same images as one process's.

    Args:
        generator: what draws.
        drawing: how many, of what and how. Without classes it draws all that the generator knows, by turns.
        out: folder of the PNGs, the grid and the record; None: one below the generator's, by a hash of the settings.
        npz: takes the images instead of PNGs, in ADM's layout; the grid and the record stay in `out`. For one process
            alone, which writes batch after batch.
        bad: AutoGuidance's bad model; None: the generator itself, early in its training.
        report: gets rows of progress.
        prompts: the lines of the drawing's prompts; left out: their texts alone.

    Returns:
        The folder, and the images.

    Raises:
        UserError: the folder holds other samples, the npz is there already, the generator cannot draw so, or memory
            does not hold a batch.
    """
    workshop = generator.workshop
    if not drawing.classes and generator.classes:
        drawing = dataclasses.replace(drawing, classes=tuple(range(generator.classes)))
    worse = _worse(generator, drawing, bad)
    check_prompts(drawing, generator.run.model)
    said = None if generator.text is None else generator.text.encode(drawing.prompts)
    check_drawing(drawing, generator.network, worse, generator.classes, said)
    settings = settings_of(generator, drawing, bad, workshop.config.evaluation.quantise)
    folder = out or generator.directory / f"samples-{config_hash(settings)}"
    with naming_full_disk(folder), out_of_memory.as_user_error("sampling", REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        with distributed.main_lock(FileLock(folder / ".lock")):
            main = distributed.is_main()
            if main:
                _check_folder(folder, settings, npz)
            sink = _sink(folder, npz, drawing, workshop.config.images.size, prompts)
            _draw_all(generator, drawing, worse, said, sink, report)
            distributed.barrier()
            if main:
                sink.finish()
                _write_grid(folder / GRID, sink)
    return folder, sink


def _worse(generator: Generator, drawing: Drawing, bad: Generator | None) -> Network | None:
    """AutoGuidance's bad model, where it is asked for."""
    if drawing.guidance.kind != "autoguidance":
        return None
    return bad.network if bad is not None else generator.early()


def _sink(folder: Path, npz: Path | None, drawing: Drawing, side: int, prompts: Sequence[Prompt]) -> Sink:
    if npz is not None:
        return NpzFile(npz, folder, drawing.count, side)
    if drawing.prompts:
        lines = prompts or [Prompt.plain(text) for text in drawing.prompts]
        return PromptFolders(folder, drawing.count, lines, drawing.per_prompt)
    return PngFolder(folder, drawing.count)


def _check_folder(folder: Path, settings: dict[str, Any], npz: Path | None) -> None:
    """Notes the settings of samples that are begun; refuses to go on with others, or to replace a file."""
    try:
        tree = read_tree(folder, SAMPLED)
    except FileNotFoundError:
        tree = None
    except ValueError as error:
        raise UserError(f"{folder / SAMPLED}: damaged ({error}); rename {folder}, or choose another --out") from None
    if tree is None and any(next(folder.glob(pictures), None) for pictures in ("*.png", f"[0-9]*/{SHOWN}/*.png")):
        raise UserError(f"{folder}: holds pictures of something else; choose another --out")
    if tree is not None and {name: tree.get(name) for name in settings} != settings:
        raise UserError(f"{folder}: holds samples that were drawn otherwise; choose another --out")
    place = "" if npz is None else str(npz.resolve())
    known = "" if tree is None else str(tree.get("npz", ""))
    if npz is not None and npz.exists() and known != place:
        raise UserError(f"{npz}: is there already; choose another --npz")
    # Before the file is there, so that a kill after it leaves no doubt of whose it is.
    write_tree(folder, SAMPLED, settings | {"npz": place or known})


def _draw_all(
    generator: Generator, drawing: Drawing, worse: Network | None, said: Tensor | None, sink: Sink, report: Report
) -> None:
    """Draws the batches that are not there, of several processes each its own ones."""
    device, statistics = generator.workshop.device, generator.statistics
    quantise = generator.workshop.config.evaluation.quantise
    began, drawn = time.perf_counter(), 0
    batches, processes = drawing.batches(), distributed.world_size()
    for number in range(distributed.rank(), len(batches), processes):
        images = batches[number]
        if not sink.has(images):
            latents = draw_latents(drawing, images, statistics.mean.shape, generator.network, worse, device, said)
            with torch.no_grad():
                painted = generator.tokenizer.decode(as_tokens(statistics.denormalise(latents)))
            sink.write(images, to_uint8(painted, quantise).permute(0, 2, 3, 1).cpu().numpy())
            drawn += len(images)
        # The others get on as this one does.
        reached = batches[min(number + processes, len(batches)) - 1].stop
        row: dict[str, float | str] = {"phase": "sampling", "step": float(reached)}
        row |= {"total_steps": float(drawing.count)}
        if drawn:
            row["images_per_second"] = processes * drawn / max(time.perf_counter() - began, 1e-9)
        report(row)


def _write_grid(path: Path, sink: Sink) -> None:
    """Writes the first images as one picture."""
    first = next(iter(sink.batches(GRID_IMAGES)))
    columns = int(np.ceil(np.sqrt(len(first))))
    missing = -len(first) % columns
    filled = np.concatenate([first, np.full((missing, *first.shape[1:]), 255, np.uint8)])
    try:
        write_mosaic(path, list(filled.reshape(-1, columns, *first.shape[1:])))
    except OSError as error:
        warnings.warn(f"{path}: not written ({error.strerror or error})", Notice, stacklevel=2)
