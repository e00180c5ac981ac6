"""The plan: what stages take, checked against counting, closed forms and the torch model itself; and its cells."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cheap_stages import run_inline, stage
from factories import scored_pairs, write_model
from typer.testing import CliRunner

import radpo
from radpo.benchmarks.registry import stage_costs, stage_functions
from radpo.benchmarks.sizes import Sizes
from radpo.benchmarks.work import Work
from radpo.cli.main import app
from radpo.core.errors import ConfigError
from radpo.core.machine import describe_machine
from radpo.engine.store import Store
from radpo.matrix import training_stages
from radpo.matrix.estimate import count_work, estimate, wall_seconds
from radpo.matrix.expand import Plan, expand
from radpo.matrix.loading import load_matrix
from radpo.matrix.machines import Machine, corrections, find_machine, seconds
from radpo.matrix.plan_text import plan_json, plan_text
from radpo.preferences.writing import write_preferences

HERE = Machine("here", 1e11, 2e11, 1e10, 1e-3, threads=1, this=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    write_model(folder / "model")
    write_model(folder / "other", template="{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}")
    write_preferences(scored_pairs([(9, 3), (7, 6), (10, 1), (6, 5.5)]), folder / "pairs.jsonl")
    rows = [{"question_id": f"q{n}", "category": "a", "turns": ["Say five.", "And more."]} for n in range(3)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def planned(place: Path, **changes: Any) -> Plan:
    document = {
        "name": "small",
        "model": str(place / "model"),
        "variants": {"base": None, "dpo": None, "ra-dpo": None},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl", "limit": 2}},
        "training": {"batch_size": 2, "per_device_train_batch_size": 2, "num_train_epochs": 3},
        "benchmarks": {
            "unlearning": {},
            "mt-bench": {
                "questions": {"path": "questions.jsonl"},
                "sampling": {"max_new_tokens": 7, "batch_size": 2},
            },
        },
        **changes,
    }
    path = place / "matrix.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    return expand(load_matrix(path))


def works(plan: Plan) -> dict[str, Work]:
    estimator = Sizes()
    return {one.name: work for one in plan.stages if (work := count_work(estimator, one)) is not None}


def test_every_kind_of_stage_has_an_estimate() -> None:
    assert training_stages.FUNCTIONS.keys() == training_stages.COSTS.keys()
    assert stage_functions().keys() == stage_costs().keys()


def test_samples_are_drawn_and_read_by_each_model(place: Path) -> None:
    questions = {"questions": {"path": "questions.jsonl"}, "max_new_tokens": 7, "batch_size": 4, "per_prompt": 2}
    both = {"reward-kl": questions, "calibration": {**questions, "goals": [1, 10]}}
    plan = planned(place, benchmarks=both, variants={"base": None, "dpo": None})
    work = works(plan)
    model = Sizes().model(next(one for one in plan.stages if one.name.startswith("samples/base")))
    prompt = model.count(["Say five."])[0] + model.overhead
    drawn = work["reward-kl/base/seed-0"]
    assert drawn.judge_calls == 6
    plain = work["samples/dpo/seed-0/reward-kl"]
    assert plain.generated_tokens == 3 * 2 * 7
    assert plain.decode_steps == 2 * 7
    # Six prompts are read to draw, then by policy and by reference with the answers behind them.
    assert plain.prefill_tokens == 3 * 6 * prompt + 2 * 6 * 7
    asked = work["calibration/dpo/seed-0"]
    assert asked.judge_calls == 3 * 2 * 3


def test_parameters_are_those_that_compute(place: Path) -> None:
    from transformers import AutoModelForCausalLM

    work = works(planned(place))["train/dpo/seed-0"]
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    embedding = model.get_input_embeddings().weight
    assert embedding is not model.get_output_embeddings().weight
    assert work.parameters == sum(p.numel() for p in model.parameters()) - embedding.numel()
    assert work.layers == 2


def test_training_tokens_are_counted_with_the_models_tokenizer(place: Path) -> None:
    """A byte-level tokenizer without merges: a token is a byte."""
    counted = works(planned(place))
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    overhead = 32
    plain = sum(
        len(row["prompt"][0]["content"].encode())
        + overhead
        + len(row["chosen"].encode())
        + len(row["rejected"].encode())
        for row in rows
    )
    assert counted["reference/plain"].prefill_tokens == plain
    assert counted["train/dpo/seed-0"].trained_tokens == 3 * plain
    doubled = counted["train/ra-dpo/seed-0"].trained_tokens
    assert doubled == 3 * (2 * plain + 2 * 4 * 42), "twice the pairs, each with a goal, its prompt read once"
    work = counted["train/dpo/seed-0"]
    assert work.flops == work.parameters * (6 * work.trained_tokens + 2 * work.prefill_tokens)
    assert work.disk_bytes == 4 * work.parameters


def test_answers_and_judge_calls_are_counted(place: Path) -> None:
    counted = works(planned(place))
    answers = counted["generate/base/seed-0/questions"]
    assert answers.generated_tokens == 3 * 2 * 7
    assert answers.decode_steps == 2 * 2 * 7, "two turns, each in two batches"
    assert counted["mt-bench/base/seed-0"].judge_calls == 6
    assert counted["mt-bench/base/seed-0"].judge_dollars == 0, "a program judges"


def test_a_judge_that_is_paid_is_priced_by_its_tokens(place: Path) -> None:
    plan = planned(place, benchmarks={
        "alpaca-eval": {"questions": {"path": "questions.jsonl"}, "sampling": {"max_new_tokens": 7}},
    })  # fmt: skip
    judged = next(one for one in plan.stages if one.name == "alpaca-eval/dpo/seed-0")
    paid = replace(
        judged,
        settings={**judged.settings, "judge": "openai", "swap_check": 50},
        hints={"judge_settings": {"price_in": 2.0, "price_out": 8.0}},
    )
    work = count_work(Sizes(), paid)
    assert work is not None
    assert work.judge_calls == 2 * 3 * 2, "both orders of every pair of answers"
    asked = 3 * sum(len(turn) for turn in ("Say five.", "And more."))
    assert work.judge_prompt_tokens == 2 * asked + 12 * 2 * 7
    assert work.judge_dollars == pytest.approx((2.0 * work.judge_prompt_tokens + 8.0 * 12 * 200) / 1e6)
    unpriced = count_work(Sizes(), replace(paid, hints={}))
    assert unpriced is not None
    assert unpriced.judge_dollars is None


def test_seconds_follow_the_machine() -> None:
    work = Work(parameters=10**9, layers=10, trained_tokens=1e6)
    slow, fast = (Machine("m", rate, rate, 1e12, 1e-3) for rate in (1e12, 1e13))
    start = seconds("train", Work(), slow)
    assert seconds("train", work, slow) - start == pytest.approx(10 * (seconds("train", work, fast) - start))
    writing = Work(parameters=10**9, layers=10, generated_tokens=100, decode_steps=100)
    bound = Machine("m", 1e15, 1e15, 1e11, 0.0)
    taken = seconds("generate", writing, bound) - seconds("generate", Work(parameters=10**9), bound)
    assert taken == pytest.approx(100 * 2e9 / 1e11), "a step reads every weight once, in bfloat16"


def test_a_plan_with_nothing_to_do_states_its_zeros(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    expected = estimate([], Store(folder), find_machine("h100-sxm", 1), 1, {})
    assert "0 to do: 0 tokens, 0 FLOP," in plan_text("done", expected, folder)


def test_what_was_measured_corrects_the_guess_for_its_own_kind(tmp_path: Path) -> None:
    store, work = Store(tmp_path), Work(parameters=10**8, prefill_tokens=1e4)
    stages = [stage(f"s{n}", n) for n in range(3)]
    run_inline(store, *stages, notes={one.key: {"work": asdict(work)} for one in stages[:2]})
    threads = store.record(stages[0].key)["machine"]["threads"]
    here = Machine("here", 1e11, 1e11, 1e10, 1e-3, threads=threads, this=True)
    measured = [store.record(one.key)["seconds"] / seconds("write", work, here) for one in stages[:2]]
    assert corrections(store, here) == {"write": pytest.approx(sum(measured) / 2)}
    assert corrections(store, Machine("gpu", 1e14, 1e14, 1e12, 1e-3)) == {}
    other = Machine("here", 1e11, 1e11, 1e10, 1e-3, threads=threads + 1, this=True)
    assert corrections(store, other) == {}


@pytest.mark.parametrize(("jobs", "expected"), [(1, 13.0), (2, 9.0), (4, 6.0)])
def test_wall_time_is_that_of_a_list_schedule(jobs: int, expected: float) -> None:
    first = stage("first", 1)
    rest = [stage(f"s{n}", n, first=first) for n in range(10, 13)]
    took = {first.key: 2.0, rest[0].key: 4.0, rest[1].key: 4.0, rest[2].key: 3.0}
    assert wall_seconds([first, *rest], took, jobs) == expected


def test_a_stage_on_several_gpus_takes_their_places_together() -> None:
    first, wide, last = stage("first", 1), stage("wide", 2), stage("last", 3)
    took = {first.key: 1.0, wide.key: 2.0, last.key: 4.0}
    assert wall_seconds([first, wide, last], took, 2, {wide.key: 2}) == 1 + 2 + 4
    assert wall_seconds([last, wide, first], took, 3, {wide.key: 2}) == 4
    assert wall_seconds([wide], took, 1, {wide.key: 8}) == 2


def test_the_plan_says_what_it_comes_to(place: Path, tmp_path: Path) -> None:
    from radpo.matrix.estimate import estimate

    plan = planned(place)
    expected = estimate(plan.stages, Store(tmp_path / "none"), HERE, 2)
    document = json.loads(json.dumps(plan_json("small", expected)))
    assert document["to_do"]["stages"] == len(plan.stages) == len(document["stages"])
    assert document["all"]["tokens"] == sum(one["tokens"] for one in document["stages"])
    assert document["to_do"]["judge_calls"] == 3 * 6
    assert 0 < document["wall_seconds"] <= sum(one["seconds"] for one in document["stages"])
    text = plan_text("small", expected, tmp_path)
    assert f"small: {len(plan.stages)} stages, {len(plan.stages)} to do" in text
    assert "18 judge calls, $0.00" in text


def test_what_cannot_be_counted_is_said_and_in_no_sum(place: Path, tmp_path: Path) -> None:
    from radpo.matrix.estimate import estimate

    plan = planned(place, benchmarks={"academic": {"tasks": ["hellaswag"]}}, variants={"base": None})
    expected = estimate(plan.stages, Store(tmp_path), HERE, 1)
    assert plan_json("small", expected)["not_estimated"] == ["academic/base/seed-0"]
    assert plan_json("small", expected)["stages"][0]["tokens"] is None
    assert "Not estimated, and in no sum: academic/base/seed-0" in plan_text("small", expected, tmp_path)


def test_too_small_a_disk_is_said(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from radpo.matrix.estimate import estimate

    expected = estimate(planned(place).stages, Store(tmp_path), HERE, 1)
    assert "NOT ENOUGH DISK" not in plan_text("small", expected, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))  # type: ignore[attr-defined]
    assert "NOT ENOUGH DISK" in plan_text("small", expected, tmp_path)


def test_a_machine_that_is_none_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="--machine 'h10': no such machine; there are here, a100-80gb, h100-sxm"):
        find_machine("h10", 1)
    assert find_machine("h100-sxm", 1).bfloat16 < 989e12


def test_this_machine_is_measured() -> None:
    machine = find_machine("here", 1)
    assert machine.this
    assert 1e8 < machine.float32 < 1e16
    assert 1e8 < machine.bandwidth < 1e14
    assert describe_machine()["cores"] >= 1


def test_models_share_the_checked_pairs_and_nothing_else(place: Path) -> None:
    both = planned(place, model=None, models=[str(place / "model"), str(place / "other")])
    one = planned(place)
    assert len(both.cells) == 2 * len(one.cells)
    shared = [stage for stage in one.stages if stage.function_name == "pairs"]
    assert len(shared) == 2
    assert len(both.stages) == 2 * len(one.stages) - len(shared)
    assert {one.key for one in one.stages} < {one.key for one in both.stages}
    assert len({one.name for one in both.stages}) == len(both.stages), "each has a name of its own"


def test_cells_that_are_left_out_cost_nothing(place: Path) -> None:
    plan = planned(place, exclude=[{"variant": "ra-dpo"}])
    assert {cell.variant for cell in plan.cells} == {"base", "dpo"}
    assert not any("ra-dpo" in one.name for one in plan.stages)
    with pytest.raises(ConfigError, match="leave no cell"):
        planned(place, exclude=[{"seed": 0}])


def test_resources_are_for_stages_that_there_are_and_no_part_of_a_key(place: Path) -> None:
    plain = {one.name: one.key for one in planned(place).stages}
    asked = planned(place, resources={"train": {"cpus": 4, "gpus": 1, "memory_gib": 40}})
    assert {one.name: one.key for one in asked.stages} == plain
    train = next(one for one in asked.stages if one.name == "train/dpo/seed-0")
    assert train.hints["resources"] == {"cpus": 4, "gpus": 1.0, "memory_gib": 40.0}
    with pytest.raises(ConfigError, match=r"resources\.trian: no such stage; .*did you mean 'train'"):
        planned(place, resources={"trian": {}})


def test_what_is_wrong_as_a_matrix_is_expanded_has_its_file_and_line(place: Path) -> None:
    path = place / "given.yaml"
    path.write_text(
        f"name: given\nmodel: {place / 'model'}\nvariants: {{base: , mine: {{checkpoint: {place / 'model'}}}}}\n"
        "data: {heldout: {path: pairs.jsonl}}\nbenchmarks:\n  implicit-reward: {}\n"
    )
    told = r"given\.yaml:6: benchmarks\.implicit-reward\.beta: missing: .*variant 'mine'"
    with pytest.raises(ConfigError, match=told):
        radpo.plan(path)
    with pytest.raises(ConfigError, match=told):
        radpo.run(path, out=place / "given")


def test_a_file_in_the_run_directorys_place_is_told_before_anything_is_done(place: Path) -> None:
    path = place / "plain.yaml"
    path.write_text("name: plain\nmodel: smollm2-135m-instruct\nvariants: {base: }\nbenchmarks: {}\n")
    for out in (path, path / "below"):
        with pytest.raises(ConfigError, match=r"plain\.yaml: is a file, .*--out"):
            radpo.plan(path, out=out)


@pytest.mark.parametrize(
    ("changes", "redone"),
    [
        ({"save_every": 3}, set()),
        ({"name": "other"}, set()),
        ({"seeds": [0, 1]}, set()),
        ({"training": {"batch_size": 2, "per_device_train_batch_size": 2, "num_train_epochs": 2}}, {"train"}),
        ({"data": {"train": {"path": "pairs.jsonl", "limit": 3}, "heldout": {"path": "pairs.jsonl", "limit": 2}}},
         {"pairs", "relabel", "reference", "train"}),
        ({"benchmarks": {"unlearning": {"high_score": 6}}}, {"unlearning"}),
        ({"model": "other"}, {"relabel", "reference", "train", "likelihood", "unlearning", "generate", "mt-bench"}),
    ],
)  # fmt: skip
def test_a_change_redoes_what_it_changes_and_no_more(place: Path, changes: dict[str, Any], redone: set[str]) -> None:
    if "model" in changes:
        changes = {"model": str(place / "other")}
    before = {one.key for one in planned(place).stages}
    after = planned(place, **changes)
    new = [one for one in after.stages if one.key not in before]
    if "seeds" in changes:
        new = [one for one in new if "/seed-1" not in one.name]
    direct = {
        one.function_name
        for one in new
        if not any(needed.key not in before and needed.function_name == "train" for needed in one.inputs.values())
        and not any(needed in new and needed.inputs.get("policy") for needed in one.inputs.values())
    }
    assert direct == redone


def test_plan_and_schema_through_the_command_line(place: Path, tmp_path: Path) -> None:
    planned(place)
    words = ["plan", str(place / "matrix.yaml"), "--store", str(tmp_path), "--machine", "h100-sxm", "--jobs", "2"]
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    document = json.loads(done.stdout)
    assert document["machine"]["name"] == "h100-sxm"
    assert document["jobs"] == 2
    text = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert "train/ra-dpo/seed-0" in text
    schema = json.loads(CliRunner().invoke(app, ["schema"], catch_exceptions=False).stdout)
    assert {"model", "models", "variants", "benchmarks"} <= schema["properties"].keys()
