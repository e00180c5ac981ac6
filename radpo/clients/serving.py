"""What an endpoint may say of a server that radpo is to start for it: vLLM, SGLang, transformers, or any command."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from radpo.core.errors import ConfigError
from radpo.core.served import SERVED, Server

Words = Annotated[tuple[str, ...], BeforeValidator(lambda value: _words(value))]


@dataclass(frozen=True)
class Kind:
    """A program that serves the OpenAI API.

    Args:
        package: what has to be installed in its environment, and whose version its answers rest on.
        call: how its interpreter begins it.
        command: the same where it is on the PATH; empty where it has no command of its own.
        options: what radpo gives it: the model, its name, and where to listen.
        parallel: the arguments whose values multiplied are how many GPUs it computes on.
        takes_name: whether its model can be called by another name than where it lies.
    """

    package: str
    call: tuple[str, ...]
    command: tuple[str, ...]
    options: Callable[[str, str], tuple[str, ...]]
    parallel: tuple[tuple[str, ...], ...] = ()
    takes_name: bool = True


HERE = ("--host", "127.0.0.1", "--port", "{port}")
KINDS = {
    "vllm": Kind(
        "vllm",
        ("-m", "vllm.entrypoints.cli.main", "serve"),
        ("vllm", "serve"),
        lambda model, name: (model, "--served-model-name", name, *HERE),
        (
            ("--tensor-parallel-size", "-tp"),
            ("--pipeline-parallel-size", "-pp"),
            ("--data-parallel-size", "-dp"),
        ),
    ),
    "sglang": Kind(
        "sglang",
        ("-m", "sglang.launch_server"),
        (),
        lambda model, name: ("--model-path", model, "--served-model-name", name, *HERE),
        (
            ("--tensor-parallel-size", "--tp-size", "--tp"),
            ("--pipeline-parallel-size", "--pp-size", "--pp"),
            ("--data-parallel-size", "--dp-size", "--dp"),
        ),
    ),
    "transformers": Kind(
        "transformers",
        ("-c", "from transformers.cli.transformers import main; main()", "serve"),
        ("transformers", "serve"),
        lambda model, name: (model, *HERE),
        takes_name=False,
    ),
}
TAKEN = frozenset({"--host", "--port", "--uds", "--model", "--model-path", "--served-model-name", "--api-key"})
"""Arguments that radpo gives itself, or that would keep it from asking."""
NEUTRAL = frozenset(
    {
        "--gpu-memory-utilization", "--mem-fraction-static", "--download-dir", "--uvicorn-log-level", "--log-level",
        "--log-level-http", "--disable-log-stats", "--enable-log-requests", "--no-enable-log-requests", "--max-log-len",
        "--disable-uvicorn-access-log", "--disable-log-requests", "--log-requests",
    }
)  # fmt: skip
"""Arguments that cannot change an answer; the others are part of a key."""


class Serving(BaseModel):
    """What is asked, and what starts a server for it; nothing, where the endpoint is there already.

    Args:
        model: the name that the endpoint knows its model by.
        base_url: up to and with `/v1`.
        serve: the program that serves the model: vllm, sglang, or transformers.
        command: in place of `serve`, any command that serves the OpenAI API; `{port}` in it stands for the port to
            listen at, `{model}` for the model's folder.
        args: its further arguments, such as [--tensor-parallel-size, 2].
        python: the interpreter, or the folder, of the environment that has the program. Default: the program on the
            PATH, or radpo's own environment.
        weights: what is served, where that is not what `model` says: a folder, a bundled model, or a Hub id.
        gpus: the GPUs it computes on. Default: as its arguments for parallelism say.
        start_seconds: how long it may take until it answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: str = Field(min_length=1)
    base_url: str = "https://api.openai.com/v1"
    serve: Literal["vllm", "sglang", "transformers"] | None = None
    command: Words = ()
    args: Words = ()
    python: str | None = None
    weights: str | None = None
    gpus: int | None = Field(None, ge=0)
    start_seconds: Annotated[float, Field(gt=0)] = 1800.0

    @model_validator(mode="before")
    @classmethod
    def _free_of_charge(cls, given: Any) -> Any:
        """A server of one's own has no address to give, and asking it costs nothing."""
        if not isinstance(given, dict) or not (given.get("serve") or given.get("command")):
            return given
        if given.get("base_url", SERVED) != SERVED:
            raise ValueError("base_url: is of a server that is there; radpo starts this one at a port of its own")
        return {"price_in": 0.0, "price_out": 0.0, **given, "base_url": SERVED}

    @model_validator(mode="after")
    def _fits(self) -> Serving:
        if self.serve is not None and self.command:
            raise ValueError("command: is in place of serve; give one of them")
        others = {"args": self.args, "python": self.python, "weights": self.weights}
        for name, value in others.items():
            if value and not self.is_served:
                raise ValueError(f"{name}: is for a server that radpo starts; give serve, or command")
        if self.command and self.python is not None:
            raise ValueError("python: is for serve; write the interpreter into the command")
        if self.command and not any("{port}" in word for word in (*self.command, *self.args)):
            raise ValueError("command: must have {port}, the port to listen at, in one of its words")
        if self.serve is not None:
            for name in sorted(TAKEN & arguments(self.args).keys()):
                raise ValueError(f"args: {name} is radpo's own to give; leave it out")
        return self

    @property
    def is_served(self) -> bool:
        """Whether radpo starts a server for it."""
        return self.serve is not None or bool(self.command)

    @property
    def loads_model(self) -> bool:
        """Whether radpo tells the server where the model is."""
        return self.serve is not None or any("{model}" in word for word in (*self.command, *self.args))

    def counted(self) -> dict[str, Any]:
        """What of the server can change an answer, besides the model."""
        if self.serve is None:
            return {"command": [*self.command, *self.args]}
        args = {name: values for name, values in arguments(self.args).items() if name not in NEUTRAL}
        package = KINDS[self.serve].package
        return {"serve": self.serve, "args": args, package: _version(self._interpreter(), package)}

    def server(self) -> Server:
        """The server to start."""
        model = self.weights or self.model
        if self.serve is None:
            words = tuple(word.replace("{model}", model) for word in (*self.command, *self.args))
            return Server(words, 1 if self.gpus is None else self.gpus, self.start_seconds)
        kind = KINDS[self.serve]
        interpreter = self._interpreter()
        begin = kind.command if interpreter is None else (interpreter, *kind.call)
        words = (*begin, *kind.options(model, self.model), *self.args)
        return Server(words, _gpus(kind, self.args) if self.gpus is None else self.gpus, self.start_seconds)

    def check_command(self) -> None:
        """See that what starts the server is there.

        Raises:
            ConfigError: it is not.
        """
        if self.serve is None:
            if shutil.which(self.command[0]) is None:
                raise ConfigError(f"command: there is no {self.command[0]} to be executed")
            return
        interpreter, package = self._interpreter(), KINDS[self.serve].package
        if interpreter is not None and shutil.which(interpreter) is None:
            raise ConfigError(f"python: there is no interpreter {interpreter}")
        if interpreter is not None and _version(interpreter, package) is None:
            raise ConfigError(
                f"serve {self.serve}: {interpreter} has no package {package}; make an environment for it (`python -m "
                f"venv DIR`, `DIR/bin/pip install {package}`) and name it by `python: DIR`"
            )

    def _interpreter(self) -> str | None:
        """The interpreter that begins the program; None where its own command is on the PATH."""
        assert self.serve is not None
        kind = KINDS[self.serve]
        if self.python is not None:
            place = Path(self.python).expanduser()
            return str((place / "bin" / "python").absolute()) if place.is_dir() else self.python
        if kind.package != "transformers" and kind.command and shutil.which(kind.command[0]):
            return None
        return sys.executable


