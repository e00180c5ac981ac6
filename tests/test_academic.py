"""Academic tasks give lm-eval's own values, offline, with local data, under the checkpoint's own chat template."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from factories import TEMPLATE, write_model

from radpo.benchmarks import academic
from radpo.benchmarks.academic import AcademicRun, run, scores, write_run
from radpo.benchmarks.task_files import files_outside
from radpo.core.errors import ConfigError, DataError, ModelError
from radpo.engine.graph import Stage, Task
from radpo.matrix.expand import expand
from radpo.matrix.loading import load_matrix

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
    monkeypatch.chdir(place / "tasks")  # lm-eval takes data_files from where the process runs
    write_rows(Path("data/colours.jsonl"), [{"question": f"Which colour is {n}?", "answer": n % 3} for n in range(6)])
    theirs = direct(place, tasks=["colours", "sums"])
    found = {(r.subset, r.metric): r for r in scores(outcome).results}
    assert set(found) == {("colours", "acc"), ("colours", "acc_norm"), ("sums", "exact_match")}
    for (task, metric), result in found.items():
        assert result.value == theirs["results"][task][f"{metric},none"]
        error = theirs["results"][task][f"{metric}_stderr,none"]
        assert result.stderr == (None if error == 0 else error), "all right or all wrong: no error is known"
    assert found["colours", "acc"].n == 6
    assert found["sums", "exact_match"].n == 4
    assert outcome.lm_eval_results["results"] == theirs["results"]


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


def direct(place, model="model", **settings):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    return simple_evaluate(
        model=HFLM(pretrained=str(place / model), device="cpu", dtype="float32", batch_size=4),
        task_manager=TaskManager(include_path=str(place / "tasks"), include_defaults=False),
        apply_chat_template=True, **settings,
    )  # fmt: skip


def test_values_are_those_of_lm_evals_own_command(place, tmp_path, outcome, monkeypatch):
    from lm_eval.__main__ import cli_evaluate

    command = [
        "lm_eval", "--model", "hf", "--model_args", f"pretrained={place / 'model'},dtype=float32",
        "--tasks", "colours,sums", "--include_path", str(place / "tasks"), "--apply_chat_template", "--batch_size", "4",
        "--device", "cpu", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    monkeypatch.chdir(place / "tasks")
    monkeypatch.setattr(sys, "argv", command)
    cli_evaluate()
    (file,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(file.read_text())
    assert outcome.lm_eval_results["results"] == theirs["results"]
    assert outcome.lm_eval_results["configs"].keys() == theirs["configs"].keys()
    assert outcome.lm_eval_results["n-shot"] == theirs["n-shot"]


def test_the_model_class_radpo_works_in_lm_evals_own_command(place, tmp_path, outcome, monkeypatch):
    from typer.testing import CliRunner

    from radpo.cli.main import app

    monkeypatch.chdir(place / "tasks")
    command = [
        "lm-eval", "run", "--model", "radpo", "--model_args", f"pretrained={place / 'model'},dtype=float32",
        "--tasks", "colours,sums", "--include_path", ".", "--apply_chat_template", "--batch_size", "4",
        "--device", "cpu", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(file.read_text())
    assert theirs["config"]["model"] == "radpo"
    assert outcome.lm_eval_results["results"] == theirs["results"]


def test_few_shot_counts_are_as_asked_and_stated(place, monkeypatch):
    ours = run(place / "model", ["sums:3", "colours"], place / "tasks", batch_size=4, precision="float32")
    assert "academic: few-shot examples: 0 for colours; 3 for sums." in scores(ours).notes
    monkeypatch.chdir(place / "tasks")
    theirs = direct(place, tasks=["sums"], num_fewshot=3)
    assert theirs["samples"]["sums"][0]["arguments"] == ours.samples["sums"][0]["arguments"]
    assert ours.lm_eval_results["results"]["sums"] == theirs["results"]["sums"]
    with pytest.raises(ConfigError, match="this is a tag"):
        run(place / "model", ["small:3"], place / "tasks")


def test_the_papers_six_are_there_with_their_counts():
    import lm_eval.tasks

    wanted, _ = academic._wanted(["paper", "ifeval"], None)
    assert wanted == {
        "gsm8k": 5, "leaderboard_gpqa": 0, "leaderboard_musr": 0, "truthfulqa_mc2": 0, "leaderboard_bbh": 3,
        "arc_challenge": 25, "ifeval": None,
    }  # fmt: skip
    folder = Path(lm_eval.tasks.__file__).parent
    places = ("gsm8k", "leaderboard", "truthfulqa", "arc", "ifeval")
    texts = [path.read_text() for place in places for path in (folder / place).rglob("*.yaml")]
    named = {
        line.split(":")[1].strip() for text in texts for line in text.splitlines() if line[:5] in ("task:", "group")
    }
    assert wanted.keys() <= named


def test_a_task_may_be_given_as_its_yaml_file(place, outcome):
    again = run(place / "model", [str(place / "tasks" / "sums.yaml")], precision="float32")
    assert again.lm_eval_results["results"]["sums"] == outcome.lm_eval_results["results"]["sums"]
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        run(place / "model", ["none.yaml"])


def test_another_goal_is_set_in_the_template(place, tmp_path):
    from radpo.preferences.goals import goal_aware_template

    model = write_model(tmp_path / "goal", goal_aware_template(TEMPLATE, best=10.0, placement="system"))
    for goal, shown in (("default", "Overall score: 10."), (7.0, "Overall score: 7."), (None, "")):
        given = run(model, ["sums"], place / "tasks", goal=goal, limit=1, precision="float32")
        prompt = given.samples["sums"][0]["arguments"][0][0]
        assert shown in prompt
        assert ("Overall score" in prompt) is bool(shown)
    with pytest.raises(ModelError, match="takes no goal"):
        run(place / "model", ["sums"], place / "tasks", goal=7.0)


def test_a_run_is_kept_with_lm_evals_own_document_and_a_row_a_document(outcome, tmp_path):
    write_run(outcome, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "lm_eval.json").read_text()) == outcome.lm_eval_results
    assert len(pd.read_parquet(tmp_path / "out" / "examples.parquet")) == 10


def put_together(*runs: AcademicRun, out: Path) -> Path:
    """What the stage writes that puts the results of several tasks together."""
    for number, one in enumerate(runs):
        write_run(one, out / f"task-{number:03}")
    (out / "all").mkdir()
    inputs = {f"task-{number:03}": out / f"task-{number:03}" for number in range(len(runs))}
    task = Task(
        Stage("s", "f", academic.BENCHMARK.functions["academic-scores"], {}), inputs, out / "all", lambda *of: None
    )
    task.stage.function.run(task)
    return out / "all"


def same_tables(first: Path, second: Path, *, order: bool = True) -> None:
    for table, by in (("results.parquet", ["subset", "metric"]), ("examples.parquet", ["subset", "example_id"])):
        frames = [pd.read_parquet(folder / table) for folder in (first, second)]
        if not order:
            frames = [frame.sort_values(by, ignore_index=True) for frame in frames]
        pd.testing.assert_frame_equal(*frames)
    notes = [json.loads((folder / "notes.json").read_text()) for folder in (first, second)]
    assert notes[0] == notes[1]
    documents = [json.loads((folder / "lm_eval.json").read_text()) for folder in (first, second)]
    for document in documents:
        for config in document["configs"].values():
            del config["dataset_kwargs"]  # where the rows lie
    for key in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks"):
        assert documents[0][key] == documents[1][key], key
    assert documents[0].keys() == documents[1].keys()


def test_tasks_one_by_one_give_what_they_give_at_once(place, outcome, tmp_path):
    one_by_one = [run(place / "model", [name], place / "tasks", batch_size=4, precision="float32")
                  for name in ("colours", "sums")]  # fmt: skip
    write_run(outcome, tmp_path / "at once")
    same_tables(put_together(*one_by_one, out=tmp_path / "one by one"), tmp_path / "at once")
    # A group that holds one of them, with a figure of its own: the task goes by the group, as where both are asked.
    tasks = write_tasks(tmp_path / "tasks")
    aggregate = "aggregate_metric_list: [{metric: acc, aggregation: mean}]"
    (tasks / "all.yaml").write_text(f"group: all\ntask: [colours]\n{aggregate}\n")
    grouped = run(place / "model", ["all", "sums"], tasks, batch_size=4, precision="float32")
    write_run(grouped, tmp_path / "grouped")
    group = run(place / "model", ["all"], tasks, batch_size=4, precision="float32")
    same_tables(put_together(group, *one_by_one, out=tmp_path / "with a group"), tmp_path / "grouped", order=False)


def test_several_tasks_are_stages_of_their_own_which_matrices_share(place, tmp_path):
    def stages_of(*tasks: str) -> dict[str, Stage]:
        section = {"tasks": list(tasks), "include": str(place / "tasks")}
        document = {
            "name": "m",
            "model": str(place / "model"),
            "variants": {"base": None},
            "benchmarks": {"academic": section},
        }
        (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(document))
        return {stage.name: stage for stage in expand(load_matrix(tmp_path / "matrix.yaml")).stages}

    alone, both = stages_of("sums:1"), stages_of("colours", "sums:1")
    assert set(both) == {"academic-scores/base/seed-0", "academic/base/seed-0/colours", "academic/base/seed-0/sums:1"}
    assert set(alone) == {"academic/base/seed-0"}
    assert alone["academic/base/seed-0"].key == both["academic/base/seed-0/sums:1"].key
    assert len(stages_of("colours", "sums", "colours")) == 3, "one that is named twice is one"


def test_results_document_is_json_with_versions(outcome):
    document = json.loads(json.dumps(outcome.lm_eval_results))
    assert document["lm_eval_version"] == "0.4.13"
    assert "samples" not in document


def test_the_machine_is_asked_about_once_in_a_process(place, outcome, monkeypatch):
    from torch.utils import collect_env

    monkeypatch.setattr(collect_env, "get_env_info", lambda: pytest.fail("it takes seconds, and is known"))
    again = run(place / "model", ["colours"], place / "tasks", limit=1).lm_eval_results["pretty_env_info"]
    assert again == outcome.lm_eval_results["pretty_env_info"]
    assert "PyTorch version" in again


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


# --- the context


@pytest.fixture(scope="module")
def short(tmp_path_factory, place) -> Path:
    """The same model with a context of 100 tokens, and a generation config that would change what is generated."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("short")
    config = AutoConfig.from_pretrained(place / "model")
    config.max_position_embeddings = 100
    AutoModelForCausalLM.from_pretrained(place / "model", config=config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(place / "model").save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 0, "pad_token_id": 1, "repetition_penalty": 9.0, "min_new_tokens": 3})
    )
    return folder


