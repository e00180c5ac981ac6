"""The pytest plugin: a test names a baseline and a cell of a matrix; the cell is run, and the gate passes or fails it.

    @pytest.mark.radpo_baseline("main")
    def test_ra_dpo_has_not_regressed(radpo_gate):
        radpo_gate("benchmarks/gate.yaml", variant="ra-dpo")

The marker takes `alpha` and `margins` (as `radpo regress --margin`: {"score": 2, "BENCHMARK": None}; None leaves a
metric out). Baselines are looked for under `radpo_baselines` of the pytest configuration, reports/baselines unless set,
and kept there by `radpo regress RUN_DIR --save NAME`. Run directories lie under `radpo_runs`, runs/gate unless set;
finished stages are kept (RADPO_STORE, else `store` beside them), so that a test that is run again computes nothing.

Nothing of radpo is imported before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from radpo.gate.verdict import Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two folders, in the project's pytest configuration."""
    parser.addini("radpo_baselines", "folder of kept baselines", type="string", default="reports/baselines")
    parser.addini(
        "radpo_runs", "folder of the run directories that radpo_gate makes", type="string", default="runs/gate"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line(
        "markers", "radpo_baseline(name, alpha=0.05, margins=None): the kept baseline that radpo_gate compares with"
    )


@pytest.fixture
def radpo_gate(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """Run a cell of a matrix and fail the test unless it passes the gate.

    `radpo_gate(matrix, variant=..., seed=None)`: the matrix file, from pytest's root folder on, one of its variants,
    and one of its seeds (all, unless given). Returns the verdict, where it is a pass.
    """
    marker = request.node.get_closest_marker("radpo_baseline")
    if marker is None:
        pytest.fail(
            'radpo_gate takes a baseline: mark the test with @pytest.mark.radpo_baseline("NAME")', pytrace=False
        )
    name, options = _arguments(*marker.args, **marker.kwargs)
    root = request.config.rootpath
    baselines, runs = (root / str(request.config.getini(key)) for key in ("radpo_baselines", "radpo_runs"))

    def gate(matrix: str | Path, *, variant: str, seed: int | None = None) -> Verdict:
        __tracebackhide__ = True
        from radpo.api import run
        from radpo.core.errors import RadpoError
        from radpo.gate.baselines import find_baseline
        from radpo.gate.compare import compare
        from radpo.gate.documents import to_table

        file, failed = root / matrix, None
        try:
            kept = find_baseline(Path(name), baselines)
            out = runs / "-".join([file.stem, variant, *([] if seed is None else [str(seed)])])
            run(file, out, executor="local", variant=variant, seed=seed)
            verdict = compare(kept, out, variants=[variant], **options)
        except RadpoError as error:
            failed = f"no verdict: {error}"
        if failed is not None:
            pytest.fail(failed, pytrace=False)
        if verdict.status != "pass":
            pytest.fail(to_table(verdict), pytrace=False)
        return verdict

    return gate


def _arguments(name: str, *, alpha: float = 0.05, margins: dict[str, float | None] | None = None) -> tuple[str, Any]:
    return name, {"alpha": alpha, "margins": margins}
