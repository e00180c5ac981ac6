"""Commands in processes of their own, which begin with torch and its friends loaded: see `warm_workers.py`.

A command's process is forked from the server and then is what `python -m radpo` would be: it has its own environment,
folder, path of modules and output, and imports radpo itself, from wherever that path leads; so do its workers, which
are forked as well. Where its environment differs in what libraries read while they are loaded, it is a fresh one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from warm_workers import WARM, WarmContext, context_of, fixed

HERE = str(Path(__file__).parent)
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    with server.makefile("rwb") as stream:
        asked = [*{words!r}, *sys.argv[1:]], os.getcwd(), dict(os.environ)
        stream.write(json.dumps(asked).encode() + b"\\n")
        stream.flush()
        status = stream.readline()
sys.exit(int(status))
"""
"""A program that has a command run and ends as it does; it starts in a twentieth of a second."""


def run(
    words: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python WORDS...`, where the words begin with `-m MODULE`, and what it printed."""
    environment = {**(os.environ if env is None else env)}
    with Path(os.devnull).open("rb") as none, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        status = _status(words, cwd or Path.cwd(), environment, [stream.fileno() for stream in (none, out, err)])
        for stream in (out, err):
            stream.seek(0)
        shown = (stream.read().decode() for stream in (out, err))
        return subprocess.CompletedProcess([sys.executable, *words], status, *shown)


@contextmanager
def program(path: Path, *words: str) -> Iterator[None]:
    """A program at that path for as long as it lasts, which runs `python WORDS...` with its own words after them."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        address = f"{folder}/socket"
        server.bind(address)
        server.listen()
        path.write_text(CLIENT.format(python=sys.executable, address=address, words=words))
        path.chmod(0o755)
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)


def _serve(server: socket.socket) -> None:
    with suppress(OSError):  # until it is closed
        while True:
            asked, _ = server.accept()
            threading.Thread(target=_answer, args=(asked,), daemon=True).start()


def _answer(asked: socket.socket) -> None:
    with asked:
        _, descriptors, _, _ = socket.recv_fds(asked, 1, 3)
        with asked.makefile("rwb") as stream:
            words, folder, environment = json.loads(stream.readline())
            status = _status(words, Path(folder), environment, descriptors)
            stream.write(b"%d\n" % status)
        for descriptor in descriptors:
            os.close(descriptor)


def _status(words: Sequence[str], cwd: Path, environment: Mapping[str, str], streams: Sequence[int]) -> int:
    """What `python WORDS...` ended with, whose standard streams are these."""
    address, began = WARM.start()
    if fixed(environment) != began:
        command, (stdin, stdout, stderr) = [sys.executable, *words], streams
        return subprocess.run(
            command, cwd=cwd, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, check=False
        ).returncode
    passed = [Connection(os.dup(number)) for number in streams]
    process = WARM.forked(environment, _command, (list(words), str(cwd), _installed(), passed, address, began))
    process.start()
    for connection in passed:
        connection.close()
    process.join()
    assert process.exitcode is not None
    return int(process.exitcode)


@cache
def _installed() -> list[str]:
    """Where a Python looks for modules that is given no place of its own."""
    code = "import sys; print(*sys.path[1:], sep='\\n')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def _command(
    words: list[str], cwd: str, installed: list[str], streams: list[Any], address: str, began: Mapping[str, str]
) -> None:
    """Be that command."""
    for number, connection in enumerate(streams):
        os.dup2(connection.fileno(), number)
        connection.close()
    os.chdir(cwd)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # This folder is last, and there for the workers alone, which have to find these modules.
    sys.path[:] = [cwd, *filter(None, given), *installed, HERE]
    sys.modules.pop("sitecustomize", None)
    if any(Path(folder, "sitecustomize.py").is_file() for folder in given):
        import sitecustomize  # noqa: F401 - as Python does when it starts
    for name in [name for name in sys.modules if name.partition(".")[0] == "radpo"]:
        raise AssertionError(f"{name} is loaded, which may be another than this command's")
    multiprocessing.get_context = context_of(WarmContext(address, began)).get_context  # type: ignore[assignment]
    dash, module, *rest = words[1:] if words[0] == "-u" else words
    assert dash == "-m", words
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
