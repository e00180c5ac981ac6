"""Matrix files that extend one another, state sizes of what is not here, and carry published figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from factories import scored_pairs, write_model

from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import Work
from radpo.core.errors import ConfigError, ModelError
from radpo.engine.store import Store
from radpo.matrix.estimate import count_work, estimate
from radpo.matrix.expand import expand
from radpo.matrix.layers import overridden
from radpo.matrix.loading import load_matrix
from radpo.matrix.machines import KNOWN, find_machine, seconds
from radpo.matrix.manifest import resolved
from radpo.matrix.plan_text import plan_json, plan_text
from radpo.matrix.schema import matrix_schema
from radpo.preferences.writing import write_preferences

BASE = """
name: base
model: smollm2-135m-instruct
variants:
  base:
  dpo: {training: {beta: 0.5}}
data:
  train: {path: pairs.jsonl}
  heldout: {path: pairs.jsonl, limit: 2}
training: {batch_size: 4, per_device_train_batch_size: 2}
benchmarks:
  unlearning: {}
  mt-bench:
    questions: {path: pairs.jsonl}
"""


def write(folder: Path, **files: str) -> Path:
    (folder / "pairs.jsonl").write_text("{}\n")
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_a_file_begins_with_the_one_that_it_extends(tmp_path: Path) -> None:
    top = "extends: middle.yaml\nname: top\nvariants: {ra-dpo: , dpo: {training: {beta: 0.2}}}\n"
    middle = "extends: base.yaml\nseeds: [1, 2]\ntraining: {beta: 0.3}\nbenchmarks: {mt-bench: }\n"
    matrix = load_matrix(write(tmp_path, top=top, middle=middle, base=BASE))
    assert (matrix.name, matrix.seeds, list(matrix.variants)) == ("top", (1, 2), ["base", "dpo", "ra-dpo"])
    assert (matrix.training_for("dpo").beta, matrix.training_for("ra-dpo").beta) == (0.2, 0.3)
    assert (matrix.training.batch_size, matrix.benchmarks.mt_bench) == (4, None), "null takes a section back"
    whole = yaml.safe_load(BASE) | {"name": "top", "seeds": [1, 2]}
    whole["variants"] |= {"dpo": {"training": {"beta": 0.2}}, "ra-dpo": None}
    whole["training"] |= {"beta": 0.3}
    whole["benchmarks"] = {"unlearning": {}}
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    assert matrix == load_matrix(tmp_path / "whole.yaml"), "the same matrix as written in one file"
    asked = {"questions": {"path": str(tmp_path / "pairs.jsonl")}}
    with overridden({"benchmarks": {"unlearning": None, "mt-bench": asked}}):
        assert list(load_matrix(tmp_path / "top.yaml").benchmarks.named()) == ["mt-bench"]


@pytest.mark.parametrize(
    ("top", "told"),
    [
        ("extends: base.yaml\nseeds: []\n", r"top.yaml:2: seeds: "),
        ("extends: base.yaml\ntraining: {bta: 1}\n", r"top.yaml:2: training.bta: no such key.*did you mean 'beta'"),
        ("extends: bad.yaml\n", r"bad.yaml:3: training.beta: -1"),
        ("extends: bas.yaml\n", r"bas.yaml: no such file"),
        ("extends: top.yaml\n", r"top.yaml: extends: 'top.yaml': a matrix file cannot extend itself"),
        ("extends: loop.yaml\n", r"loop.yaml: extends: 'top.yaml': a matrix file cannot extend itself"),
        ("extends: [a]\n", r"top.yaml: extends: must be the path of a matrix file"),
    ],
)
def test_an_error_names_the_file_in_which_it_was_written(tmp_path: Path, top: str, told: str) -> None:
    bad = "extends: base.yaml\ntraining:\n  beta: -1\n"
    path = write(tmp_path, top=top, base=BASE, bad=bad, loop="extends: top.yaml\n")
    with pytest.raises(ConfigError, match=told):
        load_matrix(path)


def test_the_schema_takes_a_file_that_extends_another() -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(matrix_schema())
    assert list(validator.iter_errors({"extends": "base.yaml", "seeds": [1]})) == []
    assert list(validator.iter_errors({"extends": "base.yaml", "seeds": []}))
    assert list(validator.iter_errors({"seeds": [1]})), "without it, what a matrix needs is needed"


COLUMNS = "variant,benchmark,subset,metric,value,source\n"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("a,b\n", r"figures.csv:1: the columns must be variant,benchmark,subset,metric,value,source"),
        ("", r"figures.csv:1: the columns must be"),
        (COLUMNS + "dpo,mt-bench,all,score,8\n", r"figures.csv:2: must have 6 cells"),
        (COLUMNS + "dpo,mt-bench,all,score,8,x,y\n", r"figures.csv:2: must have 6 cells"),
        (COLUMNS + "dpo,mt-bench,all,,8,x\n", r"figures.csv:2: metric: empty"),
        (
            COLUMNS + "dpoo,mt-bench,all,score,8,x\n",
            r"figures.csv:2: variant: 'dpoo' is none of base, dpo; did you mean",
        ),
        (COLUMNS + "dpo,mtbench,all,score,8,x\n", r"figures.csv:2: benchmark: 'mtbench' is none of .*mean 'mt-bench'"),
        (COLUMNS + "base,mt-bench,all,score,7,x\ndpo,mt-bench,all,score,high,x\n", r":3: value: 'high' is no number"),
        (COLUMNS + "dpo,mt-bench,all,score,nan,x\n", r"figures.csv:2: value: 'nan' is no number"),
        (COLUMNS + "dpo,mt-bench,all,score,8,x\ndpo,mt-bench,all,score,9,x\n", r":3: the same figure as in row 2"),
        (COLUMNS + 'dpo,"mt', r"figures.csv: cannot be read as CSV"),
    ],
)
def test_published_figures_are_checked_and_the_error_names_file_row_and_column(
    tmp_path: Path, rows: str, told: str
) -> None:
    (tmp_path / "figures.csv").write_text(rows)
    path = write(tmp_path, top=BASE + "published: figures.csv\n")
    with pytest.raises(ConfigError, match=rf"top.yaml:\d+: published: .*{told}"):
        load_matrix(path)


def test_published_figures_are_no_part_of_a_key_nor_are_size_hints(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    text = BASE.replace("smollm2-135m-instruct", str(tmp_path / "model"))
    plain = expand(load_matrix(write(tmp_path, plain=text)))
    (tmp_path / "figures.csv").write_text(COLUMNS + "dpo,mt-bench,all,score,8.1,a paper\n")
    hints = f"size_hints: {{models: {{'{tmp_path}/model': {{parameters: 1, layers: 1}}}}}}\n"
    told = expand(load_matrix(write(tmp_path, told=text + "published: figures.csv\n" + hints)))
    assert {one.key for one in plain.stages} == {one.key for one in told.stages}
    document = resolved(told)
    assert document["published"] == "published.csv"
    assert "size_hints" not in document
    assert str(tmp_path) not in yaml.safe_dump(document).replace(str(tmp_path / "model"), "")


def test_the_date_that_templates_print_is_in_every_key_and_the_usual_one_is_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model")
    text = BASE.replace("smollm2-135m-instruct", str(tmp_path / "model"))

    def keys(name: str, more: str = "") -> set[str]:
        return {stage.key for stage in expand(load_matrix(write(tmp_path, **{name: text + more}))).stages}

    usual = keys("none")
    assert keys("usual", "date: 2024-07-26\n") == usual
    dated = keys("dated", "date: 2026-10-02\n")
    assert not dated & usual
    monkeypatch.setenv("RADPO_DATE", "2026-10-02")
    assert keys("by_environment") == dated
    assert keys("usual", "date: 2024-07-26\n") == usual, "the matrix goes before the environment"
    with pytest.raises(ConfigError, match=r"date: 'soon'"):
        keys("bad", "date: soon\n")


STATED = """
size_hints:
  models: {some/model: {parameters: 1.0e9, layers: 10}}
  pairs: {pairs.jsonl: {rows: 1000, prompt: 100, chosen: 200, rejected: 300}}
  questions: {questions.jsonl: {rows: 80, turns: 2, prompt: 50, answer: 300}}
  tasks: {"gsm8k:5": {rows: 100, read: 900, written: 64}}
