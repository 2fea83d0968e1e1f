"""Labels and captions travel with images, whatever holds both."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from held import FORMS, Said, table, write_held, write_tar
from image_files import everything, folder_config, jpeg, picture

import drorae.data.collection
from drorae.config import ImagesConfig
from drorae.data.crops import CropSet, Images
from drorae.data.images import load_images
from drorae.data.labels import MISSING, UNFIT, caption_of, checked_labels, label_of
from drorae.data.mirrored import Mirrored
from drorae.errors import Notice, UserError
from drorae.storage.cache import Cache

CLASSES = ("ant", "bee", "cat")
SPLITS = {
    split: {f"{CLASSES[index % 3]}/{index:03}.jpg": jpeg(picture(index)) for index in range(first, first + count)}
    for split, first, count in (("train", 0, 24), ("validation", 50, 6))
}
NAMES = [name for images in SPLITS.values() for name in images]
SAID = Said(
    {name: CLASSES.index(name.split("/")[0]) for name in NAMES},
    {name: f"number {name[4:7]}, süß" for name in NAMES},
    CLASSES,
)


def config_of(source: str, path: Path, **changes: Any) -> ImagesConfig:
    return replace(folder_config(path), source=source, **changes)


def quietly(config: ImagesConfig, cache: Cache | None = None) -> Images:
    """The images, with no notice but of what they are trained on."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_images(config, cache)


def by_crop(images: CropSet) -> dict[bytes, tuple[int, str]]:
    """What is said of each image, by its pixels."""
    assert images.labels is not None and images.captions is not None
    assert images.labels.dtype == np.int64 and images.labels.shape == (len(images),) == (len(images.captions),)
    crops = everything(images.centred())
    return {
        crop.tobytes(): (int(label), text)
        for crop, label, text in zip(crops, images.labels, images.captions, strict=True)
    }


@pytest.mark.parametrize("source", list(FORMS))
@pytest.mark.parametrize("many", [False, True])
def test_labels_and_captions_are_the_same_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, many: bool
) -> None:
    if many:
        monkeypatch.setattr(drorae.data.collection, "FULL_CHECK_FILES", 10)
        monkeypatch.setattr(drorae.data.collection, "SAMPLE_FILES", 3)
    files = quietly(config_of("folder", write_held(tmp_path / "files", "folder", SPLITS, said=SAID)))
    config, cache = config_of(source, write_held(tmp_path / "held", source, SPLITS, said=SAID)), Cache(tmp_path / "c")
    bare = load_images(config_of(source, write_held(tmp_path / "bare", source, SPLITS)))
    for images in (quietly(config, cache), quietly(config, cache)):
        for side, own in (("train", images.train), ("validation", images.val)):
            names = sorted(SPLITS[side]) if source == "folder" else list(SPLITS[side])
            assert own.captions == tuple(SAID.captions[name] for name in names)
            assert own.labels is not None and own.labels.tolist() == [SAID.labels[name] for name in names]
        assert by_crop(images.train) == by_crop(files.train) and by_crop(images.val) == by_crop(files.val)
        assert images.train.fingerprint == bare.train.fingerprint, "caches of crops without labels stay valid"
        if source != "webdataset":
            assert images.label_names == CLASSES
    if source != "folder":
        assert bare.train.labels is None and bare.train.captions is None and bare.label_names == ()
        assert bare.train.labels_fingerprint == ""


@pytest.mark.parametrize("source", list(FORMS))
def test_a_second_start_knows_them_without_opening_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(drorae.data.collection, "FULL_CHECK_FILES", 10)
    config, cache = config_of(source, write_held(tmp_path / "held", source, SPLITS, said=SAID)), Cache(tmp_path / "c")
    first = load_images(config, cache)

    def refuse(*arguments: object) -> None:
        raise AssertionError("a file was opened again")

    for module in ("parquet", "webdataset", "arrow", "folder"):
        monkeypatch.setattr(f"drorae.data.{module}._contents", refuse)
    second = load_images(config, cache)
    assert by_crop(first.train) == by_crop(second.train) and first.label_names == second.label_names
    assert first.train.labels_fingerprint == second.train.labels_fingerprint != first.val.labels_fingerprint


