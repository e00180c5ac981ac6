"""Computing one stage in this process; every executor's processes run this."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from radpo.core.environment import environment
from radpo.core.errors import RadpoError
from radpo.core.files import replace_file
from radpo.core.machine import cores, describe_machine
from radpo.core.messages import clean_message
from radpo.core.paid_work import paying
from radpo.core.progress import Progress
from radpo.engine.graph import WORK, Stage, Task
from radpo.engine.servers import serving
from radpo.engine.sources import sources_in, watched
from radpo.engine.store import BusyError, Store

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
UNEXPECTED = 70
"""The exit status of a stage's error that nobody foresaw, as of a command's."""
REPORT_SECONDS = 0.1
"""Progress is passed on no more often than this: the way to the parent process costs more than a small step."""

SOURCES = ".sources"
"""In the folder that an interrupted try leaves: the state of the sources that it was made of."""
LOAD_SECONDS = 0.2
"""A stage that took less has loaded no model, whose memory would have to be given back."""


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt at a stage.

    Args:
        status: `computed`; `kept`: it was in the store already; `busy`: another run is computing it; `corrupt`: an
            input's folder is damaged; `failed`.
        message: for `corrupt`, what is damaged; for `failed`, why.
        corrupt: the key of the damaged input.
        exit_status: for `failed`, what the command ends with.
    """

    status: Literal["computed", "kept", "busy", "corrupt", "failed"]
    message: str = ""
    corrupt: str | None = None
    exit_status: int = 2


WAITING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""How threads of GNU's and Intel's OpenMP wait for each other: for microseconds at work, then asleep.

By default they keep their cores busy, even where the thread that they wait for does not run because another process
does: then a training step takes many times as long as with one thread. The environment's own values go before these.
"""


def divide_threads(threads: int) -> None:
    """Have this process's numerical libraries use so many threads, be they loaded already or not."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def execute(stage: Stage, store: Store, notes: Mapping[str, Any], progress: Progress) -> Outcome:
    """Compute a stage whose inputs are in the store, unless it is there too or another process is at it.

    Args:
        notes: what is to be noted with the stage besides time, memory and machine.
    """
    try:
        with store.translate_disk_full(), store.lock(stage.key):
            if store.ensure_shared(stage):  # another run may have finished it meanwhile
                return Outcome("kept")
            for needed in stage.inputs.values():
                if damage := store.supply(needed.key):
                    return Outcome("corrupt", damage, corrupt=needed.key)
            with _logging_to(store.log(stage), stage):
                return _attempt(stage, store, notes, progress)
    except BusyError:
        return Outcome("busy")
    except RadpoError as error:
        return Outcome("failed", str(error), exit_status=error.exit_status)


def _attempt(stage: Stage, store: Store, notes: Mapping[str, Any], progress: Progress) -> Outcome:
    try:
        store.produce(stage, lambda folder: {**notes, **_compute(stage, store, folder, progress)})
    except RadpoError as error:
        return Outcome("failed", str(error), exit_status=error.exit_status)
    except Exception as error:  # noqa: BLE001 - whatever it is, other stages continue, and the person sees it
        with suppress(OSError):  # on a full disk the log takes no more
            traceback.print_exc()
        why = clean_message(f"{type(error).__name__}: {error}".strip())
        return Outcome("failed", why, exit_status=UNEXPECTED)
    return Outcome("computed")


def _compute(stage: Stage, store: Store, folder: Path, progress: Progress) -> dict[str, Any]:
    _reset_peak_memory()
    started, start = datetime.now(UTC), time.perf_counter()
    task = Task(
        stage=stage,
        inputs={name: store.folder(needed) for name, needed in stage.inputs.items()},
        out=folder,
        progress=_seldom(progress),
    )
    try:
        with serving(stage, store.root / "servers"), watched(sources_in(stage.settings), stage.name) as state:
            resumed = _same_sources(stage, folder, state)
            with environment(stage.settings.get("environment", {})), paying(stage.hints, stage.key, stage.name):
                stage.function.run(task)
    finally:
        seconds = time.perf_counter() - start
        if seconds > LOAD_SECONDS:
            _give_memory_back()
    if seconds > LOAD_SECONDS:
        # What is left is libraries, which no collection need search again: each would take a third of a second. Not so
        # after an error, which holds the stage's models.
        gc.freeze()
    return {
        "seconds": round(seconds, 3),
        "resumed": resumed,  # if so, the seconds are the last try's alone
        "peak_mib": _peak_memory_mib(),
        "started": started.isoformat(timespec="milliseconds"),
        "machine": {**describe_machine(), "threads": int(os.environ.get(THREAD_VARIABLES[0]) or cores())},
    }


def _same_sources(stage: Stage, folder: Path, state: str) -> bool:
    """Whether there is an interrupted try's work to resume from, whose sources nobody has touched since it began.

    What an earlier try made of sources that changed meanwhile is removed: it may be of other content than the key's.
    """
    work, note = folder / WORK, folder / WORK / SOURCES
    if not stage.function.resumable or not state:
        return work.exists()
    if (note.read_text(encoding="utf-8") if note.is_file() else "") != state:
        for path in work.iterdir() if work.exists() else ():
            if not any(path.match(name) for name in stage.function.lasting):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        work.mkdir(exist_ok=True)
        replace_file(note, lambda partial: partial.write_text(state, encoding="utf-8"))
    return any(path != note for path in work.iterdir())


def _seldom(progress: Progress) -> Progress:
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= REPORT_SECONDS:
            last = now
            progress(done, total)

    return report


@contextmanager
def _logging_to(path: Path, stage: Stage) -> Iterator[None]:
    """Send everything that this process prints, libraries in other languages included, to a stage's log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        _redirect([log, log])
        with suppress(OSError):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            print(f"--- {now} {stage.name} {stage.key} on {platform.node()}, process {os.getpid()}", flush=True)
        yield
    finally:
        _redirect(kept)
        for descriptor in (log, *kept):
            os.close(descriptor)


def _redirect(descriptors: list[int]) -> None:
    for stream, number, descriptor in zip((sys.stdout, sys.stderr), (1, 2), descriptors, strict=True):
        with suppress(OSError, ValueError):
            stream.flush()
        os.dup2(descriptor, number)


def _give_memory_back() -> None:
    """Free the stage's models before the next loads its own, and have CUDA and the C library return what they hold.

    Without that, glibc keeps gigabytes of a training stage's freed blocks until the process ends, and so does torch on
    the GPU.
    """
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _reset_peak_memory() -> None:
    """Linux forgets this process's high-water mark of resident memory; elsewhere nothing is measured."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory_mib() -> float | None:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        return None
    return round(int(found[1]) / 1024, 1) if found else None
