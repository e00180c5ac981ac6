"""What `radpo init` writes, and that a wheel alone, in an empty folder, has it and works."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import warm_commands
import yaml
from factories import write_model
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.starters import PACKAGES, starters

ROOT = Path(__file__).parents[1]


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """radpo's wheel and a package of each kind that `radpo init` writes, installed where this checkout is not."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools leaves what it builds beside the source
    for name in ("radpo", "benchmarks", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for what in PACKAGES:
        assert call("init", what, f"mine-{what}", "--out", str(folder)).exit_code == 0
    made = [str(folder / f"radpo-mine-{what}") for what in PACKAGES]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--target", str(folder / "site"), str(source), *made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def radpo(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed radpo's command line in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(site), "RADPO_CACHE": str(folder.parent / "cache")}
    return warm_commands.run(["-m", "radpo", *words], cwd=folder, env=environment)


def test_the_wheel_has_every_file_of_the_package(site: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "radpo"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout to compare with")
    there = {path for path in listed.stdout.split() if (ROOT / path).is_file()}
    assert len(there) > 200
    missing = sorted(path for path in there if not (site / path).is_file())
    assert not missing, "add their package to `packages` in pyproject.toml"


def test_every_link_that_a_package_index_shows_is_absolute(site: Path) -> None:
    from email.parser import Parser

    (file,) = site.glob("radpo-*.dist-info/METADATA")
    metadata = Parser().parsestr(file.read_text(encoding="utf-8"))
    page = metadata.get_payload()
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert all(link.startswith("https://") for link in links), links
    assert "https://arxiv.org/abs/2410.08067" in links
    assert "## Your own model and pairs" in page
    for_the_index = runpy.run_path(str(ROOT / "setup.py"))["for_the_index"]
    told = for_the_index("![top](a.jpg) [own pairs](docs/own-pairs.md) [x](https://x.org)", "https://host/us/radpo")
    at = "https://host/us/radpo"
    assert told == f"![top]({at}/raw/HEAD/a.jpg) [own pairs]({at}/blob/HEAD/docs/own-pairs.md) [x](https://x.org)"
    assert {url.split(", ")[0] for url in metadata.get_all("Project-URL")} >= {"Paper", "The authors' release"}
    named = {one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier") if "Python ::" in one}
    assert named == {"3.11", "3.12", "3.13"}


def test_from_the_wheel_alone_a_matrix_with_a_variant_of_ones_own_runs_in_an_empty_folder(
    site: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    begun = radpo(site, folder, "init", "quickstart")
    assert begun.returncode == 0, begun.stderr
    assert (folder / "data" / "detail_train_pairs.jsonl").stat().st_size > 100_000
    assert "radpo run quickstart.yaml" in begun.stderr
    matrix = yaml.safe_load((folder / "quickstart.yaml").read_text(encoding="utf-8"))
    texts = (folder / "data" / "detail_train_pairs.jsonl").read_text(encoding="utf-8")
    write_model(folder / "model", texts=texts.splitlines())
    matrix |= {"model": "model", "variants": {"base": None, "mine-variant": None}, "benchmarks": {"unlearning": {}}}
    matrix["training"]["max_length"] = 2000
    matrix["data"]["train"]["limit"] = matrix["data"]["heldout"]["limit"] = 4
    (folder / "quickstart.yaml").write_text(yaml.safe_dump(matrix), encoding="utf-8")
    done = radpo(site, folder, "run", "quickstart.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    results = pd.read_parquet(folder / "runs" / "quickstart" / "results.parquet")
    assert set(results["variant"]) == {"base", "mine-variant"}
    assert (folder / "runs" / "quickstart" / "report.html").is_file()


def test_the_wheel_lists_what_the_written_packages_add(site: Path, tmp_path: Path) -> None:
    done = radpo(site, tmp_path, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    added = json.loads(done.stdout)["plug-ins"]
    assert added == {
        **{f"radpo.{what}s mine-{what}": f"radpo-mine-{what} 0.1.0" for what in PACKAGES},
        "radpo.variants mine-variant-cautious": "radpo-mine-variant 0.1.0",
    }  # fmt: skip


def test_every_matrix_that_init_writes_is_one_that_the_loader_takes(tmp_path: Path) -> None:
    from radpo.matrix.loading import load_matrix

    matrices = [name for name in starters() if name not in PACKAGES and name != "accelerate"]
    assert {"quickstart", "gate", "paper/qwen2-7b-instruct"} <= set(matrices)
    for name in matrices:
        folder = tmp_path / name.replace("/", "-")
        done = call("init", name, "--out", str(folder))
        assert done.exit_code == 0
        assert all(Path(line).is_file() for line in done.stdout.splitlines())
        assert load_matrix(folder / f"{name}.yaml", planning=True).name
    assert call("init", "accelerate", "--out", str(tmp_path)).exit_code == 0
    assert {path.name for path in (tmp_path / "accelerate").iterdir()} >= {"fsdp.yaml", "data_parallel.yaml"}


def test_init_overwrites_nothing_unasked_and_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    from radpo.core.errors import ConfigError

    assert call("init").exit_code == call("init").exit_code == 0, "twice the same"
    matrix = tmp_path / "quickstart.yaml"
    original = matrix.read_text(encoding="utf-8")
    matrix.write_text("name: mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"quickstart.yaml: there already, with other content"):
        call("init")
    assert matrix.read_text(encoding="utf-8") == "name: mine\n"
    call("init", "--force")
    assert matrix.read_text(encoding="utf-8") == original
    for words, message in {
        ("vriant",): "did you mean 'variant'",
        ("variant", "dpo"): r"radpo \S+ has a variant of that name",
        ("judge", "My Judge"): "lower-case letters, digits and single hyphens",
        ("quickstart", "mine"): "takes no name",
        ("quickstart", "--out", "quickstart.yaml"): "quickstart.yaml.*cannot be written",
    }.items():
        with pytest.raises(ConfigError, match=message):
            call("init", *words)


def test_help_begins_with_init_and_the_shell_completes_what_it_takes() -> None:
    assert "radpo init quickstart" in call("--help").output
    asked = {"_RADPO_COMPLETE": "complete_bash", "COMP_WORDS": "radpo init quick", "COMP_CWORD": "2"}
    done = CliRunner().invoke(app, [], prog_name="radpo", env=asked)
    assert done.output.split() == ["quickstart"]
