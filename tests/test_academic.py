"""Academic tasks give lm-eval's own values, offline, with local data, under the checkpoint's own chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from factories import TEMPLATE, write_model

from radpo.errors import ConfigError, DataError, ModelError
from radpo.harness.academic import AcademicRun, run, scores

GOAL_TEMPLATE = "{% if goal is not defined %}{% set goal = 10 %}{% endif %}Overall score: {{ goal }}." + TEMPLATE

CHOICE_TASK = """
task: colours
tag: small
dataset_path: json
dataset_kwargs:
  data_files: {test: data/colours.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [red, green, blue]
doc_to_target: answer
metric_list:
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
TEXT_TASK = """
task: sums
tag: small
dataset_path: json
dataset_kwargs:
  data_files: sums.jsonl
test_split: train
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
generation_kwargs: {max_gen_toks: 4, do_sample: false, until: []}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tasks(folder: Path) -> Path:
    folder.mkdir()
    (folder / "colours.yaml").write_text(CHOICE_TASK)
    (folder / "sums.yaml").write_text(TEXT_TASK)
    write_rows(
        folder / "data" / "colours.jsonl", [{"question": f"Which colour is {n}?", "answer": n % 3} for n in range(6)]
    )
    write_rows(folder / "sums.jsonl", [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(4)])
    return folder


@pytest.fixture(scope="module")
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory, offline) -> Path:
    folder = tmp_path_factory.mktemp("academic")
    write_tasks(folder / "tasks")
    write_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def outcome(place) -> AcademicRun:
    return run(place / "model", ["colours", "sums"], place / "tasks", batch_size=4, precision="float32")


def test_values_are_those_of_lm_eval_called_directly(place, outcome, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(place / "tasks")  # lm-eval takes data_files from where the process runs
    write_rows(Path("data/colours.jsonl"), [{"question": f"Which colour is {n}?", "answer": n % 3} for n in range(6)])
    direct = simple_evaluate(
        model=HFLM(pretrained=str(place / "model"), device="cpu", dtype="float32", batch_size=4),
        tasks=["colours", "sums"],
        task_manager=TaskManager(include_path=str(place / "tasks"), include_defaults=False),
        apply_chat_template=True,
    )
    found = {(r.subset, r.metric): r for r in scores(outcome).results}
    assert set(found) == {("colours", "acc"), ("colours", "acc_norm"), ("sums", "exact_match")}
    for (task, metric), result in found.items():
        assert result.value == direct["results"][task][f"{metric},none"]
        assert result.stderr == direct["results"][task][f"{metric}_stderr,none"]
    assert found["colours", "acc"].n == 6
    assert found["sums", "exact_match"].n == 4
    assert outcome.lm_eval_results["results"] == direct["results"]


def test_primary_is_the_first_listed_metric(outcome):
    primary = {(r.subset, r.metric) for r in scores(outcome).results if r.primary}
    assert primary == {("colours", "acc_norm"), ("sums", "exact_match")}


def test_examples_show_what_was_asked_and_answered(outcome):
    given = scores(outcome)
    for result in (r for r in given.results if r.primary):
        values = [e.value for e in given.examples if (e.subset, e.metric) == (result.subset, result.metric)]
        assert (sum(values) / len(values), len(values)) == (pytest.approx(result.value), result.n)
    choice = next(e for e in given.examples if (e.subset, e.example_id) == ("colours", "2"))
    assert choice.prompt == "<user>Which colour is 2?</s><assistant>"
    detail = json.loads(choice.detail)
    assert detail["target"] == 2
    assert choice.output == detail["choices"][max(range(3), key=detail["logps"].__getitem__)]
    text = next(e for e in given.examples if e.subset == "sums")
    assert text.output == outcome.samples["sums"][0]["resps"][0][0]


def test_results_document_is_json_with_versions(outcome):
    document = json.loads(json.dumps(outcome.lm_eval_results))
    assert document["lm_eval_version"] == "0.4.13"
    assert "samples" not in document


def test_tags_limits_and_goal_aware_templates_work_together(place, tmp_path):
    seen = []
    model = write_model(tmp_path / "goal", GOAL_TEMPLATE)
    outcome = run(
        model, ["small"], place / "tasks", limit=2, precision="float32", progress=lambda *step: seen.append(step)
    )
    given = scores(outcome)
    assert {(r.subset, r.n) for r in given.results} == {("colours", 2), ("sums", 2)}
    assert all(e.prompt.startswith("Overall score: 10.<user>") for e in given.examples)
    assert (seen[0], seen[-1]) == ((0, 1), (1, 1))


def test_the_folder_that_the_process_runs_in_does_not_matter(place, tmp_path, monkeypatch, outcome):
    monkeypatch.chdir(tmp_path)
    again = run(place / "model", ["sums"], place / "tasks", precision="float32")
    assert again.lm_eval_results["results"]["sums"] == outcome.lm_eval_results["results"]["sums"]


def test_unknown_tasks_and_missing_data_are_named(place, tmp_path):
    with pytest.raises(ConfigError, match=r"task 'colors'.*did you mean.*colours"):
        run(place / "model", ["colors"], place / "tasks")
    tasks = write_tasks(tmp_path / "tasks")
    (tasks / "sums.jsonl").unlink()
    with pytest.raises(DataError, match=r"sums.yaml: data_files names sums.jsonl"):
        run(place / "model", ["sums"], tasks)
    with pytest.raises(ConfigError, match="no such folder"):
        run(place / "model", ["sums"], tmp_path / "nowhere")


def test_a_checkpoint_without_a_chat_template_is_refused(place, tmp_path):
    with pytest.raises(ModelError, match="no chat template"):
        run(write_model(tmp_path / "bare", None), ["sums"], place / "tasks")


def test_a_group_with_its_own_figure_is_primary_in_place_of_its_tasks():
    figures = {"acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 4}
    document = {
        "results": {"both": {**figures, "sample_len": 8}, "one": figures, "two": {**figures, "acc_stderr,none": "N/A"}},
        "groups": {"both": figures},
        "group_subtasks": {"both": ["one", "two"]},
        "configs": {},
        "higher_is_better": {name: {"acc": True} for name in ("both", "one", "two")},
    }
    results = {r.subset: r for r in scores(AcademicRun(document, {})).results}
    assert [name for name, result in results.items() if result.primary] == ["both"]
    assert results["two"].stderr is None
    assert results["both"].n == 8
