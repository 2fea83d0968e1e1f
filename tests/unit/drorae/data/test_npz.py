"""Images in an npz file: handed out as they are, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import everything, user_error

from drorae.config import ImagesConfig
from drorae.data.images import load_images
from drorae.errors import Notice


def write_npz(path: Path, **arrays: Any) -> ImagesConfig:
    np.savez(path, **arrays)
    return ImagesConfig(source="npz", path=str(path))


def test_npz_images_of_the_right_size_come_through_unchanged(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    train = generator.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    val = generator.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    config = write_npz(tmp_path / "a.npz", train=train, val=val, train_labels=np.arange(20))
    images = load_images(config)
    assert np.array_equal(everything(images.train, view=3), train)
    assert np.array_equal(everything(images.val), val)
    some = load_images(replace(config, train_images=5))
    assert {crop.tobytes() for crop in everything(some.train)} < {image.tobytes() for image in train}
    assert len(some.train) == 5 and some.train.fingerprint != images.train.fingerprint
    assert load_images(replace(config, size=16, resize=24)).train.crops([0]).shape == (1, 16, 16, 3)


def test_npz_of_another_kind_is_refused(tmp_path: Path) -> None:
    good = np.zeros((2, 8, 8, 3), np.uint8)
    cases: dict[str, dict[str, Any]] = {
        "holds a, b; set images.keys=TRAIN,VAL": {"a": good, "b": good},
        "holds train_a, test, training; set images.keys": {"train_a": good, "test": good, "training": good},
        "uint8 of shape [0, 8, 8, 3]": {"train": good[:0], "val": good},
        "Python objects": {"train": np.array([None, 1]), "val": good},
    }
    for expected, arrays in cases.items():
        message = user_error(write_npz(tmp_path / "a.npz", **arrays))
        assert expected in message and "uint8 arrays named train and val" in message
    for line, array in {
        "write (train / train.max() * 255).round().astype('uint8')": good.astype(np.float32) + 200,
        "write ((train + 1) * 127.5).round().astype('uint8')": good.astype(np.float32) - 1,
        "write train[..., :3]": np.zeros((2, 8, 8, 4), np.uint8),
        "with values from 0 to 1000": (good.astype(np.int64) + np.array([0, 500, 1000])),
    }.items():
        assert line in user_error(write_npz(tmp_path / "a.npz", train=array, val=good))
    np.save(tmp_path / "b.npy", good)
    assert "single array" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "b.npy")))
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert "not a readable npz" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "c.npz")))
    (tmp_path / "d.npz").touch()
    assert "not a readable npz" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "d.npz")))
    assert "no file" in user_error(ImagesConfig(source="npz", path=str(tmp_path / "e.npz")))
    assert "images.path" in user_error(ImagesConfig(source="npz"))


@pytest.mark.parametrize(
    "names",
    [("train", "test"), ("x_train", "x_test"), ("train_images", "val_images"), ("training", "validation")],
)
def test_arrays_are_known_by_the_names_of_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    train, val = np.random.default_rng(0).integers(0, 256, (2, 6, 32, 32, 3), dtype=np.uint8)
    labels = {"y_train": np.arange(6), "y_test": np.arange(6), "train_labels": np.zeros((6, 1))}
    with pytest.warns(Notice, match=f"trained on {names[0]}, measured on {names[1]}"):
        images = load_images(write_npz(tmp_path / "a.npz", **{names[0]: train, names[1]: val}, **labels))
    assert np.array_equal(everything(images.train), train) and np.array_equal(everything(images.val), val)


def test_arrays_can_be_named_and_one_is_split(tmp_path: Path) -> None:
    train, val = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
    config = write_npz(tmp_path / "a.npz", a=train, b=val, train=val)
    with pytest.warns(Notice, match="trained on a, measured on b"):
        images = load_images(replace(config, keys=("a", "b")))
    assert np.array_equal(everything(images.train), train) and np.array_equal(everything(images.val), val)
    with pytest.warns(Notice, match="trained on a, measured on a"):
        one, few = (load_images(replace(config, keys=("a",), train_images=limit)) for limit in (0, 3))
    sides = [{crop.tobytes() for crop in everything(side)} for side in (one.train, one.val, few.train, few.val)]
    assert (len(sides[0]), len(sides[1])) == (6, 2) and not sides[0] & sides[1]
    assert sides[2] < sides[0] and sides[3] == sides[1]
    assert "set images.keys" in user_error(replace(config, keys=("a", "c")))
    assert "holds 1 image" in user_error(replace(write_npz(tmp_path / "b.npz", a=train[:1]), keys=("a",)))


@pytest.mark.parametrize("kind", ["channels first", "grey", "one channel", "float", "double", "int64"])
def test_usual_other_forms_are_converted_with_a_notice(tmp_path: Path, kind: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 32, 32, 3), dtype=np.uint8)
    grey = np.repeat(images[..., :1], 3, axis=-1)
    given, expected = {
        "channels first": (images.transpose(0, 1, 4, 2, 3), images),
        "grey": (grey[..., 0], grey),
        "one channel": (grey[..., :1].transpose(0, 1, 4, 2, 3), grey),
        "float": ((images / 255).astype(np.float32), images),
        "double": (images / 255, images),
        "int64": (images.astype(np.int64), images),
    }[kind]
    with pytest.warns(Notice, match="array train of .* taken as uint8 .5, 32, 32, 3."):
        found = load_images(write_npz(tmp_path / "a.npz", train=given[0], val=given[1]))
    assert np.array_equal(everything(found.train), expected[0]) and np.array_equal(everything(found.val), expected[1])


def test_equal_arrays_are_reported(tmp_path: Path) -> None:
    train = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    with pytest.warns(Notice, match=r"6 of 6 validation images are also training images.* val\[0\] and train\[0\]"):
        load_images(write_npz(tmp_path / "a.npz", train=train, val=train))


def arrays_of(*counts: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in counts]


@pytest.mark.parametrize(
    ("images", "labels", "keys"),
    [
        (("train", "val"), ("train_label", "val_label"), ()),
        (("train", "val"), ("train_labels", "val_labels"), ()),
        (("train", "val"), ("y_train", "y_val"), ()),
        (("x_train", "x_test"), ("y_train", "y_test"), ()),
        (("train_images", "test_images"), ("train_labels", "test_labels"), ()),
        (("training", "validation"), ("labels_train", "labels_val"), ()),
        (("a", "b"), ("a_labels", "b_labels"), ("a", "b")),
        (("a", "b"), ("c", "d"), ("a", "b", "c", "d")),
        (("train", "val"), ("train_fine", "val_fine"), ("train", "val", "train_fine", "val_fine")),
    ],
)
def test_labels_lie_beside_their_images(
    tmp_path: Path, images: tuple[str, str], labels: tuple[str, str], keys: tuple[str, ...]
) -> None:
    train, val = arrays_of(6, 4)
    classes = np.arange(6) % 2, np.arange(4)[:, None] % 2
    arrays = dict(zip((*images, *labels), (train, val, *classes), strict=True))
    found = load_images(replace(write_npz(tmp_path / "a.npz", **arrays), keys=keys))
    assert found.train.labels is not None and found.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.val.labels is not None and found.val.labels.tolist() == [0, 1, 0, 1]
    assert found.label_names == () and found.train.captions is None
    bare = load_images(
        replace(write_npz(tmp_path / "b.npz", **dict(zip(images, (train, val), strict=True))), keys=keys[:2])
    )
    assert bare.train.labels is None and bare.train.fingerprint == found.train.fingerprint


@pytest.mark.parametrize(
    ("names", "keys"), [(("images", "labels"), ("images",)), (("arr_0", "arr_1"), ("arr_0", "arr_1"))]
)
def test_labels_of_one_array_are_split_with_it(tmp_path: Path, names: tuple[str, str], keys: tuple[str, ...]) -> None:
    (images,) = arrays_of(9)
    config = write_npz(
        tmp_path / "a.npz", **{names[0]: images, names[1]: images[:, 0, 0, 0]}, classes=np.array(["a"] * 256)
    )
    found = load_images(replace(config, keys=keys, train_images=5))
    assert (len(found.train), len(found.val)) == (5, 2) and found.label_names == ("a",) * 256
    for side in (found.train, found.val):
        assert side.labels is not None and np.array_equal(side.labels, everything(side)[:, 0, 0, 0])


def test_labels_that_fit_no_images_are_refused_or_said(tmp_path: Path) -> None:
    train, val = arrays_of(6, 4)
    config = write_npz(tmp_path / "a.npz", train=train, val=val, train_labels=np.arange(5))
    message = user_error(config)
    assert "array train_labels of" in message and "is int64 of shape [5]" in message and "shape [6]" in message
    more = write_npz(tmp_path / "a.npz", train=train, a=np.arange(6), b=np.arange(6))
    assert "images.keys: a, b are more arrays of labels than train" in user_error(
        replace(more, keys=("train", "a", "b"))
    )
    for said, labels in {
        "labels .* goes with none of train, val, and is not used": {"labels": np.arange(10)},
        "y_train, train_labels of .* may each be labels of train": {
            "y_train": np.arange(6),
            "train_labels": np.zeros(6),
        },
    }.items():
        with pytest.warns(Notice, match=said):
            assert load_images(write_npz(tmp_path / "a.npz", train=train, val=val, **labels)).train.labels is None
    masks = load_images(write_npz(tmp_path / "a.npz", train=train, val=val, train_label=train[..., 0]))
    assert masks.train.labels is None


def test_python_objects_are_no_labels_and_no_names(tmp_path: Path) -> None:
    train, val = arrays_of(6, 4)
    objects = {"train_labels": np.array([0, None] * 3)}
    message = user_error(write_npz(tmp_path / "a.npz", train=train, val=val, **objects))
    assert "array train_labels of" in message and "expected 6 whole numbers from 0 as labels of train" in message
    config = write_npz(tmp_path / "a.npz", train=train, val=val, y_train=np.arange(6), classes=np.array(["a", None]))
    with pytest.warns(
        Notice, match=r"array classes of .* holds Python objects; write texts, numpy.array\(classes, str\)"
    ):
        images = load_images(config)
    assert images.train.labels is not None and images.label_names == ()