"""


def absent(folder: Path, text: str = STATED, **changes: Any) -> Path:
    document = {
        "name": "absent",
        "model": "some/model",
        "variants": {"base": None, "ra-dpo": None},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl", "limit": 10}},
        "benchmarks": {
            "unlearning": {},
            "mt-bench": {"questions": {"path": "questions.jsonl"}, "sampling": {"batch_size": 80}},
            "academic": {"tasks": ["gsm8k:5"], "batch_size": 10},
        },
        **changes,
    }
    (folder / "absent.yaml").write_text(yaml.safe_dump(document) + text)
    return folder / "absent.yaml"


def test_what_is_not_here_is_planned_by_its_size_hints(tmp_path: Path) -> None:
    matrix = load_matrix(absent(tmp_path), planning=True)
    plan = expand(matrix, planning=True)
    estimator = Sizes(matrix.size_hints)
    works = {one.name: work for one in plan.stages if (work := count_work(estimator, one)) is not None}
    assert works.keys() == {one.name for one in plan.stages}
    prompt, goal = 100 + 32, 42
    assert works["reference/ra"].prefill_tokens == 2 * 1000 * (prompt + goal + 200 + 300)
    train = works["train/ra-dpo/seed-0"]
    assert train.trained_tokens == works["reference/ra"].prefill_tokens
    assert (train.parameters, train.layers, train.memory_bytes) == (10**9, 10, 16 * 10**9)
    answers = works["generate/base/seed-0/questions"]
    assert answers.generated_tokens == 80 * 2 * 300
    assert answers.prefill_tokens == 80 * (50 + 32) + 80 * (2 * 50 + 32 + 300)
    assert works["mt-bench/base/seed-0"].judge_calls == 160
    academic = works["academic/base/seed-0"]
    assert (academic.prefill_tokens, academic.generated_tokens, academic.decode_steps) == (90_000, 6400, 640)

    expected = estimate(plan.stages, Store(tmp_path / "none"), find_machine("8xh100", 1), 8, matrix.size_hints)
    document = plan_json("absent", expected, plan.absent)
    assert set(document["size_hints"]) == {"some/model", "pairs.jsonl", "questions.jsonl"}
    assert document["gpu_hours"] == pytest.approx(
        sum(one["seconds"] for one in document["stages"] if one["flops"]) / 3600, abs=1e-3
    )
    text = plan_text("absent", expected, tmp_path, plan.absent)
    assert "Not here; their sizes are those that the matrix states: some/model, " in text
    assert "GPU hours, every stage on one GPU, 8 at once. Speeds are by NVIDIA's data sheet" in text


def test_what_is_neither_here_nor_hinted_at_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="some/model"):
        expand(load_matrix(absent(tmp_path, ""), planning=True), planning=True)
    only_model = "size_hints: {models: {some/model: {parameters: 1.0e9, layers: 10}}}\n"
    matrix = load_matrix(absent(tmp_path, only_model), planning=True)
    with pytest.raises(ConfigError, match=r"questions.jsonl: is not here; .* its size under size_hints.questions"):
        estimate(expand(matrix, planning=True).stages, Store(tmp_path), KNOWN["h100-sxm"], 1, matrix.size_hints)
    with pytest.raises(ConfigError, match=r"absent.yaml:\d+: data.train.path: .*pairs.jsonl does not exist"):
        load_matrix(absent(tmp_path))
    with pytest.raises(ConfigError, match=r"size_hints.models.some/model.layers: missing"):
        load_matrix(absent(tmp_path, "size_hints: {models: {some/model: {parameters: 1}}}\n"), planning=True)


def test_what_is_here_is_counted_whatever_the_hints_say(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    write_preferences(scored_pairs([(9, 3), (7, 6)]), tmp_path / "pairs.jsonl")
    text = STATED.replace("some/model", str(tmp_path / "model"))
    benchmarks = {"unlearning": {}}
    matrix = load_matrix(absent(tmp_path, text, model=str(tmp_path / "model"), benchmarks=benchmarks), planning=True)
    plan = expand(matrix, planning=True)
    assert plan.absent == []
    estimator = Sizes(matrix.size_hints)
    for one in plan.stages:
        work, counted = count_work(estimator, one), count_work(Sizes(), one)
        assert work == counted


def test_several_gpus_are_one_gpu_several_times() -> None:
    one, eight = find_machine("h100-sxm", 1), find_machine("8xh100-sxm", 1)
    assert (eight.name, eight.gpus, one.gpus) == ("8xh100-sxm", 8, 1)
    work = Work(parameters=10**9, layers=10, trained_tokens=1e6)
    assert seconds("train", work, eight) == seconds("train", work, one)
    assert find_machine("8xh100", 1) == eight
    for wrong in ("0xh100", "8xh10", "8x", "x8", "h"):
        with pytest.raises(ConfigError, match="no such machine"):
            find_machine(wrong, 1)


@pytest.mark.parametrize(
    ("machine", "gpus", "too_large"),
    [("h100-sxm", 1, True), ("8xh100-sxm", 1, True), ("8xh100-sxm", 8, False), ("h100-sxm", 8, True),
     ("h200-sxm", 1, False)],
)  # fmt: skip
def test_training_that_its_gpus_do_not_hold_is_said(tmp_path: Path, machine: str, gpus: int, too_large: bool) -> None:
    text = STATED.replace("1.0e9", "7.0e9")
    matrix = load_matrix(absent(tmp_path, text, resources={"train": {"gpus": gpus}}), planning=True)
    stages = expand(matrix, planning=True).stages
    found = find_machine(machine, 1)
    expected = estimate(stages, Store(tmp_path), found, found.gpus, matrix.size_hints)
    named = ["train/ra-dpo/seed-0"] if too_large else []
    assert plan_json("absent", expected)["too_large_for_its_gpus"] == named
    assert ("NOT ENOUGH GPU MEMORY" in plan_text("absent", expected, tmp_path)) is too_large


def test_training_on_several_gpus_takes_as_many_gpu_hours_in_less_time(tmp_path: Path) -> None:
    taken = {}
    for gpus in (1, 4):
        matrix = load_matrix(absent(tmp_path, resources={"train": {"gpus": gpus}}), planning=True)
        stages = expand(matrix, planning=True).stages
        expected = estimate(stages, Store(tmp_path), find_machine("8xh100", 1), 8, matrix.size_hints)
        (train,) = [item for item in expected.stages if item.stage.function_name == "train"]
        assert train.gpus == gpus
        taken[gpus] = (train.seconds or 0.0, expected.gpu_hours)
    assert taken[1][0] == pytest.approx(4 * taken[4][0])
    assert taken[1][1] == pytest.approx(taken[4][1])


def test_values_of_the_command_line_go_over_the_files_and_are_named_in_errors(tmp_path: Path) -> None:
    from radpo.cli.options import parse_pairs
    from radpo.matrix.layers import nested, overridden

    path = write(tmp_path, top="extends: base.yaml\nname: top\n", base=BASE)

    def load(*words: str) -> Any:
        with overridden(nested(parse_pairs("KEY=VALUE", list(words)))):
            return load_matrix(path)

    found = load(
        "training.beta=0.05", "seeds=[3, 4]", "variants.dpo.training.loss_type=ipo", "benchmarks.mt-bench=null"
    )
    assert (found.training.beta, found.seeds, found.benchmarks.mt_bench) == (0.05, (3, 4), None)
    assert found.training_for("dpo").loss == "ipo"
    assert load_matrix(path).training.beta == 0.01, "of that reading alone"
    for word, told in (
        ("training.bta=1", r"command line: training.bta: no such key; .*did you mean 'beta'"),
        ("training.gradient_accumulation_steps=4", r"command line: training.gradient_.*; here it is batch_size"),
        ("training.beta=-1", r"command line: training.beta: -1: .*greater than 0"),
        ("trainin.beta=1", r"command line: trainin: no such key; .*did you mean 'training'"),
        ("beta", r"KEY=VALUE 'beta': must be KEY=VALUE"),
    ):
        with pytest.raises(ConfigError, match=told):
            load(word)
    with pytest.raises(ConfigError, match=r"training.beta: given twice on the command line, or within another key"):
        load("training=1", "training.beta=1")


def test_settings_of_trl_that_radpo_has_in_another_form_are_answered_with_it() -> None:
    from radpo.training.settings import parse_settings

    assert parse_settings(["loss_type=ipo", "attn_implementation=sdpa"]).loss == "ipo"
    for word, told in (
        ("bf16=true", r"--set bf16: .*; here it is precision: bfloat16"),
        ("lerning_rate=1", r"--set lerning_rate: .*did you mean 'learning_rate'"),
        ("loss_type=nope", r"--set loss: Input should be .*'sigmoid'"),
    ):
        with pytest.raises(ConfigError, match=told):
            parse_settings([word])