@pytest.mark.parametrize(("task", "generated"), [("sums", 4), ("colours", 0)])
def test_prompts_that_lm_eval_cuts_are_counted_and_shown_as_read(place, short, tmp_path, task, generated):
    from transformers import AutoTokenizer

    tasks = tmp_path / "tasks"
    write_tasks(tasks)
    rows = [{"question": "x" * size, "answer": size % 3 if task == "colours" else "0"} for size in (5, 20, 120)]
    write_rows(tasks / ("data/colours.jsonl" if task == "colours" else "sums.jsonl"), rows)
    outcome = run(short, [f"{task}:0"], tasks, batch_size=3, precision="float32")
    given = scores(outcome)
    tokenizer = AutoTokenizer.from_pretrained(short)
    whole = f"<user>{'x' * 120}</s><assistant>"
    ids = tokenizer(whole)["input_ids"]
    longest = max(len(tokenizer(text)["input_ids"]) for text in ("red", "green", "blue"))
    kept = 100 - generated if generated else 100 + 1 - longest
    example = next(e for e in given.examples if e.example_id == "2")
    assert example.prompt == tokenizer.decode(ids[-kept:])
    detail = json.loads(example.detail)
    assert (detail["prompt_tokens"], detail["prompt_tokens_cut"]) == (len(ids), len(ids) - kept)
    (note,) = [note for note in given.notes if "did not fit" in note]
    assert note.startswith(f"academic, {task}: 1 of 3 prompts did not fit the model's context")
    assert f"(up to {len(ids) - kept} of {len(ids)})" in note
    others = [e for e in given.examples if e.example_id != "2"]
    assert [e.prompt for e in others] == [f"<user>{'x' * size}</s><assistant>" for size in (5, 20)]
    assert all("prompt_tokens_cut" not in json.loads(e.detail) for e in others)


