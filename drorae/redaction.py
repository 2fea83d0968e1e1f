"""Credentials in texts: hidden before a text leaves the program.

They stand in URIs, which users, environments, stores and the exceptions of libraries bring along.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
"""Stands where a credential stood."""

_SECRET = r"[\w.%-]*(?:pass|pwd|token|secret|sig|key|cred|auth|jwt|session|sas)[\w.%-]*"
_PATTERNS = (
    # A user and a password, or the token that stands alone before a web server: up to the last @ of the authority.
    (r"([a-z][a-z0-9+.-]*:/{1,2}(?!/))[^\s/?#\"<>@]*:[^\s/?#\"<>]*@", rf"\1{HIDDEN}@"),
    (r"(https?:/{1,2}(?!/))[^\s/?#\"<>]*@", rf"\1{HIDDEN}@"),
    # A password with a slash or another sign that should have been quoted. Digits behind the colon are a port.
    (r"([a-z][a-z0-9+.-]*:/{1,2}(?!/))[^\s/@:\"<>]*:(?!\d+(?:[/?#,;\"]|\s|$))[^\s\"<>]*?@", rf"\1{HIDDEN}@"),
    # The same within another URI.
    (r"(%3a%2f%2f)(?:(?!%2f)[^\s\"<>/?&])*%40", rf"\1{HIDDEN}@"),
    # Queries, and the words of a connection string.
    # A key that opens nothing: MLflow's, of a view in its UI.
    (rf"([?&;](?!viewStateShareKey=){_SECRET}=)[^\s&;#\"<>]+", rf"\1{HIDDEN}"),
    (r"\b((?:ssl|account|shared|access)*_?(?:password|passwd|pwd|passphrase|token|secret|accountkey|accesskey"
     r"|accesssignature)\s?=\s?)[^\s&;,#\"<>]+", rf"\1{HIDDEN}"),
    (r"(authorization['\"]?\s*[:=]\s*b?['\"]?(?:basic|bearer)\s+)[\w.~+/=-]+", rf"\1{HIDDEN}"),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), put) for pattern, put in _PATTERNS)


def redact(text: str) -> str:
    """Returns a text with `***` in place of every credential in it; one without any comes back as it is."""
    for pattern, put in _COMPILED:
        text = pattern.sub(put, text)
    return text


def redact_tree(tree: Any) -> Any:
    """Returns plain values, nested in mappings and sequences, with every text in them redacted."""
    if isinstance(tree, str):
        return redact(tree)
    if isinstance(tree, Mapping):
        return {redact_tree(name): redact_tree(value) for name, value in tree.items()}
    return [redact_tree(item) for item in tree] if isinstance(tree, list | tuple) else tree


def public_address(uri: str) -> str:
    """Returns the address of a web server as a link in a page can hold it: without user, credentials and last slash."""
    return redact(uri).replace(f"//{HIDDEN}@", "//").partition("?")[0].rstrip("/")


def redact_logs() -> None:
    """Redacts what every logger of this process says from now on, those of libraries too, tracebacks and all."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def made(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        try:
            record.msg, record.args = redact(record.getMessage()), None
        except (TypeError, ValueError):
            # logging itself complains of arguments that do not fit.
            return record
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    made.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(made)
