"""Messages as they may be shown and kept: without secrets, and with control characters to be seen and not obeyed.

Every `RadpoError` passes through here, so that no place which raises one has to think of it.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit, urlunsplit

_SECRET_NAME = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(?:$|_)", re.IGNORECASE)
_SHORTEST = 12
"""Shorter values of such variables are placeholders, and ordinary words of messages."""
# How providers' keys begin, and what follows.
_PREFIXES = r"(?:sk|gsk|xai|hf|r8|pplx|nvapi|ghp|glpat)[-_]"
_KEY = re.compile(rf"(?<![A-Za-z0-9]){_PREFIXES}(?=[\w-]*\d)[\w-]{{12,}}")
# What no one calls a variable: long, with digits, and without an underscore between.
_NO_NAME = re.compile(r"(?=.*\d)[A-Za-z0-9]{20,}")
_USER = re.compile(r"(?<=://)[^/\s@'\"]+@")
_QUERY = re.compile(
    r"(?<=[?&])([^=&\s]*(?:key|token|secret|sig|password|credential)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE
)
LONGEST_WORD, LONGEST_LINE = 1000, 8000
"""Characters; no path, name or address that anyone writes is longer than the first."""
_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean_message(text: str) -> str:
    """A message without secrets and endless words, its control characters but line ends and tabs written as escapes."""
    return shortened(printable(hide_secrets(text)))


def shortened(text: str) -> str:
    """A message whose words and lines are of a length that a person reads: of longer ones, both ends."""
    if len(text) <= LONGEST_WORD:
        return text
    words = _WORD.sub(lambda found: _ends(found[0], LONGEST_WORD), text)
    return "\n".join(_ends(line, LONGEST_LINE) for line in words.split("\n"))


def _ends(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    start, end = text[: length // 2], text[-(length // 5) :]
    return f"{start}[...{len(text) - len(start) - len(end):,} more characters...]{end}"


def printable(text: str) -> str:
    """A text whose terminal escapes and marks of writing direction are shown and not obeyed."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(text: str) -> str:
    """The same of a JSON document, which stays one: they stand in its texts alone, as JSON's own escapes."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def hide_secrets(text: str) -> str:
    """A text without what is a secret by its look, its place in an address, or the environment."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, "***")
    return _QUERY.sub(r"\1***", _USER.sub("***@", _KEY.sub("***", text)))


def looks_like_key(name: str) -> bool:
    """Whether what should name an environment variable is a key itself."""
    if name in os.environ:
        return False
    is_name = re.fullmatch(r"[A-Za-z_]\w*", name) is not None
    return not is_name or _NO_NAME.fullmatch(name) is not None or _KEY.fullmatch(name) is not None


def masked_address(place: str) -> str:
    """A place for messages: of an address, without user, password, query and fragment; a path as it is.

    >>> masked_address("s3://user:secret@bucket/pairs.jsonl?token=x")
    's3://bucket/pairs.jsonl'
    """
    if "://" not in place:
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        return f"{place.partition('://')[0]}://***"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