def test_values_of_cut_prompts_are_lm_evals_and_generated_text_follows_the_task_alone(place, short, monkeypatch):
    monkeypatch.chdir(place / "tasks")
    ours = run(short, ["colours:3", "sums"], place / "tasks", batch_size=4, precision="float32")
    theirs = direct(place, short, tasks=["colours"], num_fewshot=3)
    assert len(ours.cuts) == 18
    assert ours.lm_eval_results["results"]["colours"] == theirs["results"]["colours"]
    plain = run(place / "model", ["sums"], place / "tasks", precision="float32")
    assert [s["resps"] for s in ours.samples["sums"]] == [s["resps"] for s in plain.samples["sums"]]
    leaking = direct(place, short, tasks=["sums"])
    assert [s["resps"] for s in ours.samples["sums"]] != [s["resps"] for s in leaking["samples"]["sums"]]


def test_a_task_that_generates_more_than_the_context_is_refused_before_work_begins(place, short, tmp_path):
    tasks = write_tasks(tmp_path / "tasks")
    (tasks / "sums.yaml").write_text(TEXT_TASK.replace("max_gen_toks: 4", "max_gen_toks: 100"))
    with pytest.raises(ModelError, match=r"task sums: it generates up to 100 tokens, and the model's context of 100"):
        run(short, ["sums"], tasks)


