"""Worker processes that are forked from one that has loaded torch and its friends, which takes longer than most tests.

A run's worker starts from a fresh interpreter and loads them anew: seven processor seconds where it trains. Here a
server process (multiprocessing's `forkserver`), itself fresh, loads them once a pytest process and computes nothing,
so that what a worker finds is what a fresh one would have after its imports. Nothing of radpo's is loaded there.
Commands that tests run in a fresh process are untouched by this and start their workers as users do;
`warm_commands.py` has commands that are forked, too.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from types import SimpleNamespace
from typing import Any

LOADED = (
    "pytest", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "pandas", "pyarrow.parquet",
    "lm_eval.tasks", "lm_eval.models.huggingface", "scipy.stats", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama",
    "trl.trainer.dpo_trainer", "jinja2", "plotly.graph_objects", "pydantic", "rich.progress", "typer", "yaml",
)  # fmt: skip
"""What the server process imports before it forks."""
MAY_CHANGE = (
    # read when they are needed
    "PYTEST_", "RADPO_", "COLUMNS", "OPENAI_", "PATH", "PYTHONPATH", "TOKENIZERS_PARALLELISM", "RAY_",
    "MLFLOW_",
    # set for torchrun's processes, and read when they find each other and when a training begins
    "LOCAL_", "RANK", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "TORCH_NCCL_", "PYTHON_EXEC",
    "ACCELERATE_USE_", "FSDP_",
    # set by shells, and by kernels of notebooks
    "PWD", "OLDPWD", "SHLVL", "_", "CLICOLOR", "FORCE_COLOR", "GIT_PAGER", "JPY_", "MPLBACKEND", "PAGER", "PYDEVD_",
    "TERM",
    # set by the services that run workflows, and read by their scripts
    "CI_", "GH_", "GITHUB_", "GITLAB_", "PULL_REQUEST",
    # read by libraries while they are imported, for what they print and where memory is taken from
    "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE",
    "LMEVAL_LOG_LEVEL", "ARROW_DEFAULT_MEMORY_POOL",
    # set by sklearn, huggingface_hub and torch in this process, for forking, how fast files come, and what is compiled
    "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "HF_XET_HIGH_PERFORMANCE", "TORCHINDUCTOR_CACHE_DIR",
    # set anew by each worker, or for waiting alone
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
)  # fmt: skip
"""How the names of variables begin that give a forked worker no other results than a spawned one: a command in this
process may have set them, and workers are given them as they are."""


def fixed(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(MAY_CHANGE)}


def in_environment(environment: Mapping[str, str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    assert threading.active_count() == 1, "a process with threads is not one to fork"
    gc.freeze()  # what was loaded before stays, and to look it all through for garbage takes a third of a second
    target(*arguments)


@contextmanager
def restored_environment() -> Iterator[None]:
    """What is set meanwhile is not so afterwards, and what was set before is."""
    before = {**os.environ}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class WarmContext:
    """In place of multiprocessing's `spawn`; a worker that is to have another environment is spawned all the same."""

    def __init__(self, address: str | None = None, began: Mapping[str, str] | None = None) -> None:
        """Ask a server that is there, whose environment began so, or one that is started with the first worker."""
        self._began = began
        self.begin()
        self._forking = multiprocessing.get_context("forkserver")
        self._forking.set_forkserver_preload([*LOADED])
        self._spawning = multiprocessing.get_context("spawn")
        self.Pipe, self.Event = self._spawning.Pipe, self._spawning.Event
        if address is not None:
            forkserver._forkserver._forkserver_address = address
            forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]

    def begin(self) -> None:
        """Have the server's environment be what this process's is now."""
        self._first = {**os.environ}

    def start(self) -> tuple[str, Mapping[str, str]]:
        """The server's address and its environment."""
        if self._began is None:
            from radpo.engine.execute import WAITING

            self._began = fixed(self._first)
            with restored_environment():
                os.environ.clear()
                os.environ.update(self._first | WAITING)  # which OpenMP reads while it is loaded
                forkserver.ensure_running()
        return forkserver._forkserver._forkserver_address, self._began  # type: ignore[return-value]

    def Process(self, target: Callable[..., None], args: tuple[Any, ...]) -> Any:  # noqa: N802 - multiprocessing's name
        _, began = self.start()
        if fixed(os.environ) != began:
            return self._spawning.Process(target=target, args=args)
        return self.forked(os.environ, target, args)

    def forked(self, environment: Mapping[str, str], target: Callable[..., None], args: tuple[Any, ...]) -> Any:
        """A process of the server's, with another environment."""
        return self._forking.Process(target=in_environment, args=({**environment}, target, args))


def context_of(warm: WarmContext) -> SimpleNamespace:
    """What stands for the module `multiprocessing` where workers are started."""

    def get_context(method: str) -> BaseContext | WarmContext:
        return warm if method == "spawn" else multiprocessing.get_context(method)

    return SimpleNamespace(get_context=get_context)


WARM = WarmContext()
"""This pytest process's."""
