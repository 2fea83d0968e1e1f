"""Files of prompts: GenEval's, and plain ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drorae.errors import UserError
from drorae.trial.prompts import read_prompts


def test_lines_of_json_stay_as_they_are(tmp_path: Path) -> None:
    lines = [
        '{"tag": "counting", "include": [{"class": "cat", "count": 2}],  "prompt": "two cats"}',
        '{"prompt":"sü\u2028ß"}',
    ]
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    found = read_prompts(path)
    assert [prompt.text for prompt in found] == ["two cats", "sü\u2028ß"] and [prompt.line for prompt in found] == lines
    # By its first line, whatever its name.
    assert read_prompts(path.rename(tmp_path / "prompts.txt")) == found


def test_plain_lines_are_made_objects(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\n  ein Hund, süß\n".encode())
    found = read_prompts(path)
    assert [prompt.text for prompt in found] == ["a cat", "ein Hund, süß"]
    assert [json.loads(prompt.line) for prompt in found] == [{"prompt": prompt.text} for prompt in found]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "holds no prompt"),
        (b"\xff\xfe", "is not UTF-8"),
        (b'{"prompt": "a"}\n{"tag": "b"}', "line 2: expected a JSON object"),
        (b'{"prompt": "a"}\nb', "line 2: expected a JSON object"),
        (b'{"prompt": 3}', "line 1: expected a JSON object"),
        (b'{"prompt": " "}', "line 1: expected a JSON object"),
        (b"[1]", "line 1: expected a JSON object"),
    ],
)
def test_what_holds_no_prompts_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^--prompts .*prompts\.jsonl.*{said}"):
        read_prompts(path)
