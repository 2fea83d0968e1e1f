"""Text encoders: the states of the library's own towers, nothing where there is no token, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_text import WIDTH, WORDS, tiny_text_encoder
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from drorae.errors import UserError
from drorae.models.text import load_text_encoder

CPU = torch.device("cpu")
TEXTS = ["a red cat", "two", "a dog of a bench of a cat of a dog", "", "  "]
TOKENS = 6


def numbers(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()][:TOKENS]


@pytest.mark.parametrize("kind", ["clip tower", "clip", "t5"])
def test_states_are_those_of_the_library_token_by_token(tmp_path: Path, kind: str) -> None:
    encoder = load_text_encoder(str(tiny_text_encoder(tmp_path / "e", kind=kind)), TOKENS, CPU)
    own = tmp_path / "own" if kind == "clip" else tmp_path / "e"
    tower = T5EncoderModel if kind == "t5" else CLIPTextModel
    if kind == "clip":
        tiny_text_encoder(own)
    model = tower.from_pretrained(own).eval()
    found = encoder.encode(TEXTS)
    assert found.shape == (len(TEXTS), TOKENS, WIDTH) and found.dtype == torch.float32 and encoder.width == WIDTH
    for text, states in zip(TEXTS, found, strict=True):
        words = numbers(text)
        assert not states[len(words) :].any(), "where there is no token"
        if words:
            with torch.no_grad():
                expected: Tensor = model(input_ids=torch.tensor([words])).last_hidden_state[0]
            torch.testing.assert_close(states[: len(words)], expected, rtol=1e-5, atol=1e-5)


def test_a_text_s_states_do_not_depend_on_those_beside_it(tmp_path: Path) -> None:
    encoder = load_text_encoder(str(tiny_text_encoder(tmp_path)), TOKENS, CPU)
    whole = encoder.encode(TEXTS * 30)
    for number in (0, 1, 149):
        torch.testing.assert_close(encoder.encode([(TEXTS * 30)[number]])[0], whole[number])
    assert encoder.encode([]).shape == (0, TOKENS, WIDTH)


def test_a_fingerprint_is_of_weights_and_words(tmp_path: Path) -> None:
    def fingerprint(folder: Path) -> str:
        return load_text_encoder(str(folder), TOKENS, CPU).fingerprint

    first, same, other = (tiny_text_encoder(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    words = same / "tokenizer.json"
    words.write_text(words.read_text().replace('"cat"', '"cow"'))
    assert fingerprint(same) != fingerprint(first)


def no_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    weights.rename(folder / "model.old")


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)


def no_folder(folder: Path) -> None:
    folder.rename(folder.with_name("away"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_weights, "has no weights in safetensors that can be read"),
        (damaged, "has no weights in safetensors that can be read"),
        (no_tokenizer, "has no tokenizer that can be read"),
        (lambda folder: (folder / "config.json").unlink(), "has no configuration that can be read"),
        (no_folder, "no such folder; expected one that save_pretrained wrote"),
    ],
)
def test_what_is_no_encoder_is_refused_in_a_line(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(tiny_text_encoder(tmp_path / "e"))
    with pytest.raises(UserError, match=rf"^generator\.text_encoder: .*{said}") as caught:
        load_text_encoder(str(tmp_path / "e"), TOKENS, CPU)
    assert "\n" not in str(caught.value)


def test_it_takes_no_more_tokens_than_it_has_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^generator\.text_tokens: 17 are more than the 16 that .* takes; use 16$"):
        load_text_encoder(str(tiny_text_encoder(tmp_path)), 17, CPU)


def test_transformers_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs the package transformers; pip install 'drorae\[text\]'"):
        load_text_encoder(str(tmp_path), TOKENS, CPU)
