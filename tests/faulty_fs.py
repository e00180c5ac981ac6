"""A file system for tests that fails, loses answers, cuts, flips bits and delays by plan: faulty://PLAN/path.

What is kept lies in fsspec's memory or local file system, as `plan(..., target=...)` says.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

KINDS = ("fail", "lost", "cut", "delay")
READS, WRITES = ("ls", "cat_file", "get_file", "info", "modified"), ("pipe_file", "put_file", "rm_file")


@dataclass
class Fault:
    """What befalls operations: of these names, on paths with this text, so many times after the first `after`.

    Kinds: `fail` (before anything is done), `lost` (done, and the answer lost), `cut` (half of it done, then an error),
    `short` (half of it done, and no error), `flip` (a bit of what is read is another), `delay` (by `seconds`).
    """

    kind: str
    operations: tuple[str, ...] = (*READS, *WRITES)
    within: str = ""
    times: int = 1
    after: int = 0
    seconds: float = 0.05


@dataclass
class Plan:
    """What befalls the file systems of one name, and what was asked of them."""

    target: Any
    faults: list[Fault] = field(default_factory=list)
    share: float = 0.0
    """Beside the faults that are listed, the share of all operations that one of `KINDS` befalls by chance."""
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    asked: list[tuple[str, str]] = field(default_factory=list)
    met: int = 0
    lock: Any = field(default_factory=threading.RLock)

    def next(self, operation: str, path: str) -> Fault | None:
        with self.lock:
            self.asked.append((operation, path))
            for fault in self.faults:
                if operation in fault.operations and fault.within in path and fault.times > 0:
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    self.met += 1
                    return fault
            if self.chance.random() < self.share:
                self.met += 1
                return Fault(self.chance.choice(KINDS), seconds=self.chance.uniform(0, 0.05))
        return None


PLANS: dict[str, Plan] = {}


def plan(name: str, *faults: Fault, target: str = "memory", share: float = 0.0) -> Plan:
    """Begin a plan, whose store is then at faulty://NAME/..."""
    PLANS[name] = Plan(fsspec.filesystem(target), list(faults), share)
    return PLANS[name]


class FaultyFileSystem(AbstractFileSystem):
    """See the module."""

    protocol = "faulty"
    cachable = False

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        found = self._do("ls", path, lambda fs, place: fs.ls(place, detail=detail))
        name = self._name(path)
        put = lambda place: f"{name}{place}"  # noqa: E731
        return [{**one, "name": put(one["name"])} for one in found] if detail else [put(one) for one in found]

    def info(self, path: str, **kwargs: Any) -> Any:
        return self._do("info", path, lambda fs, place: {**fs.info(place), "name": path})

    def modified(self, path: str) -> Any:
        return self._do("modified", path, lambda fs, place: fs.modified(place))

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> Any:
        return self._do("cat_file", path, lambda fs, place: fs.cat_file(place))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        PLANS[self._name(path)].target.makedirs(self._place(path), exist_ok=exist_ok)

    def rm_file(self, path: str) -> None:
        self._do("rm_file", path, lambda fs, place: fs.rm_file(place))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        def pipe(fs: Any, place: str, share: float = 1.0) -> None:
            with PLANS[self._name(path)].lock:  # memory does not create in one step
                fs.pipe_file(place, value[: int(len(value) * share)], mode=mode)

        self._do("pipe_file", path, pipe)

    def put_file(self, lpath: str, rpath: str, callback: Any = None, mode: str = "overwrite", **kwargs: Any) -> None:
        def put(fs: Any, place: str, share: float = 1.0) -> None:
            content = Path(lpath).read_bytes()
            fs.pipe_file(place, content[: int(len(content) * share)])

        self._do("put_file", rpath, put)

    def get_file(self, rpath: str, lpath: str, callback: Any = None, **kwargs: Any) -> None:
        def get(fs: Any, place: str, share: float = 1.0, flip: bool = False) -> None:
            content = bytearray(fs.cat_file(place))
            if flip:
                content[PLANS[self._name(rpath)].chance.randrange(len(content))] ^= 1
            Path(lpath).write_bytes(content[: int(len(content) * share)])

        self._do("get_file", rpath, get)

    def _do(self, operation: str, path: str, work: Any) -> Any:
        kept = PLANS[self._name(path)]
        fault = kept.next(operation, path)
        kind = None if fault is None else fault.kind
        if kind == "delay" and fault:
            time.sleep(fault.seconds)
        if kind == "fail" or (kind in ("cut", "lost") and operation in READS[:1] + READS[3:] + ("rm_file",)):
            raise OSError(f"503 injected before {operation}")
        partial = operation in ("pipe_file", "put_file", "get_file")
        if kind in ("cut", "short") and partial:
            work(kept.target, self._place(path), 0.5)
        elif kind == "flip" and operation == "get_file":
            work(kept.target, self._place(path), flip=True)
        else:
            result = work(kept.target, self._place(path))
            if kind not in ("lost", "cut"):
                return result
        if kind in ("lost", "cut"):
            raise ConnectionResetError(f"injected after {operation}")
        return None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return [cls._strip_protocol(one) for one in path] if isinstance(path, list) else path.removeprefix("faulty://")

    def _name(self, path: str) -> str:
        return str(self._strip_protocol(path)).partition("/")[0]

    def _place(self, path: str) -> str:
        return "/" + str(self._strip_protocol(path)).partition("/")[2]


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
