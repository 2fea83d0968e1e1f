"""Which shards are trained on and which are measured on."""

from __future__ import annotations

from pathlib import Path

import pytest

from drorae.config import ImagesConfig
from drorae.data.shards import shard_sides, split_of
from drorae.errors import Notice, UserError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/validation-00000-of-00001-0123456789abcdef.parquet", "validation"),
        ("imagenet1k-train-0007.tar", "imagenet1k-train"),
        ("default/test/0000.parquet", "test"),
        ("train2017.tar", "train2017"),
        ("train/shard_000.tar", "train"),
        ("fold1-000.tar", "fold1"),
        ("000000.tar", ""),
        ("cats-000.tar", ""),
    ],
)
def test_a_shard_s_split_is_in_its_name_or_its_folder_s(name: str, split: str) -> None:
    assert split_of(name) == split


def made(root: Path, *names: str, **changes: str) -> ImagesConfig:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")
    return ImagesConfig(source="webdataset", path=changes.pop("path", str(root)), **changes)  # type: ignore[arg-type]


def sides(config: ImagesConfig) -> list[list[str]]:
    return [[file.name for file in side.files] for side in shard_sides(config, ".tar")[0]]


def test_shards_are_divided_by_their_names(tmp_path: Path) -> None:
    config = made(tmp_path, "train-1.tar", "train-0.tar", "val-0.tar", "notes.txt", ".train-2.tar")
    assert sides(config) == [["train-0.tar", "train-1.tar"], ["val-0.tar"]]
    pooled = ImagesConfig(source="webdataset", path=str(tmp_path), split="pooled")
    assert sides(pooled) == [["train-0.tar", "train-1.tar", "val-0.tar"]]
    made(tmp_path, "test-0.tar")
    with pytest.warns(Notice, match="trained on train, measured on val; left out: test"):
        assert sides(config) == [["train-0.tar", "train-1.tar"], ["val-0.tar"]]


def test_a_pattern_and_two_paths_name_the_sides(tmp_path: Path) -> None:
    config = made(tmp_path, *(f"s-{n}.tar" for n in range(4)), path=f"{tmp_path}/s-{{0..2}}.tar")
    assert sides(config) == [["s-0.tar", "s-1.tar", "s-2.tar"]]
    both = made(tmp_path, path=f"{tmp_path}/s-{{0..1}}.tar", val_path=f"{tmp_path}/s-3.tar")
    assert sides(both) == [["s-0.tar", "s-1.tar"], ["s-3.tar"]]
    with pytest.raises(UserError, match="images.val_path: .* share .*s-1.tar; name other files"):
        sides(made(tmp_path, path=f"{tmp_path}/s-{{0..1}}.tar", val_path=f"{tmp_path}/s-1.tar"))


def test_what_is_missing_or_not_clear_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images.path: no .tar files in .*; looked in all folders below"):
        sides(made(tmp_path, "a.txt"))
    with pytest.raises(UserError, match=r"images.path: .*s-1.tar does not exist; name a .tar file, a folder"):
        sides(made(tmp_path, "s-0.tar", path=f"{tmp_path}/s-{{0..1}}.tar"))
    with pytest.raises(UserError, match="splits .no split's. ..tar, train, of which the split is not clear"):
        sides(made(tmp_path / "mixed", "train-0.tar", "query-0.tar"))
