"""The public names: what they are, and that `import radpo` loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import radpo

PUBLIC = {"run", "plan", "load_run", "Benchmark", "Metric", "Variant", "Judge", "Executor", "RadpoError"}


def test_every_public_name_is_there_and_listed() -> None:
    assert set(radpo.__all__) >= PUBLIC
    assert set(dir(radpo)) >= set(radpo.__all__)
    for name in radpo.__all__:
        assert getattr(radpo, name) is not None
    with pytest.raises(AttributeError, match="module 'radpo' has no attribute 'runn'"):
        radpo.runn  # noqa: B018


def test_importing_radpo_loads_nothing_heavy_and_neither_do_the_names_of_plug_ins() -> None:
    code = (
        "import sys, json, radpo; first = set(sys.modules); "
        "radpo.Benchmark, radpo.Variant, radpo.Judge, radpo.JudgeKind, radpo.Executor, radpo.Metric; "
        "print(json.dumps([sorted(first), sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, then = map(set, json.loads(done.stdout))
    assert not {"torch", "transformers", "pandas", "numpy", "pydantic", "yaml"} & first
    assert not {"torch", "transformers", "trl", "pandas"} & then


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(radpo.__file__).parent / "py.typed").is_file()


def test_a_matrix_is_planned_from_python_as_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from radpo.cli.main import app

    matrix = Path(__file__).parents[1] / "benchmarks" / "paper" / "qwen2-7b-instruct.yaml"
    machine = ["--machine", "8xh100-sxm", "--json"]
    planned = radpo.plan(matrix, machine="8xh100-sxm").to_json()
    printed = CliRunner().invoke(app, ["plan", str(matrix), *machine], catch_exceptions=False).stdout
    assert json.loads(printed) == json.loads(json.dumps(planned))
