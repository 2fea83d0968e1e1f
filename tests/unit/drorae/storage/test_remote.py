"""Stores by URL, on the one that lives in this process."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

from drorae.errors import UserError
from drorae.storage.remote import Remote, RemoteError, absolute, locate, matches, patiently


def test_a_url_is_told_from_a_path_and_holds_no_secret(tmp_path: Path) -> None:
    assert locate("runs/mine") == Path("runs/mine") and locate(f"file://{tmp_path}") == tmp_path
    assert locate("s3://bucket/runs/") == locate(Path("s3://bucket/runs")) == Remote("s3://bucket/runs")
    for wrong, expected in (
        ("s3://key:secret@bucket/runs", "environment"),
        ("s3://bucket/runs?token=secret", "environment"),
        ("ftp://host/runs", "no such store"),
        ("s3://", "BUCKET"),
        ("s3://bucket/../runs", "BUCKET"),
    ):
        with pytest.raises(UserError, match=expected) as raised:
            locate(wrong)
        assert "secret" not in str(raised.value)


def test_a_missing_driver_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match="pip install 'gcsfs'"):
        Remote("gs://bucket/x").read()


@pytest.fixture
def bucket() -> Remote:
    """An empty folder of a store in this process."""
    return Remote(f"memory://bucket/{uuid.uuid4().hex}")


def test_a_file_is_made_once_replaced_and_removed(bucket: Remote) -> None:
    file = bucket / "a" / "lease"
    assert file.read() is None and file.name == "lease" and file.parent == bucket / "a"
    assert file.create(b"mine") and not file.create(b"theirs")
    assert file.read() == b"mine"
    file.write(b"other")
    assert file.read() == b"other"
    file.delete()
    file.delete()
    assert file.read() is None and bucket.files() == {}


def test_files_of_a_folder_travel_whole_and_hidden_ones_stay(bucket: Remote, tmp_path: Path) -> None:
    contents = {"a.json": b"1", "deep/b.npz": b"22", ".draft": b"3", "deep/.lock": b""}
    for name, content in contents.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(content)
        (bucket / name).upload(tmp_path / "here" / name)
    (bucket / "none").upload(tmp_path / "nowhere")
    stamps = bucket.files()
    assert set(stamps) == {"a.json", "deep/b.npz"}
    bucket.download([*stamps, "gone"], tmp_path / "there")
    found = {path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("*.*")}
    assert found == set(stamps)
    assert (tmp_path / "there" / "deep" / "b.npz").read_bytes() == b"22"
    (bucket / "a.json").write(b"12")
    assert bucket.files()["a.json"] != stamps["a.json"]


def test_a_store_that_comes_back_in_time_is_asked_again() -> None:
    answers = [RemoteError("away"), "here"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, RemoteError):
            raise answer
        return str(answer)

    assert patiently(ask) == "here"
    answers[:] = [RemoteError("away"), "here"]
    with pytest.raises(RemoteError, match="away"):
        patiently(ask, seconds=0)


def test_a_url_is_absolute_and_a_path_is_made_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("runs") == str(tmp_path.resolve() / "runs")
    assert absolute("s3:/bucket/runs/") == "s3://bucket/runs"


@pytest.mark.parametrize(
    ("name", "pattern", "wanted"),
    [
        ("trials/a/result.json", "trials/*/result.json", True),
        ("trials/a/b/result.json", "trials/*/result.json", False),
        ("result.json", "trials/*/result.json", False),
        ("trials/a/error-001.txt", "trials/*/error-*.txt", True),
    ],
)
def test_patterns_are_compared_part_by_part(name: str, pattern: str, wanted: bool) -> None:
    assert matches(name, pattern) == wanted
