"""The usual names of splits."""

from __future__ import annotations

import pytest

from drorae.data.splits import by_role, split_role


@pytest.mark.parametrize(
    ("names", "role"),
    [
        (
            "train Train TRAINING trainset train_set training-set train2017 img_train x_train trainA trainval",
            "train",
        ),
        ("val Validation valid VALID_SET val2017 dev devset eval ILSVRC2012_img_val val_images", "val"),
        ("test Testing test2017 Test-Set x_test testB held_out holdout HeldOut", "test"),
        ("fold_1 fold2 split0 train_val train-test", "other"),
        ("cats strain contrail latest device validate evaluated trains n01440764 split unlabeled2017 trainer", None),
    ],
)
def test_names_are_known_in_any_case_and_company(names: str, role: str | None) -> None:
    assert {name: split_role(name) for name in names.split()} == dict.fromkeys(names.split(), role)


def test_names_are_sorted_by_what_they_are_for() -> None:
    assert by_role(["a", "train", "val", "trn"]) == {"train": ["train", "trn"], "val": ["val"]}