def test_they_go_with_a_part_of_the_images_and_to_other_processes(tmp_path: Path) -> None:
    whole = load_images(config_of("folder", write_held(tmp_path / "held", "folder", SPLITS, said=SAID)))
    some = load_images(config_of("folder", tmp_path / "held", train_images=7, val_images=3))
    for part, all_ in ((some.train, whole.train), (some.val, whole.val)):
        assert by_crop(part).items() < by_crop(all_).items()
        assert part.labels_fingerprint not in ("", all_.labels_fingerprint)
    for other in (whole.train.centred(), whole.train.one_by_one(), pickle.loads(pickle.dumps(whole.train))):
        assert by_crop(other) == by_crop(whole.train)
        assert other.labels_fingerprint == whole.train.labels_fingerprint
    mirrored, labels, captions = Mirrored(whole.train, 5), whole.train.labels, whole.train.captions
    assert labels is not None and captions is not None
    assert mirrored.labels is not None and mirrored.captions is not None
    crops = everything(mirrored)
    for crop, label, text in zip(crops, mirrored.labels, mirrored.captions, strict=True):
        assert by_crop(whole.train)[crop.tobytes()] == (label, text)
    assert Mirrored(whole.train).labels_fingerprint == whole.train.labels_fingerprint != mirrored.labels_fingerprint


def write_folders(root: Path, *names: str) -> ImagesConfig:
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(root / name)
    return folder_config(root)


def test_class_folders_are_sorted_and_the_same_for_both_sides(tmp_path: Path) -> None:
    config = write_folders(
        tmp_path, "train/n02/a.png", "train/n01/x/b.png", "train/n10/c.png", "val/n10/d.png", "val/n03/e.png"
    )
    with pytest.warns(Notice, match="of 4 classes, 2 have training images only and 1 validation images only") as caught:
        images = load_images(config)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert images.label_names == ("n01", "n02", "n03", "n10")
    assert images.train.labels is not None and images.train.labels.tolist() == [0, 1, 3]
    assert images.val.labels is not None and images.val.labels.tolist() == [2, 3]


def test_folders_are_classes_only_where_they_sort_all_images(tmp_path: Path) -> None:
    for name, images in {
        "one class": ("a/1.png", "a/2.png"),
        "a stray": ("a/1.png", "b/2.png", "3.png", "4.png"),
        "flat splits": ("train/1.png", "val/2.png"),
    }.items():
        found = load_images(write_folders(tmp_path / name, *images))
        assert found.train.labels is None and found.val.labels is None and found.label_names == (), name
    found = load_images(write_folders(tmp_path / "flat val", "train/a/1.png", "train/b/2.png", "val/3.png"))
    assert found.train.labels is not None and found.train.labels.tolist() == [0, 1] and found.val.labels is None
    # The folder of a split is no class, whether or not it is used as one.
    train_only = load_images(
        write_folders(tmp_path / "t", *(f"train/{name}/{i}.png" for i in range(4) for name in "ab"))
    )
    pooled = write_folders(
        tmp_path / "p", *(f"{split}/{name}.png" for split in ("train", "val") for name in ("a/1", "b/2"))
    )
    pooled_images = load_images(replace(pooled, split="pooled"))
    assert train_only.label_names == pooled_images.label_names == ("a", "b")


def test_captions_lie_beside_images_and_missing_ones_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drorae.data.collection, "FULL_CHECK_FILES", 2)
    config, cache = (
        write_folders(tmp_path / "i", *(f"train/{i}.jpg" for i in range(4)), "val/0.png"),
        Cache(tmp_path / "c"),
    )
    train = tmp_path / "i" / "train"
    (train / "1.txt").write_text("\ufeff a dog,\nrunning \n")
    (train / "2.txt").write_text("")
    (train / "3.txt").mkdir()
    with pytest.warns(Notice, match="4 of 5 images have no caption, such as .*0.jpg") as caught:
        images = load_images(config, cache)
    assert len(caught) == 1 and images.train.captions == ("", "a dog,\nrunning", "", "")
    assert images.val.captions == ("",)
    (train / "notes.txt").write_text("of no image")
    (train / "1.txt").write_text("a cat")
    (train / "0.txt").write_text("a bee")
    with pytest.warns(Notice, match="1 of 6 files were not looked at because of their extension; found 1 .txt"):
        images = load_images(config, cache)
    assert images.train.captions == ("a bee", "a cat", "", "")


def test_labels_that_some_lack_are_said_and_not_used(tmp_path: Path) -> None:
    labels = dict(SAID.labels) | {"ant/000.jpg": -1, "bee/050.jpg": 1}
    for source in ("parquet", "webdataset", "datasets"):
        path = write_held(tmp_path / source, source, SPLITS, said=Said(labels))
        with pytest.warns(Notice, match=r"1 of 24 training images have no label .*ant/000.jpg: .*give each image one"):
            images = load_images(config_of(source, path))
        assert images.train.labels is None and images.val.labels is not None
    path = write_held(tmp_path / "texts", "parquet", SPLITS, said=Said(dict.fromkeys(NAMES, "cat")))
    with pytest.warns(Notice, match="24 of 24 training images have no label that is a whole number"):
        assert load_images(config_of("parquet", path)).val.labels is None
    # A hub's test split is not told, and masks are no classes.
    hidden = {name: -1 if name in SPLITS["validation"] else 1 for name in NAMES}
    images = quietly(config_of("parquet", write_held(tmp_path / "hidden", "parquet", SPLITS, said=Said(hidden))))
    assert images.train.labels is not None and images.val.labels is None
    rows = table(SPLITS["train"])
    pq.write_table(rows.append_column("label", rows["image"]), tmp_path / "masks.parquet")
    assert load_images(config_of("parquet", tmp_path / "masks.parquet", keys=("image",))).train.labels is None