def arguments(words: Sequence[str]) -> dict[str, list[str]]:
    """Arguments by name, with their values, however they are written: `--a b`, `--a=b`, `--some_name`."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            name, is_given, value = word.partition("=")
            name = name.replace("_", "-")
            found[name] = [value] if is_given else []
        else:
            found.setdefault(name, []).append(word)
    return found


def _gpus(kind: Kind, words: Sequence[str]) -> int:
    given, product = arguments(words), 1
    for names in kind.parallel:
        values = next((given[name] for name in names if name in given), [])
        product *= int(values[0]) if values and values[0].isdecimal() else 1
    return product


def _words(value: Any) -> Any:
    """A command's words: a list of texts and numbers, or one text as a shell would split it."""
    if isinstance(value, str):
        import shlex

        return tuple(shlex.split(value))
    if isinstance(value, list | tuple):
        return tuple(
            str(word) if isinstance(word, int | float) and not isinstance(word, bool) else word for word in value
        )
    return value


@cache
def _version(interpreter: str | None, package: str) -> str | None:
    """The version of a package in an interpreter's environment, or in that of the program on the PATH; None: none."""
    if interpreter is None:
        program = cast(str, shutil.which(package))
        beside = Path(program).resolve().parent / "python"
        interpreter = str(beside) if beside.exists() else sys.executable
    code = f"from importlib.metadata import version; print(version({package!r}))"
    try:
        done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
