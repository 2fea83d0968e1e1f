"""One encoded image: what it is, and what stands for its content."""

from __future__ import annotations

import io

import numpy as np
import pytest
from image_files import jpeg, picture
from PIL import Image

import drorae.data.encoded
from drorae.data.encoded import Seen, decode, examine, raise_limit
from drorae.errors import UserError

LIMIT = 10**6


def test_of_a_long_image_in_the_sample_both_ends_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drorae.data.encoded, "SAMPLE_BYTES", 8)
    monkeypatch.setattr(drorae.data.encoded, "HEAD_BYTES", 2)
    for content, sampled, part in (
        (b"0123456789ab", True, b"012389ab"), (b"01234567", True, b"01234567"), (b"012", True, b"012"),
        (b"0123456789ab", False, b"01"),
    ):  # fmt: skip
        assert drorae.data.encoded._part(io.BytesIO(content), len(content), sampled) == part


def test_an_image_is_examined_wholly_or_by_its_header() -> None:
    whole = jpeg(picture(0, 200, 150))
    for content, full, problem in (
        (whole, True, ""), (whole, False, ""), (whole[:3000], True, "truncated"), (whole[:3000], False, ""),
        (b"", True, "zero-byte"), (b"text", False, "unreadable"),
    ):  # fmt: skip
        seen = examine(io.BytesIO(content), full, False, LIMIT)
        assert (seen.problem, bool(seen.look)) == (problem, full and not problem)
    assert examine(io.BytesIO(whole), True, False, 100).problem.startswith("over 100 pixels")
    assert examine(io.BytesIO(whole), False, True, LIMIT) == examine(io.BytesIO(whole), True, True, LIMIT)._replace(
        look=b""
    )
    assert Seen().problem == ""


def test_a_stream_and_a_path_are_decoded_alike(tmp_path: object) -> None:
    content = jpeg(picture(1))
    path = f"{tmp_path}/a.jpg"
    with open(path, "wb") as file:
        file.write(content)
    assert np.array_equal(np.asarray(decode(lambda: io.BytesIO(content), "a")), np.asarray(decode(lambda: path, "a")))
    with pytest.raises(UserError, match="shard.tar at 5: cannot be decoded any more .*replace the file"):
        decode(lambda: io.BytesIO(content[:100]), "shard.tar at 5")


def test_pillow_s_limit_is_raised_and_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    raise_limit(1500)
    assert Image.MAX_IMAGE_PIXELS == 1000
    raise_limit(3001)
    assert Image.MAX_IMAGE_PIXELS == 1501
