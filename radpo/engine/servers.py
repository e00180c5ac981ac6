"""Servers of models, started for the stages that need them: until they answer, while they run, and to their end.

Each has a process beside it (`main`), which starts it in a process group of its own and ends the whole group when it is
told to, or when the process that wanted the server is gone, however that ended. What both know is in a folder:

server.json   what to start
at.json       the port, once the server was started
ended.json    why there is no server any more
log           what it prints
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radpo.core.errors import ServiceError
from radpo.core.files import replace_json
from radpo.core.messages import clean_message
from radpo.core.say import say
from radpo.core.served import SERVERS, Server, listening
from radpo.engine.graph import Stage

END_SECONDS = 15.0
"""How long a server that is told to end may take before it is killed."""
REPORT_SECONDS = 15.0
"""How often it is said that a server is waited for."""
LOG_LINES = 20
_ANSWER_SECONDS = 5.0
_PAUSE_SECONDS = 0.3


def servers_of(stage: Stage) -> list[Server]:
    """The servers that a stage needs."""
    return [Server(**{**one, "words": tuple(one["words"])}) for one in stage.hints.get(SERVERS, ())]


def gpus_of_servers(stage: Stage) -> int:
    """How many GPUs they compute on together."""
    return sum(server.gpus for server in servers_of(stage))


@dataclass(frozen=True)
class Started:
    """A server that this process has started, and ends with it."""

    server: Server
    folder: Path
    beside: subprocess.Popen[bytes]

    def has_ended(self) -> bool:
        """Whether it is no more."""
        return self.beside.poll() is not None or (self.folder / "ended.json").exists()

    def stop(self) -> None:
        """Have it gone with all its processes, and its folder, unless it failed."""
        failed = (self.folder / "ended.json").exists()
        assert self.beside.stdin is not None
        with suppress(OSError):
            self.beside.stdin.close()
        try:
            self.beside.wait(END_SECONDS + 5)
        except subprocess.TimeoutExpired:
            self.beside.kill()
            self.beside.wait()
        if not failed:
            shutil.rmtree(self.folder, ignore_errors=True)


def start(server: Server, place: Path, visible: str | None = None) -> Started:
    """Begin to start a server; `wait_for` says when it answers.

    Args:
        place: the folder in which it gets its own.
        visible: the GPUs it is to see, as `CUDA_VISIBLE_DEVICES` takes them; those that this process sees unless given.
    """
    folder = place / f"{server.id}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    (folder / "server.json").write_text(json.dumps(asdict(server)), encoding="utf-8")
    environment = os.environ | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    words = [sys.executable, "-m", "radpo.engine.servers", str(folder.absolute())]
    # It hears nothing of a Ctrl-C in the terminal: whoever wants the server decides when it ends.
    beside = subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, start_new_session=True)
    return Started(server, folder, beside)


def wait_for(server: Server, folder: Path) -> int:
    """The port of a server, once it answers; what is waited for is printed now and then.

    Raises:
        ServiceError: it ended, or does not answer in its time; the message has the end of its log.
    """
    begun = reported = time.monotonic()
    name = " ".join(server.words[:3])
    while True:
        if (folder / "ended.json").exists():
            why = json.loads((folder / "ended.json").read_text(encoding="utf-8"))["why"]
            raise ServiceError(_with_log(f"{name}: {why} before it answered", folder))
        port = _port(folder)
        if port is not None and _answers(port):
            say(f"{name}: answers after {time.monotonic() - begun:.0f} s", file=sys.stderr)
            return port
        waited = time.monotonic() - begun
        if waited > server.start_seconds:
            raise ServiceError(
                _with_log(
                    f"{name}: does not answer after {server.start_seconds:g} s; give it more by start_seconds", folder
                )
            )
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            say(f"{name}: has not answered yet, after {waited:.0f} s; its log is {folder / 'log'}", file=sys.stderr)
        time.sleep(_PAUSE_SECONDS)


_given: dict[str, Path] = {}


@contextmanager
def given(folders: Mapping[str, Path]) -> Iterator[None]:
    """Have `serving` use servers that another process has started, by their ids."""
    _given.update(folders)
    try:
        yield
    finally:
        for name in folders:
            del _given[name]


@contextmanager
def serving(stage: Stage, place: Path) -> Iterator[None]:
    """Have the servers that a stage needs, as long as it is computed: those of `given`, and its own of the others.

    Raises:
        ServiceError: one does not come to answer.
    """
    servers = servers_of(stage)
    with ExitStack() as stack:
        folders = {server.id: _given[server.id] for server in servers if server.id in _given}
        for server in servers:
            if server.id not in folders:
                started = start(server, place)
                stack.callback(started.stop)
                folders[server.id] = started.folder
        ports = {server.id: wait_for(server, folders[server.id]) for server in servers}
        stack.enter_context(listening(ports))
        yield


def _port(folder: Path) -> int | None:
    try:
        port: int = json.loads((folder / "at.json").read_text(encoding="utf-8"))["port"]
    except (OSError, ValueError):
        return None
    return port


def _answers(port: int) -> bool:
    """Whether it says that it is well; one that has no word for that, whether it lists its models."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for page in ("health", "v1/models"):
        try:
            with direct.open(f"http://127.0.0.1:{port}/{page}", timeout=_ANSWER_SECONDS):
                return True
        except urllib.error.HTTPError as error:
            if error.code not in (404, 405):
                return False  # such as 503, while it loads its model
        except (OSError, ValueError):
            return False
    return False


def _with_log(message: str, folder: Path) -> str:
    log = folder / "log"
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [clean_message(line) for line in text.splitlines() if line.strip()][-LOG_LINES:]
    return "\n    ".join(
        [f"{message}; the end of its log, {log}:" if lines else f"{message}; its log is {log}", *lines]
    )


# The process beside a server


def main(folder: Path) -> int:
    """Start the server, and end it when standard input does."""
    words = json.loads((folder / "server.json").read_text(encoding="utf-8"))["words"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word.replace("{port}", str(port)) for word in words]
    environment = dict(os.environ)
    if Path(words[0]).is_absolute():  # what belongs to its environment is found there first
        environment["PATH"] = os.pathsep.join([str(Path(words[0]).parent), environment.get("PATH", os.defpath)])
    with (folder / "log").open("ab") as log:
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        except OSError as error:
            replace_json(folder / "ended.json", {"why": f"cannot be started ({error.strerror})"})
            return 1
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _signal_group(process, signal.SIGTERM))
    threading.Thread(target=_end_with_the_parent, args=(process,), daemon=True).start()
    replace_json(folder / "at.json", {"port": port, "process": process.pid})
    status = process.wait()
    _signal_group(process, signal.SIGKILL)  # what it may have left
    if folder.exists():
        how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
        replace_json(folder / "ended.json", {"why": how})
    return 0


def _end_with_the_parent(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    _signal_group(process, signal.SIGTERM)
    time.sleep(END_SECONDS)
    _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[Any], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
