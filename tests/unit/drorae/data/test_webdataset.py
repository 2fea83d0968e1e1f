"""WebDataset shards."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from held import write_tar
from image_files import jpeg, picture, user_error

from drorae.config import ImagesConfig
from drorae.data.images import load_images
from drorae.data.index import Place
from drorae.data.webdataset import _stream
from drorae.errors import Notice

PICTURES = {f"a/{index:02}.jpg": jpeg(picture(index)) for index in range(40)}


def config(path: Path) -> ImagesConfig:
    return ImagesConfig(source="webdataset", path=str(path), size=16)


def test_members_of_one_key_are_one_sample(tmp_path: Path) -> None:
    members = dict(PICTURES)
    for name in PICTURES:
        members |= {name.replace("jpg", "cls"): b"3", name.replace("jpg", "seg.png"): b"no image of the sample"}
    members["a/00.png"] = b"the second of its sample"
    write_tar(tmp_path / "s.tar", members | {"README": b"no sample"})
    images = load_images(config(tmp_path / "s.tar"))
    assert len(images.train) + len(images.val) == 40 and images.skipped == ()
    write_tar(tmp_path / "t.tar", members | {"b.txt": b"alone"})
    with pytest.warns(Notice, match="skipped 1 of 41 image files .1 without an image.: .*t.tar/b"):
        load_images(config(tmp_path / "t.tar"))


def test_a_compressed_and_a_cut_shard_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", PICTURES)
    content = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "z.tar").write_bytes(gzip.compress(content))
    assert "z.tar is damaged, or no plain tar file" in user_error(config(tmp_path / "z.tar"))
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2 + 100])
    assert "cut.tar is damaged" in user_error(config(tmp_path / "cut.tar"))


def test_a_member_is_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    with _stream(Place(str(path), 2, 5)) as stream:
        assert (stream.read(2), stream.tell(), stream.read()) == (b"23", 2, b"456")
        assert stream.seek(-1, io.SEEK_END) == 4 and stream.read(9) == b"6"
        assert stream.seek(1) == 1 and stream.read(3) == b"345"
        assert stream.seek(50) == 50 and stream.read() == b""
