"""The entry point: runs the command line, and keeps whatever escapes it from looking like a verdict.

Exit status 1 means that a regression was found, and a program that a traceback ends has that status, too. Nothing but
the standard library is imported before the guard stands.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

UNEXPECTED = 70
"""The exit status of an error that nobody foresaw (EX_SOFTWARE of sysexits.h)."""
_SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)


def main() -> None:
    """Run the command line; an error that nobody foresaw is one message with the place of its traceback."""
    try:
        from radpo.cli.main import main as run

        run()
    except Exception as error:  # noqa: BLE001 - whatever it is, the person sees it and the status is not a verdict's
        print(f"radpo: {_message(error)}", file=sys.stderr)
        sys.exit(UNEXPECTED)


def _message(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    what = type(error).__name__ + (f": {lines[0]}" if lines else "")
    log = write_log(error)
    where = "no log of it could be written" if log is None else f"its traceback is in {log}"
    with contextlib.suppress(Exception):  # the guard stands by itself, should even this not be importable
        from radpo.core.messages import clean_message

        what = clean_message(what)
    return f"unexpected {what}; {where}"


def write_log(error: BaseException) -> Path | None:
    """A file with an error's traceback and the command, secrets left out; None where none can be written."""
    now = datetime.now(UTC)
    text = "\n".join(
        [
            f"{now.isoformat(timespec='seconds')} radpo {' '.join(without_secrets(sys.argv[1:]))}",
            f"Python {sys.version}",
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    for folder in (_logs, tempfile.gettempdir):
        with contextlib.suppress(Exception):
            path = Path(folder()) / f"radpo-{now:%Y%m%d-%H%M%S}-{os.getpid()}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return path
    return None


def without_secrets(words: list[str]) -> list[str]:
    """A command's words; the values of options that are called key, token, secret or password are left out."""
    shown: list[str] = []
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        secret = bool(_SECRET.search(name)) and (bool(equals) or name.startswith("-"))
        shown.append("..." if hide and not word.startswith("--") else f"{name}=..." if secret and equals else word)
        hide = secret and not equals
    return shown


def _logs() -> Path:
    from radpo.core.cache import cache_folder

    return cache_folder() / "logs"
