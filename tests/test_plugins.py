"""Plug-ins: found lazily, a broken package beside them hurts nothing, and their code is part of stages' keys."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from factories import scored_pairs, write_model, write_plugin

from radpo.cli import doctor
from radpo.core import plugins, warn
from radpo.core.errors import ConfigError
from radpo.core.plugins import PluginWarning, load_plugins, plugin_code, plugin_entries
from radpo.engine.executors import Executor, ExecutorChoice, choose_executor, find_executor
from radpo.judges.base import JudgeKind
from radpo.judges.lookup import find_judge
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix
from radpo.matrix.schema import matrix_schema
from radpo.preferences.writing import write_preferences

JUDGE = """
from mine.helper import length
from radpo.core.plugins import NoSettings
from radpo.judges.base import Grade, JudgeKind


class Lengths:
    name = "lengths"

    def grade(self, requests, progress=None):
        return [Grade(length(request.response), "its length") for request in requests]


KIND = JudgeKind(NoSettings, lambda settings: Lengths())
"""
EXECUTOR = """
from pydantic import BaseModel, ConfigDict
from radpo.engine.executors import Executor


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    partition: str
    minutes: int = 60


EXECUTOR = Executor("cluster", Settings, lambda store, jobs, settings: (store, jobs, settings))
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test warns anew, and leaves no module of its packages behind."""
    monkeypatch.setattr(warn, "_WARNED", set())
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("mine", "cluster", "sick"):
            del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages: a judge with a helper module, and an executor."""
    folder = tmp_path / "site"
    write_plugin(
        folder, "mine", {"radpo.judges": "lengths = mine.judge:KIND"},
        mine____init__="", mine__judge=JUDGE, mine__helper="def length(text):\n    return float(len(text))\n",
    )  # fmt: skip
    write_plugin(folder, "my-cluster", {"radpo.executors": "cluster = cluster:EXECUTOR"}, cluster=EXECUTOR)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize("failure", ["import no_such_module", "1 / 0", "raise SystemExit(3)", "def broken(:"])
