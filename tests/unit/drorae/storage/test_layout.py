"""The version of a file's layout, and who wrote it."""

from __future__ import annotations

import pytest

from drorae import __version__
from drorae.errors import UserError
from drorae.storage.layout import stamp, unstamp


def test_what_is_stamped_is_read_again_without_the_stamp() -> None:
    tree = stamp(2) | {"content": 1}
    assert tree["drorae"] == __version__
    assert unstamp(tree, 3) == 2 and tree == {"content": 1}
    assert unstamp({}, 3) == 1, "the first layout had none"


def test_a_newer_layout_is_refused_by_the_version_that_wrote_it() -> None:
    with pytest.raises(UserError, match=r"by drorae 9\.1\.0 in layout 4.*use drorae 9\.1\.0 or newer") as raised:
        unstamp({"schema": 4, "drorae": "9.1.0"}, 3)
    assert "\n" not in str(raised.value) and f"({__version__}) knows 3" in str(raised.value)
    with pytest.raises(UserError, match="written by a newer drorae in layout 4"):
        unstamp({"schema": 4}, 3)


@pytest.mark.parametrize("version", ["2", None, -1, True, [1]])
def test_what_is_no_version_is_damage(version: object) -> None:
    with pytest.raises(ValueError, match="no version of a layout"):
        unstamp({"schema": version}, 3)
