"""Files of prompts, plain or as GenEval (arXiv 2310.11513) has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from drorae.errors import UserError
from drorae.storage.files import naming_unreadable

PROMPT = "prompt"
"""Name of the text in a line that is an object."""


class Prompt(NamedTuple):
    """A line of a file of prompts."""

    text: str
    line: str
    """As a JSON object: as it stands in the file, or of a plain text `{"prompt": text}`."""

    @classmethod
    def plain(cls, text: str) -> Prompt:
        """Returns that of a text of which nothing else is known."""
        return cls(text, json.dumps({PROMPT: text}, ensure_ascii=False))


def read_prompts(path: Path) -> list[Prompt]:
    """Reads a file with a prompt a line: all JSON objects, as GenEval's evaluation_metadata.jsonl, or all plain text.

    Empty lines are passed over. The file is JSON where its name ends in .jsonl or its first line begins with a brace.

    Raises:
        UserError: no such file, one that is not UTF-8, has no prompts, or a line that is no object with a prompt.
    """
    expected = "expected a prompt a line, or JSON objects with a prompt, as GenEval's evaluation_metadata.jsonl"
    if not path.is_file():
        raise UserError(f"--prompts {path}: no such file; {expected}")
    try:
        with naming_unreadable(path):
            text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"--prompts {path}: is not UTF-8; {expected}") from None
    # Not splitlines: a JSON string may hold other separators as they are.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UserError(f"--prompts {path}: holds no prompt; {expected}")
    if path.suffix != ".jsonl" and not lines[0][1].startswith("{"):
        return [Prompt.plain(line) for _, line in lines]
    return [_parsed(path, number, line) for number, line in lines]


def _parsed(path: Path, number: int, line: str) -> Prompt:
    try:
        text = json.loads(line)[PROMPT]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str) or not text.strip():
        raise UserError(f'--prompts {path}, line {number}: expected a JSON object with "{PROMPT}" and its text')
    return Prompt(text, line)
