"""Captions through a text encoder: each distinct one once, kept in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_generator import tiny_runtime
from tiny_text import tiny_text_encoder

from drorae.errors import UserError
from drorae.models.text import TextEncoder, load_text_encoder
from drorae.trial.texts import check_captions, open_texts

CAPTIONS = ["two dog", "a red cat", "", "two dog", "a bench"]


def test_each_distinct_caption_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_text_encoder(str(tiny_text_encoder(tmp_path / "e")), 5, torch.device("cpu"))
    expected, read = encoder.encode(CAPTIONS), list[str]()
    encode = TextEncoder.encode

    def noting(self: TextEncoder, texts: Sequence[str]) -> torch.Tensor:
        read.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(TextEncoder, "encode", noting)
    found = open_texts(CAPTIONS, encoder, tiny_runtime(tmp_path))
    torch.testing.assert_close(found.take(np.arange(5)), expected)
    torch.testing.assert_close(found.take(np.array([4, 0])), expected[[4, 0]])
    assert sorted(read) == sorted(set(CAPTIONS)) and not found.take(np.array([2])).any()
    again = open_texts(CAPTIONS, encoder, tiny_runtime(tmp_path))
    turned = open_texts(CAPTIONS[::-1], encoder, tiny_runtime(tmp_path))
    assert len(read) == 4 and again.address == found.address != turned.address
    torch.testing.assert_close(turned.take(np.arange(5)), expected.flip(0))
    shorter = load_text_encoder(str(tmp_path / "e"), 4, torch.device("cpu"))
    assert open_texts(CAPTIONS, shorter, tiny_runtime(tmp_path)).take(np.array([0])).shape[1] == 4


@pytest.mark.parametrize("captions", [None, ("", " ")])
def test_images_without_captions_have_nothing_to_tell(captions: tuple[str, ...] | None) -> None:
    with pytest.raises(UserError, match="needs captions, and the images have none"):
        check_captions(captions)