@pytest.mark.parametrize("refuses", [True, False])
def test_a_tasks_description_is_not_lost_where_the_template_takes_no_system_message(place, tmp_path, refuses):
    """lm-eval leaves it out where a template refuses a system message; some templates leave it out themselves."""
    check = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" if refuses else ""
    rendered = "{% for m in messages %}{% if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endif %}"
    prompt = "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    model = write_model(tmp_path / "model", check + rendered + prompt)
    document = yaml.safe_load(TEXT_TASK)
    document |= {"task": "described", "description": "Answer in one word, not </s>."}
    (tmp_path / "described.yaml").write_text(yaml.safe_dump(document))
    write_rows(tmp_path / "sums.jsonl", [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(4)])
    found = scores(run(model, ["described"], tmp_path, limit=2, precision="float32"))
    assert all("<user>Answer in one word, not </s>." in example.prompt for example in found.examples)
    assert any("in 2 of 2 prompts the task's description opens the user's first message" in n for n in found.notes)
    assert any("2 of 2 prompts hold the tokenizer's own control tokens" in note for note in found.notes)


FUNCTION_TASK = """
include: common/base.yaml
task: outer
dataset_path: json
dataset_kwargs: {data_files: ../rows/*.jsonl}
test_split: train
doc_to_text: !function utils.ask
"""
BASE_TASK = """
output_type: generate_until
doc_to_target: !function helper.answer
generation_kwargs: {max_gen_toks: 4, do_sample: false, until: []}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def test_files_that_tasks_name_outside_their_folder_are_found(tmp_path):
    tasks = tmp_path / "tasks"
    write_rows(tmp_path / "rows" / "a.jsonl", [{"question": "1?", "answer": "1"}])
    for name, text in {
        "outer.yaml": FUNCTION_TASK,
        "utils.py": "import json\n",
        "more.py": "",
        "common/base.yaml": BASE_TASK,
        "common/helper.py": "",
        "all.yaml": "group: all\ntask: [outer, {task: own, dataset_path: ../saved}]\n",
        "unasked.yaml": "task: unasked\ndataset_kwargs: {data_files: ../unasked.jsonl}\n",
        "../unasked.jsonl": "{}",
        "../saved/data.jsonl": "{}",
        ".hidden/x.jsonl": "{}",
    }.items():
        (tasks / name).parent.mkdir(parents=True, exist_ok=True)
        (tasks / name).write_text(text)

    def found(names: list[str], include: Path | None) -> list[str]:
        files = files_outside(names, include)
        return [path.resolve().relative_to(tmp_path).as_posix() for path in files]

    assert found(["outer"], tasks) == ["rows/a.jsonl"], "what the folder holds counts with it"
    assert found(["all"], tasks) == ["rows/a.jsonl", "saved/data.jsonl"]
    alone = ["tasks/outer.yaml", "tasks/more.py", "tasks/utils.py", "tasks/common/base.yaml"]
    assert found([str(tasks / "outer.yaml")], None) == [*alone, "tasks/common/helper.py", "rows/a.jsonl"]
    assert found(["gsm8k", "nowhere.yaml"], tasks) == []


def test_rows_and_functions_are_those_of_the_files_and_not_of_an_older_cache(place, tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows, code = tasks / "rows.jsonl", tasks / "utils.py"
    (tasks / "echo.yaml").write_text(
        TEXT_TASK.replace("sums", "echo").replace("data_files: echo.jsonl", "data_files: rows.jsonl").replace(
            '"{{question}}"', "!function utils.ask"
        )
    )  # fmt: skip
    prompts = []
    for number in (1, 2):
        write_rows(rows, [{"question": f"of {number}?", "answer": "1"}])
        code.write_text(f"def ask(doc):\n    return 'version {number}, ' + doc['question']\n")
        for path in (rows, code):  # as a tool leaves it that restores times, or a file system with coarse ones
            os.utime(path, (1_700_000_000, 1_700_000_000))
        sys.modules.pop(str(code.with_suffix("")), None)  # a worker process of its own
        found = run(place / "model", ["echo"], tasks, precision="float32")
        prompts.append(found.samples["echo"][0]["arguments"][0][0])
        assert "cache_dir" not in found.lm_eval_results["configs"]["echo"]["dataset_kwargs"]
    assert ["version 1, of 1?" in prompts[0], "version 2, of 2?" in prompts[1]] == [True, True]
    assert sorted(path.name for path in tasks.iterdir()) == ["echo.yaml", "rows.jsonl", "utils.py"], "nothing is left"
