"""docs/new-variant.md: its commands run as printed, from an empty folder to the Markdown of a verdict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm_commands
import yaml

from radpo.gate.documents import MARK

PAGE = (Path(__file__).parents[1] / "docs" / "new-variant.md").read_text(encoding="utf-8")
SMALL = {"seeds": [0], "exclude": [], "training": {"batch_size": 8, "per_device_train_batch_size": 8}}
"""What makes the gate's matrix a matter of seconds."""
LIMITS = {"train": 16, "heldout": 30}
# What is installed goes into a folder of the test's own instead of this environment.
PYTHON = """#!/bin/sh
if [ "$1 $2 $3" = "-m pip install" ]; then
  shift 3
  for word; do shift; case $word in -e) ;; -*) set -- "$@" "$word";; *) set -- "$@" "./$word";; esac; done
  set -- -m pip install -q --no-index --target site "$@"
fi
exec PYTHON "$@"
"""


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Path]:
    """A folder with `python` and `radpo`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").write_text(PYTHON.replace("PYTHON", sys.executable))
    (folder / "python").chmod(0o755)
    with warm_commands.program(folder / "radpo", "-m", "radpo"):
        yield folder


def test_the_page_leads_from_an_empty_folder_to_a_verdict(tmp_path: Path, programs: Path) -> None:
    blocks = re.findall(r"(?:<!-- (\S+) -->\n)?```(bash|yaml)\n(.*?)```", PAGE, flags=re.DOTALL)
    assert [kind for _, kind, _ in blocks] == ["bash", "yaml", *["bash"] * 4]
    work = tmp_path / "empty"
    work.mkdir()
    for file, kind, text in blocks:
        if kind == "yaml":
            (work / file).write_text(text, encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=work, capture_output=True, text=True, check=False,
            env={
                **os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join(filter(None, [str(work / "site"), os.environ.get("PYTHONPATH")])),
            },
        )  # fmt: skip
        verdicts = (0, 1, 4) if "--against far-apart=dpo" in text else (0,)  # so few questions may decide nothing
        assert done.returncode in verdicts, f"{text}\n{done.stderr[-3000:]}"
        if (work / "gate.yaml").is_file() and not (work / "mine.yaml").is_file():
            cut_down(work / "gate.yaml")
    markdown = (work / "far-apart.md").read_text(encoding="utf-8")
    assert markdown.startswith(f"{MARK}\n## mine against mine: ")
    assert "far-apart is compared with the baseline's dpo." in markdown
    assert {f"| {name} |" in markdown for name in ("base", "dpo", "ra-dpo", "far-apart")} == {True}
    assert (work / "reports" / "baselines" / "mine" / "manifest.json").is_file()
    assert (work / "runs" / "mine" / "report.html").is_file()


def cut_down(path: Path) -> None:
    """The gate's matrix with so few pairs, questions and seeds that it takes seconds."""
    matrix = yaml.safe_load(path.read_text(encoding="utf-8"))
    matrix |= {key: value for key, value in SMALL.items() if key != "training"}
    matrix["training"] |= SMALL["training"]
    for name, limit in LIMITS.items():
        matrix["data"][name]["limit"] = limit
    for name in ("mt-bench", "alpaca-eval"):
        matrix["benchmarks"][name]["questions"]["limit"] = 8
    path.write_text(yaml.safe_dump(matrix), encoding="utf-8")