def test_files_that_name_their_classes_differently_have_no_labels(tmp_path: Path) -> None:
    path = write_held(tmp_path / "held", "parquet", SPLITS, said=SAID)
    other = pq.read_table(path / "validation-00001-of-00002.parquet")
    features = {"label": {"names": list(reversed(CLASSES)), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(other.replace_schema_metadata(metadata), path / "validation-00001-of-00002.parquet")
    with pytest.warns(Notice, match="files name their classes differently .ant, bee, cat and cat, bee, ant."):
        assert load_images(config_of("parquet", path)).train.labels is None
    few = write_held(tmp_path / "few", "parquet", SPLITS, said=SAID._replace(classes=CLASSES[:2]))
    with pytest.warns(Notice, match="label 2 has no name, there being 2 .ant, bee."):
        images = load_images(config_of("parquet", few))
    assert images.label_names == () and images.train.labels is not None


def test_a_sample_s_json_says_label_and_caption(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for index, said in enumerate(
        [{"label": 3, "caption": "a"}, {"label": 3, "text": "b \ud800"}, {"label": 3.0, "text": "x", "caption": "c"}]
        * 2
    ):
        members |= {f"{index}.jpg": jpeg(picture(index)), f"{index}.json": json.dumps(said).encode()}
    members |= {"0.cls": b"5", "0.txt": "süß".encode()}
    write_tar(tmp_path / "s.tar", members)
    images = load_images(config_of("webdataset", tmp_path / "s.tar"))
    texts = list(by_crop(images.train).values()) + list(by_crop(images.val).values())
    assert sorted(texts) == sorted([(5, "süß"), (3, "b ?"), (3, "c"), (3, "a"), (3, "b ?"), (3, "c")])
    write_tar(
        tmp_path / "t.tar", {name: b"{" if name.endswith("json") else content for name, content in members.items()}
    )
    with pytest.warns(Notice, match="have no label"):
        load_images(config_of("webdataset", tmp_path / "t.tar"))


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0, 0), (7.0, 7), (True, 1), (None, MISSING), (-1, MISSING), (-2, UNFIT), (0.5, UNFIT), ("3", UNFIT),
        ([1], UNFIT), (2**63, UNFIT), (float("nan"), UNFIT), (float("inf"), UNFIT),
    ],
)  # fmt: skip
def test_a_label_is_a_whole_number_from_zero(value: object, label: int) -> None:
    assert label_of(value) == label


def test_a_caption_is_text() -> None:
    assert [caption_of(value) for value in (" a ", b"a\xff", None, 3, ["a"])] == ["a", "a\ufffd", "", "", ""]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.arange(5), r"is int64 of shape \[5\]"),
        (np.zeros((6, 4)), r"y.argmax\(1\)"),
        (np.array([0, 1, 2, 3, 4, -1]), "with values from -1 to 4"),
        (np.full(6, 0.5), "does not hold whole numbers"),
        (np.full(6, np.nan), "does not hold whole numbers"),
        (np.array(list("abcabc")), r"numpy.unique\(y, return_inverse=True\)\[1\]"),
        (np.full(6, 2**63, np.uint64), "with values from"),
        (np.zeros((), int), r"of shape \[\]"),
        (np.zeros(6, complex), "does not hold whole numbers"),
    ],
)
def test_an_array_of_another_kind_is_refused_with_the_remedy(array: np.ndarray, said: str) -> None:
    with pytest.raises(UserError, match=f"images.path: array y of a.npz .*{said}") as caught:
        checked_labels(array, 6, "y", "a.npz")
    assert "whole numbers from 0, of shape [6]" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "float32", "bool"])
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_whole_numbers_of_any_type_are_labels(dtype: str, shape: tuple[int, ...]) -> None:
    labels = checked_labels(np.array([0, 1, 1, 0, 1, 0]).astype(dtype).reshape(shape), 6, "y", "a.npz")
    assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 1, 0, 1, 0]


def test_a_null_column_is_no_label(tmp_path: Path) -> None:
    rows = table(SPLITS["train"]).append_column("label", pa.nulls(24))
    pq.write_table(rows, tmp_path / "a.parquet")
    assert quietly(config_of("parquet", tmp_path / "a.parquet")).train.labels is None
