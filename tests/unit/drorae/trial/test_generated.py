"""Generated images measured, with their controls, from the files that sampling leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from thumbnail import Thumbnail
from tiny_generator import tiny_generator

from drorae.data.features import OnlineFeatures
from drorae.data.mirrored import Mirrored
from drorae.errors import UserError
from drorae.generation.drawing import Drawing
from drorae.trial import generated
from drorae.trial.generated import measure_samples, read_yardsticks
from drorae.trial.generator import Generator
from drorae.trial.samples import PngFolder, sample

DRAWING = Drawing(16, steps=2, batch_size=8)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return tiny_generator(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "load_extractor", lambda *arguments: Thumbnail())


def test_samples_are_measured_beside_their_controls(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sink = sample(generator, DRAWING, tmp_path / "out")
    rows: list[dict[str, Any]] = []
    yardsticks = read_yardsticks(generator, DRAWING.count, report=rows.append)
    found = measure_samples(yardsticks, sink, folder, rows.append)
    record = json.loads((folder / "generated.json").read_text())
    assert record["metrics"] == found.metrics and record["verdicts"][0] == str(found.controls.learned)
    assert {name for name in found.metrics if name.endswith("_images")} == {
        f"{name}_thumbnail_images" for name in ("gfd", "sfd", "is", "precision", "recall")
    }
    assert found.metrics["gfd_thumbnail_images"] == 16 and found.metrics["generated_references"] == 16
    assert found.metrics["gfd_thumbnail"] == pytest.approx(found.controls.samples.value, rel=1e-6)
    controls = record["controls"]
    assert controls["gaussian"]["n"] == controls["samples"]["n"] == controls["val_images"] == 16
    # Flips were learned from, too.
    assert controls["train_images"] == 64 and controls["gaussian_images"] == 64
    assert controls["metric"] == "gfd_thumbnail"
    # They serve as often as there are samples.
    assert measure_samples(yardsticks, sink, folder).record() == found.record()
    # The training images are gone through once for all.
    monkeypatch.setattr(OnlineFeatures, "batch", lambda *arguments: pytest.fail("measured again"))
    again = read_yardsticks(generator, DRAWING.count)
    assert measure_samples(again, sink, folder).record() == found.record()
    # Classes that are asked for are counted, beside chance and what can be told at all.
    asked = measure_samples(again, sink, folder, labels=DRAWING.labels(4))
    assert set(asked.metrics) - set(found.metrics) == {f"accuracy_thumbnail{end}" for end in ("", "_se", "_images")}
    record = json.loads((folder / "generated.json").read_text())["controls"]
    for control in ("real", "reconstructions", "gaussian"):
        assert 0 <= record[f"accuracy_thumbnail_{control}"] <= 1
        assert record[f"accuracy_thumbnail_{control}_images"] == 16


def test_copies_of_training_images_are_found_flipped_or_not(generator: Generator, tmp_path: Path) -> None:
    mirrored = Mirrored(generator.workshop.images.train)
    pixels = np.concatenate([mirrored.crops(range(8 * view, 8 * view + 8), view) for view in (0, 1)])
    tmp_path.mkdir(exist_ok=True)
    for image, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{image:06d}.png")
    found = measure_samples(read_yardsticks(generator, 16), PngFolder(tmp_path, 16), tmp_path)
    assert found.controls.memorised.copies == 16 and found.controls.memorised.verdict
    assert "memorises" in (tmp_path / "generated.json").read_text()


def test_too_few_samples_are_refused(generator: Generator) -> None:
    with pytest.raises(UserError, match=r"^--n 9: expected 10 or more with --measure$"):
        read_yardsticks(generator, 9)
