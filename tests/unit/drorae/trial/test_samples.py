"""Images of a generator: PNGs or ADM's npz, stopped or not the same to the bit."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_generator import CLASSES, tiny_generator

from drorae.errors import UserError
from drorae.generation.drawing import Drawing
from drorae.generation.guidance import Guidance
from drorae.trial import samples
from drorae.trial.generator import Generator
from drorae.trial.samples import sample

DRAWING = Drawing(10, steps=2, batch_size=4)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return tiny_generator(tmp_path_factory.mktemp("home"))


def images(folder: Path) -> np.ndarray:
    return np.stack([np.array(Image.open(path)) for path in sorted(folder.glob("0*.png"))])


def stopping(step: int) -> Callable[[dict[str, Any]], None]:
    def stop(row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise KeyboardInterrupt

    return stop


def test_images_are_pngs_a_grid_and_the_record_of_how(generator: Generator, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    folder, sink = sample(generator, DRAWING, tmp_path / "out", report=rows.append)
    assert folder == tmp_path / "out" and [row["step"] for row in rows] == [4, 8, 10]
    found = images(folder)
    assert found.shape == (10, 32, 32, 3) and found.dtype == np.uint8
    assert np.array_equal(np.concatenate(list(sink.batches(3))), found)
    # Four columns, three rows, two pixels between.
    assert Image.open(folder / "grid.png").size == (4 * 32 + 3 * 2, 3 * 32 + 2 * 2)
    assert np.array_equal(np.array(Image.open(folder / "grid.png"))[:32, :32], found[0])
    record = (folder / "samples.json").read_text()
    assert '"seed": 0' in record and '"steps": 2' in record and f'"classes": [\n  {0},' in record


@pytest.mark.parametrize("as_npz", [False, True])
def test_sampling_that_was_stopped_ends_with_the_same_images(
    generator: Generator, tmp_path: Path, as_npz: bool
) -> None:
    def drawn(name: str, report: Any = lambda row: None) -> np.ndarray:
        npz = tmp_path / f"{name}.npz" if as_npz else None
        folder, _ = sample(generator, DRAWING, tmp_path / name, npz, report=report)
        return np.load(npz)["arr_0"] if npz is not None else images(folder)

    whole = drawn("whole")
    with pytest.raises(KeyboardInterrupt):
        drawn("cut", stopping(8))
    assert not (tmp_path / "cut.npz").exists()
    rows: list[dict[str, Any]] = []
    assert np.array_equal(drawn("cut", rows.append), whole)
    assert "images_per_second" not in rows[1] and "images_per_second" in rows[2], "two batches were there"
    assert not list((tmp_path / "cut").glob(".*.raw"))
    rows.clear()
    assert np.array_equal(drawn("cut", rows.append), whole)
    assert all("images_per_second" not in row for row in rows), "all were there"


def test_half_a_batch_that_a_kill_left_in_the_npz_is_drawn_again(generator: Generator, tmp_path: Path) -> None:
    npz = tmp_path / "cut.npz"
    whole = images(sample(generator, DRAWING, tmp_path / "whole")[0])
    with pytest.raises(KeyboardInterrupt):
        sample(generator, DRAWING, tmp_path / "cut", npz, report=stopping(4))
    (draft,) = (tmp_path / "cut").glob(".*.raw")
    with draft.open("ab") as file:
        file.write(b"x" * 5000)
    sample(generator, DRAWING, tmp_path / "cut", npz)
    with np.load(npz) as arrays:
        assert arrays.files == ["arr_0"] and np.array_equal(arrays["arr_0"], whole)


def test_an_npz_is_streamed(tmp_path: Path) -> None:
    """400 MB through a process that may take 150 MB more than it has."""
    program = f"""
        import resource
        import numpy as np
        from pathlib import Path
        from drorae.trial.samples import NpzFile
        sink = NpzFile(Path({str(tmp_path)!r}) / "all.npz", Path({str(tmp_path)!r}), 2048, 256)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for start in range(0, 2048, 64):
            sink.write(range(start, start + 64), np.full((64, 256, 256, 3), start // 64, np.uint8))
        sink.finish()
        assert [int(batch[0, 0, 0, 0]) for batch in sink.batches(64)] == list(range(32))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 150_000
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_guidance_and_classes_change_the_images(generator: Generator, tmp_path: Path) -> None:
    plain = images(sample(generator, DRAWING, tmp_path / "plain")[0])
    led = {
        name: images(sample(generator, replace(DRAWING, guidance=Guidance.parse(f"{name}=4")), tmp_path / name)[0])
        for name in ("cfg", "autoguidance", "internal")
    }
    of_one = images(sample(generator, replace(DRAWING, classes=(1,)), tmp_path / "one")[0])
    sets = [plain, *led.values(), of_one]
    assert all(not np.array_equal(one, other) for one in sets for other in sets if one is not other)
    assert np.array_equal(
        images(sample(generator, replace(DRAWING, classes=tuple(range(CLASSES))), tmp_path / "all")[0]), plain
    )


def test_another_generator_can_be_the_bad_model(generator: Generator, tmp_path: Path) -> None:
    drawing = replace(DRAWING, guidance=Guidance.parse("autoguidance=3"))
    own, _ = sample(generator, drawing, tmp_path / "own")
    worse = replace(generator, model=generator.early().model, directory=tmp_path / "worse")
    other, _ = sample(generator, drawing, tmp_path / "other", bad=worse)
    assert np.array_equal(images(own), images(other))
    same, _ = sample(generator, drawing, tmp_path / "same", bad=generator)
    plain, _ = sample(generator, DRAWING, tmp_path / "plain")
    assert np.abs(images(same).astype(int) - images(plain)).max() <= 1


def test_other_samples_are_not_mixed_with_those_there(generator: Generator, tmp_path: Path) -> None:
    sample(generator, DRAWING, tmp_path / "out")
    with pytest.raises(UserError, match="holds samples that were drawn otherwise; choose another --out"):
        sample(generator, replace(DRAWING, seed=1), tmp_path / "out")
    with pytest.raises(UserError, match=r"^--classes 9: the generator knows 0 to 3"):
        sample(generator, replace(DRAWING, classes=(9,)), tmp_path / "new")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000000.png").touch()
    with pytest.raises(UserError, match="holds pictures of something else"):
        sample(generator, DRAWING, tmp_path / "mine")
    (tmp_path / "theirs.npz").touch()
    with pytest.raises(UserError, match=r"theirs\.npz: is there already; choose another --npz"):
        sample(generator, DRAWING, tmp_path / "third", tmp_path / "theirs.npz")
    assert not (tmp_path / "new").exists()


def test_each_way_of_drawing_has_a_folder_of_its_own(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_draw_all", lambda *arguments: None)
    monkeypatch.setattr(samples, "_write_grid", lambda *arguments: None)
    folders = {sample(generator, replace(DRAWING, **how))[0] for how in ({}, {"seed": 1}, {"steps": 3}, {"count": 5})}
    assert len(folders) == 4 and {folder.parent for folder in folders} == {generator.directory}