def test_a_package_that_cannot_be_imported_is_warned_about_once_and_hurts_no_other(site: Path, failure: str) -> None:
    write_plugin(site, "sick-package", {"radpo.judges": "sick = sick:KIND"}, sick=failure)
    with pytest.warns(PluginWarning, match=r"radpo.judges 'sick' of sick-package 1.0 \(sick:KIND\)") as told:
        found = load_plugins("radpo.judges", JudgeKind)
    assert len(told) == 1
    assert list(found) == ["openai", "panel", "reward-model", "verifier", "lengths"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(load_plugins("radpo.judges", JudgeKind)) == list(found), "told once"
        assert find_judge("lengths").name == "lengths", "what is not asked for is not imported"
    with pytest.raises(ConfigError, match=r"radpo.judges 'sick' of sick-package 1.0 .* cannot be loaded"):
        find_judge("sick")


@pytest.mark.parametrize("line", ["no equals sign", "sick = not a place", "sick ="])
def test_metadata_that_cannot_be_parsed_hurt_no_other_package(site: Path, line: str) -> None:
    write_plugin(site, "sick-package", {"radpo.judges": line})
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        found = load_plugins("radpo.judges", JudgeKind)
    assert {"verifier", "lengths"} <= found.keys()
    assert find_judge("lengths").name == "lengths"


def test_what_is_no_plug_in_of_its_kind_is_refused(site: Path) -> None:
    write_plugin(site, "sick-package", {"radpo.judges": "sick = sick:KIND"}, sick="KIND = 3")
    with pytest.raises(ConfigError, match=r"sick-package 1.0 \(sick:KIND\) is no JudgeKind, but int"):
        find_judge("sick")


def test_a_name_of_radpos_own_cannot_be_taken(site: Path) -> None:
    write_plugin(site, "sick-package", {"radpo.judges": "verifier = mine.judge:KIND"})
    with pytest.warns(PluginWarning, match=r"'verifier' of sick-package 1.0 is ignored: radpo .* has that name"):
        assert plugins.is_own(plugin_entries("radpo.judges")["verifier"])


def test_what_is_installed_meanwhile_is_found(site: Path) -> None:
    assert "later" not in plugin_entries("radpo.judges")
    write_plugin(site, "later", {"radpo.judges": "later = mine.judge:KIND"})
    assert "later" in plugin_entries("radpo.judges")


def test_metadata_of_an_older_radpo_are_named_as_the_cause() -> None:
    with pytest.raises(ConfigError, match=r"name none of its own radpo.nothing.*install it again"):
        plugin_entries("radpo.nothing")


def test_every_module_of_a_package_is_part_of_its_code(site: Path) -> None:
    entry = plugin_entries("radpo.judges")["lengths"]
    before = plugin_code(entry)
    assert before is not None
    assert before.startswith("mine==1.0 mine.judge:KIND sha256:")
    (site / "mine" / "helper.py").write_text("def length(text):\n    return 1.0\n")
    assert plugin_code(entry) != before
    assert plugin_code(plugin_entries("radpo.judges")["verifier"]) is None
    assert plugin_code(EntryPoint("gone", "no_such_package:KIND", "radpo.judges")) is not None


def matrix(folder: Path, **more: object) -> Path:
    model = folder / "model"
    if not model.exists():
        write_model(model)
        write_preferences(scored_pairs([(9, 3), (8, 4)]), folder / "pairs.parquet")
        (folder / "questions.jsonl").write_text('{"question_id": "1", "turns": ["What?"]}\n')
    document = {
        "name": "small",
        "model": str(model),
        "variants": {"base": None, "dpo": None},
        "data": {name: {"path": "pairs.parquet"} for name in ("train", "heldout")},
        "benchmarks": {"mt-bench": {"questions": {"path": "questions.jsonl"}, "judge": "lengths"}},
        **more,
    }
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_judges_code_is_part_of_the_key_of_what_it_judged_and_of_nothing_else(site: Path, tmp_path: Path) -> None:
    def keys() -> dict[str, str]:
        return {stage.name: stage.key for stage in expand(load_matrix(matrix(tmp_path))).stages}

    before = keys()
    (site / "mine" / "helper.py").write_text("def length(text):\n    return 1.0\n")
    changed = {name for name, key in keys().items() if before[name] != key}
    assert changed == {"mt-bench/base/seed-0", "mt-bench/dpo/seed-0"}


def test_an_executor_has_options_of_its_own(site: Path) -> None:
    written = ExecutorChoice.model_validate({"kind": "cluster", "partition": "gpu", "minutes": 5})
    _, jobs, options = choose_executor(written, None, {})("store", 3)  # type: ignore[arg-type, misc]
    assert (jobs, options.partition, options.minutes) == (3, "gpu", 5)
    _, _, options = choose_executor(written, "cluster", {"partition": "cpu"})("store", None)  # type: ignore[arg-type, misc]
    assert (options.partition, options.minutes) == ("cpu", 5), "the command line's go over the matrix file's"
    with pytest.raises(ConfigError, match="executor cluster, partition: Field required"):
        choose_executor(None, "cluster", {})
    with pytest.raises(ConfigError, match="executor local: no setting 'address'; allowed: none"):
        choose_executor(None, None, {"address": "auto"})
    ours = find_executor("ray").make("store", 2, find_executor("ray").Settings(address="auto"))  # type: ignore[arg-type, call-arg]
    assert ours._address == "auto"  # type: ignore[attr-defined]


def test_an_executors_options_in_a_matrix_file_are_checked(site: Path, tmp_path: Path) -> None:
    chosen = load_matrix(matrix(tmp_path, executor={"kind": "cluster", "partition": "gpu"})).executor
    assert chosen is not None
    assert (chosen.kind, chosen.options) == ("cluster", {"partition": "gpu"})
    for wrong, said in [
        ({"kind": "cluster", "partion": "gpu"}, r"no setting 'partion'; allowed: partition, minutes; did you mean"),
        ("clutser", r"no such executor; there are local, ray, slurm, cluster; did you mean 'cluster'"),
    ]:
        with pytest.raises(ConfigError, match=rf"matrix.yaml:\d+: executor: .*{said}"):
            load_matrix(matrix(tmp_path, executor=wrong))


def test_an_executor_is_no_part_of_a_key(site: Path, tmp_path: Path) -> None:
    plain = [stage.key for stage in expand(load_matrix(matrix(tmp_path))).stages]
    chosen = matrix(tmp_path, executor={"kind": "cluster", "partition": "gpu"})
    assert [stage.key for stage in expand(load_matrix(chosen)).stages] == plain


def test_the_schema_has_each_executors_options(site: Path) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(matrix_schema()["$defs"]["ExecutorChoice"])
    for good in ("ray", {"kind": "ray", "address": "auto"}, {"kind": "cluster", "partition": "gpu"}, "local"):
        assert validator.is_valid(good), good
    for bad in ("nobody", {"kind": "cluster"}, {"kind": "ray", "partition": "gpu"}, 3):
        assert not validator.is_valid(bad), bad


def test_the_schema_has_each_judges_settings(site: Path) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(matrix_schema()["$defs"]["JudgeSettings"])
    for good in ("verifier", "lengths", {}, {"kind": "lengths"}, {"kind": "openai", "model": "m", "max_cost": 3}):
        assert validator.is_valid(good), good
    for bad in ("nobody", {"kind": "openai"}, {"kind": "lengths", "model": "m"}, {"kind": "openai", "modle": "m"}):
        assert not validator.is_valid(bad), bad


def test_doctor_names_what_packages_add_and_what_is_broken(site: Path) -> None:
    write_plugin(site, "sick-package", {"radpo.variants": "sick = sick:KIND"}, sick="1 / 0")
    found = doctor.plugins()
    assert found.pop("radpo.variants sick").startswith("broken: radpo.variants 'sick' of sick-package 1.0 (sick:KIND)")
    assert found == {"radpo.judges lengths": "mine 1.0", "radpo.executors cluster": "my-cluster 1.0"}


def test_an_executor_object_is_what_its_entry_point_leads_to(site: Path) -> None:
    found = find_executor("cluster")
    assert isinstance(found, Executor)
    assert found.name == "cluster"


def test_a_broken_benchmark_that_a_matrix_names_is_said_to_be_broken_and_why(site: Path, tmp_path: Path) -> None:
    write_plugin(site, "sick-package", {"radpo.benchmarks": "sick = sick:BENCHMARK"}, sick="1 / 0")
    path = matrix(tmp_path, benchmarks={"sick": {}})
    told = (
        r"yaml:\d+: benchmarks.sick: radpo.benchmarks 'sick' of sick-package 1.0 .* cannot be loaded: ZeroDivisionError"
    )
    with pytest.raises(ConfigError, match=told):
        load_matrix(path)
