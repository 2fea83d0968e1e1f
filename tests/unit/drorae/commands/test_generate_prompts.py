"""`drorae generate --prompts`: a generator trained on captions draws GenEval's folders, stopped or not the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_generator import tiny_captioned_trial, tiny_trial
from tiny_text import tiny_text_encoder

from drorae.commands.main import main
from drorae.trial import samples

LINES = ['{"tag": "colors",  "prompt": "a red cat", "include": [1]}', '{"prompt": "two dog"}', '{"prompt": "a bench"}']
DRAWING = ["--steps", "2", "--batch-size", "4", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial of captioned images with a generator of them, called mine."""
    folder = tmp_path_factory.mktemp("home")
    tiny_captioned_trial(folder)
    tiny_text_encoder(folder / "text")
    (folder / "prompts.jsonl").write_text("\n".join(LINES))
    words = [*command(folder), "--out", str(folder / "whole"), "--guidance", "cfg=2"]
    told = ["generator.condition=text", f"generator.text_encoder={folder / 'text'}", "generator.text_tokens=8"]
    training = [
        "--size",
        "tiny",
        "--epochs",
        "2",
        "--set",
        "generator.batch_size=8",
        "generator.lr=1e-2",
        "generator.ema_decay=0",
        *told,
    ]
    assert main([*words, *training, *prompts(folder)]) == 0
    return folder


def command(home: Path) -> list[str]:
    return ["generate", str(home / "trial"), *DRAWING, "--cache-dir", str(home / "cache"), "--name", "mine"]


def prompts(home: Path) -> list[str]:
    return ["--prompts", str(home / "prompts.jsonl"), "--n-per-prompt", "2"]


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_images_lie_as_geneval_expects_them(home: Path) -> None:
    found = content(home / "whole")
    pictures = [f"{prompt:05d}/samples/{image:04d}.png" for prompt in range(3) for image in range(2)]
    lines = [f"{prompt:05d}/metadata.jsonl" for prompt in range(3)]
    assert sorted(found) == sorted([*pictures, *lines, "grid.png", "samples.json"])
    assert [found[name].decode() for name in lines] == [f"{line}\n" for line in LINES]
    for name in pictures:
        assert np.array(Image.open(home / "whole" / name)).shape == (32, 32, 3)
    assert len({found[name] for name in pictures}) == len(pictures)
    record = json.loads(found["samples.json"])
    assert record["prompts"] == ["a red cat", "two dog", "a bench"] and record["per_prompt"] == 2


def test_drawing_that_was_stopped_ends_with_the_same_files(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*command(home), *prompts(home), "--out", str(tmp_path / "cut"), "--guidance", "cfg=2"]
    written = samples.PromptFolders.write

    def stop(self: samples.PromptFolders, images: range, pixels: np.ndarray) -> None:
        """Between two images of the second prompt's, and at the end of the first batch."""
        written(self, range(images.start, images.start + 3), pixels[:3])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(samples.PromptFolders, "write", stop)
        assert main(words) == 130
    assert len(list((tmp_path / "cut").glob("*/samples/*.png"))) == 3
    assert main(words) == 0
    assert content(tmp_path / "cut") == content(home / "whole")


def test_plain_prompts_are_drawn_too_and_other_words_draw_other_images(home: Path, tmp_path: Path) -> None:
    """Led far, as 8 steps of training make little of a text."""
    drawn = {}
    for name, second in (("one", "a bench"), ("other", "two dog")):
        (tmp_path / f"{name}.txt").write_text(f"a red cat\n{second}\n")
        words = [*command(home), "--prompts", str(tmp_path / f"{name}.txt"), "--n-per-prompt", "2"]
        assert main([*words, "--guidance", "cfg=3000", "--out", str(tmp_path / name)]) == 0
        assert json.loads((tmp_path / name / "00001" / "metadata.jsonl").read_text()) == {"prompt": second}
        drawn[name] = [
            np.array(Image.open(tmp_path / name / f"0000{prompt}" / "samples" / "0000.png")).astype(int)
            for prompt in range(2)
        ]
    first, second_one = (np.abs(drawn["one"][prompt] - drawn["other"][prompt]).max() for prompt in range(2))
    assert first <= 1 < second_one


def test_another_text_encoder_in_its_place_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = home / "text"
    own.rename(home / "kept")
    try:
        tiny_text_encoder(own, seed=1)
        assert "another text encoder than" in refused([*command(home), *prompts(home)], capsys)
    finally:
        shutil.rmtree(own)
        (home / "kept").rename(own)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--classes", "0"], "--classes 0: expected none with --prompts"),
        (["--npz", "all.npz"], "--npz all.npz: expected --out with --prompts"),
        (["--n", "6"], "--n 6: expected --n-per-prompt with --prompts"),
        (["--n-per-prompt", "0"], "--n-per-prompt 0: expected 1 or more"),
    ],
)
def test_what_does_not_go_with_prompts_is_refused(
    home: Path, asked: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused([*command(home), *prompts(home), *asked], capsys)


def test_a_generator_of_texts_needs_captions_and_prompts_need_one(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = tiny_trial(tmp_path)
    words = ["generate", str(trial), *DRAWING, "--cache-dir", str(tmp_path / "cache"), "--size", "tiny"]
    told: list[Any] = ["--set", "generator.condition=text", f"generator.text_encoder={home / 'text'}"]
    assert "--prompts: the generator has generator.condition=class; train one" in refused(
        [*words, *prompts(home)], capsys
    )
    assert "needs captions, and the images have none" in refused(
        [*words, *told, "generator.text_tokens=8", *prompts(home)], capsys
    )
    assert "--n-per-prompt 2: expected --prompts FILE with it" in refused([*words, "--n-per-prompt", "2"], capsys)
    assert not list((trial / "generator").glob("*/*.safetensors")), "nothing was trained"
