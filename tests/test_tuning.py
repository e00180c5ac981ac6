"""Tuning: what is tried, what is chosen, and that no reported prompt takes part in the choice."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from cheap_training import without_model, without_reports
from factories import scored_pairs, write_model

import radpo
from radpo import api
from radpo.core.errors import ConfigError
from radpo.engine.schedule import StageError
from radpo.matrix.expand import Plan, expand
from radpo.matrix.loading import load_matrix
from radpo.preferences.preferences import load_preferences
from radpo.preferences.questions import Question
from radpo.preferences.shares import first_message, in_share, place_of, taken
from radpo.preferences.writing import write_preferences
from radpo.stats.tuning import chosen, expected_best

RATES, BETAS = [1e-4, 1e-3, 1e-2], [0.1, 0.5]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tuning") / "model")


def write(folder: Path, model: Path, tune: dict[str, Any] | None, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    pairs = scored_pairs([(9, 3), (7, 6), (10, 1), (6, 5.5)] * 10)
    for name, part in (("train", pairs[:8]), ("tuning", pairs[8:18]), ("heldout", pairs[18:])):
        write_preferences(part, folder / f"{name}.jsonl")
    document = {
        "name": "tuned",
        **({} if "models" in more else {"model": str(model)}),
        "seeds": [0, 1],
        "variants": {"base": None, "dpo": None, "ra-dpo": None},
        "data": {"train": {"path": "train.jsonl"}, "heldout": {"path": "heldout.jsonl"}},
        "benchmarks": {"implicit-reward": {}, "unlearning": {}},
        **({} if tune is None else {"tune": tune}),
        **more,
    }
    path = folder / "matrix.yaml"
    document = {key: value for key, value in document.items() if value is not None}
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


FILES = {
    "training": {"learning_rate": RATES, "beta": BETAS},
    "metric": "implicit-reward/none/accuracy",
    "heldout": {"path": "tuning.jsonl"},
}
SPLIT = {**{key: value for key, value in FILES.items() if key != "heldout"}, "split": 0.5}


def tried_keys(plan: Plan) -> list[str]:
    assert plan.tuning is not None
    return [stage.key for cell in plan.tuning.cells for stage in cell.wanted]


def test_the_expected_best_is_that_of_every_draw_written_out() -> None:
    """The mean of the best over all draws with, and all subsets without replacement; the range holds 95% of draws."""
    scores = [0.3, -1.0, 0.9, 0.9, 0.1]
    for upward, best in ((True, max), (False, min)):
        for found in expected_best(scores, upward=upward):
            draws = sorted(best(draw) for draw in itertools.product(scores, repeat=found.budget))
            subsets = [best(draw) for draw in itertools.combinations(scores, found.budget)]
            assert found.value == pytest.approx(np.mean(draws))
            assert found.unbiased == pytest.approx(np.mean(subsets))
            inside = np.mean([found.low <= draw <= found.high for draw in draws])
            assert inside >= 0.95
            assert {found.low, found.high} <= set(scores)
        assert found.unbiased == best(scores)


def test_the_best_mean_over_all_seeds_is_chosen_and_the_first_of_equals() -> None:
    assert chosen([{0: 1, 1: 2}, {0: 3, 1: 0}, {0: 2, 1: 1}], [0, 1], upward=True) == 0
    assert chosen([{0: 1, 1: 2}, {0: 3, 1: 0.5}], [0, 1], upward=True) == 1
    assert chosen([{0: 1, 1: 2}, {0: 3, 1: 0.5}], [0, 1], upward=False) == 0
    assert chosen([{0: 9}, {0: 9, 1: float("nan")}, {0: 1, 1: 1}], [0, 1], upward=True) == 2
    assert chosen([{0: 9}], [0, 1], upward=True) is None


def test_the_choice_is_within_one_step_of_the_best_setting() -> None:
    """7 x 5 settings with a known best, a step costs 1, noise of standard deviation 1 a seed, 3 seeds: 95% of runs."""
    rng, near, runs = np.random.default_rng(0), 0, 400
    grid = list(itertools.product(range(7), range(5)))
    for _ in range(runs):
        best = grid[rng.integers(len(grid))]
        true = np.array([-abs(row - best[0]) - abs(column - best[1]) for row, column in grid], dtype=float)
        noisy = true[:, None] + rng.normal(size=(len(grid), 3))
        place = chosen([dict(enumerate(map(float, values))) for values in noisy], [0, 1, 2], upward=True)
        assert place is not None
        near += max(abs(grid[place][0] - best[0]), abs(grid[place][1] - best[1])) <= 1
    assert near / runs >= 0.95


def test_a_prompt_is_on_one_side_of_a_split_in_every_file() -> None:
    texts = [f"What is {number}?" for number in range(2_000)]
    places = np.array([place_of(text) for text in texts])
    assert abs(np.mean(places < 0.3) - 0.3) < 0.03
    assert place_of("What is 1?") == place_of("  what IS\n1 ") == pytest.approx(0.39144, abs=1e-5)
    assert place_of("?!") != place_of("!?")
    questions = [Question(str(n), "", (text, "And then?"), ((), ())) for n, text in enumerate(texts)]
    tuning, reported = taken(questions, None, (0, 0.3)), taken(questions, None, (0.3, 1))
    assert sorted(q.turns[0] for q in (*tuning, *reported)) == sorted(texts)
    assert len(taken(questions, 5, (0, 0.3))) == 5
    pair = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": texts[7]}]
    assert in_share(first_message(pair), (0, 0.3)) == (texts[7] in {q.turns[0] for q in tuning})


def test_a_trial_is_the_cell_of_a_variant_that_is_written_with_its_settings(tmp_path: Path, model: Path) -> None:
    """Its stages have the same keys, so that matrices share them through the store."""
    tuned = expand(load_matrix(write(tmp_path / "tuned", model, FILES)))
    swept = {"dpo": None, "ra-dpo": None, "base": None}
    more = {
        "variants": {name: one and dict(one) for name, one in swept.items()},
        "training": {"learning_rate": RATES, "beta": BETAS},
        "data": {"train": {"path": "train.jsonl"}, "heldout": {"path": "tuning.jsonl"}},
    }
    hand = expand(load_matrix(write(tmp_path / "hand", model, None, **more)))
    assert tuned.tuning is not None
    by_name = {(cell.variant, cell.seed): cell for cell in hand.cells}
    assert len(tuned.tuning.cells) == 2 * 6 * 2
    for cell in tuned.tuning.cells:
        other = by_name[cell.variant, cell.seed]
        assert cell.train is not None
        assert other.train is not None
        assert cell.train.key == other.train.key
        assert cell.benchmarks["implicit-reward"].key == other.benchmarks["implicit-reward"].key
        assert set(cell.benchmarks) == {"implicit-reward"}, "nothing else is measured of what is only tried"


def test_the_reported_split_changes_no_stage_that_is_tried(tmp_path: Path, model: Path) -> None:
    path = write(tmp_path, model, FILES)
    before = expand(load_matrix(path))
    write_preferences(scored_pairs([(8, 2)] * 50)[42:], tmp_path / "heldout.jsonl")
    after = expand(load_matrix(path))
    assert tried_keys(before) == tried_keys(after)
    scoring = [{c.benchmarks["unlearning"].key for c in plan.cells} for plan in (before, after)]
    assert scoring[0].isdisjoint(scoring[1]), "the reported stages do read it"


def test_prompts_that_are_tuned_on_and_reported_are_refused_with_their_number(tmp_path: Path, model: Path) -> None:
    path = write(tmp_path, model, FILES)
    rows = [json.loads(line) for line in (tmp_path / "heldout.jsonl").read_text().splitlines()]
    for row in rows[:3]:  # the same words, otherwise punctuated, under another id
        row["id"] += "-again"
        row["prompt"][-1]["content"] = row["prompt"][-1]["content"].upper() + " ..."
    with (tmp_path / "tuning.jsonl").open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows[:3])
    with pytest.raises(ConfigError, match="tune: 3 of 22 reported prompts are tuned on, too"):
        expand(load_matrix(path))
    split = expand(load_matrix(write(tmp_path / "split", model, SPLIT)))
    assert split.tuning is not None
    assert split.tuning.prompts.tuning + split.tuning.prompts.reported == 22


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "implicit-rewards/accuracy"}, r"tune.metric.*none of the matrix's benchmarks.*did you mean"),
        ({"metric": "implicit-reward/acuracy"}, r"tune.metric.*its metrics are accuracy.*did you mean 'accuracy'"),
        ({"metric": "implicit-reward/none/confidence"}, r"tune.better: missing"),
        ({"better": "lower"}, r"tune.better.*the other direction"),
        ({"training": {"betas": [1, 2]}}, r"tune.training.*betas: no such training setting; did you mean 'beta"),
        ({"training": {"beta": [0.1, -1]}}, r"tune.training.beta.*-1"),
        ({"training": {"beta": [0.1, 0.1]}}, r"a value is there twice"),
        ({"split": 0.5}, r"either split, or the files"),
        ({"heldout": None}, r"either split, or the files"),
        ({"budget": 0}, r"tune.budget"),
    ],
)
def test_a_wrong_tune_is_told_with_its_key(tmp_path: Path, model: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"matrix.yaml:\d+: .*{said}"):
        load_matrix(write(tmp_path, model, {**FILES, **change}))


def test_variants_say_what_of_the_tuning_is_theirs(tmp_path: Path, model: Path) -> None:
    variants = {
        "base": None,
        "dpo": None,
        "hot": {"extends": "dpo", "training": {"learning_rate": 0.1}},
        "few": {"extends": "dpo", "tune": {"budget": 4}},
        "more": {"extends": "dpo", "tune": {"budget": 5}},
        "own": {"extends": "dpo", "tune": {"training": {"beta": [1.0], "loss": ["ipo", "hinge"]}}},
        "fixed": {"extends": "dpo", "tune": False},
    }
    tried = load_matrix(write(tmp_path, model, FILES, variants=variants)).trials
    assert {name: len(each) for name, each in tried.items()} == {"dpo": 6, "hot": 2, "few": 4, "more": 5, "own": 6}
    assert [trial.name for trial in tried["hot"]] == ["hot-beta=0.1", "hot-beta=0.5"]
    places = {name: {tuple(t.values.values()) for t in tried[name]} for name in ("dpo", "few", "more")}
    assert places["few"] < places["more"] < places["dpo"], "a larger budget tries the same and more"
    assert {t.values["loss"] for t in tried["own"]} == {"ipo", "hinge"}
    with pytest.raises(ConfigError, match=r"variants.base.tune: the variant is not trained"):
        load_matrix(write(tmp_path, model, FILES, variants={**variants, "base": {"tune": {"budget": 1}}}))
    with pytest.raises(ConfigError, match=r"variants.few.tune: the matrix itself has no tune"):
        load_matrix(write(tmp_path, model, None, variants=variants))


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return without_model(monkeypatch)


ONE = {"benchmarks": {"implicit-reward": {}}, "variants": {"base": None, "dpo": None}}


def test_a_tuned_run_tries_chooses_reports_and_resumes(
    tmp_path: Path, model: Path, cheap: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, model, {**FILES, "budget": 5}, **ONE)
    planned = api.plan(path, tmp_path / "run")
    assert "settings tried: 5 of dpo, with 2 seeds each" in str(planned)
    assert "the choice is yet to be made" in str(planned)
    assert planned.to_json()["tuning"]["prompts"] == {"tuning": 10, "reported": 22, "similar": 0}

    api.run(path, tmp_path / "run")
    tried = sum(name.startswith("train/tuning/") for name in cheap)
    assert tried == 10
    assert sorted(name for name in cheap if name.startswith("train/dpo/")) == ["train/dpo/seed-0", "train/dpo/seed-1"]
    assert cheap.index("train/dpo/seed-0") > max(n for n, name in enumerate(cheap) if "/tuning/" in name)

    document = json.loads((tmp_path / "run" / "choices.json").read_text())
    choice = document["variants"]["dpo"]
    means = [trial["mean"] for trial in choice["trials"]]
    assert choice["value"] == max(means)
    assert choice["chosen"] == {"learning_rate": 1e-3, "beta": 0.5}
    assert document["metric"] == "implicit-reward/none/accuracy"
    run = radpo.load_run(tmp_path / "run")
    assert run.variants == ["base", "dpo"]
    assert run.manifest["variants"]["dpo"]["training"]["learning_rate"] == 1e-3
    assert run.sources[0].settings is not None
    assert run.sources[0].settings["variants"]["dpo"]["training"] == choice["chosen"]
    rows = run.results[run.results["benchmark"] == "tuning"]
    seeds = rows[rows["metric"] == "accuracy"]
    assert len(seeds) == 10
    assert seeds.groupby("subset", sort=False)["value"].mean().tolist() == pytest.approx(means)
    budgets = rows[rows["metric"] == "expected_best"]["value"].tolist()
    assert budgets == pytest.approx([best.value for best in expected_best(means, upward=True)])
    assert rows[(rows["metric"] == "chosen") & (rows["value"] == 1)]["subset"].tolist() == [
        "learning_rate=0.001, beta=0.5"
    ]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Chosen: dpo with learning_rate=0.001, beta=0.5." in report

    before = list(cheap)
    assert api.run(path, tmp_path / "run").unchanged
    assert cheap == before
    assert "the settings are chosen" in str(api.plan(path, tmp_path / "run"))
    without_reports(monkeypatch)
    api.run(write(tmp_path, model, {**FILES, "budget": 6}, **ONE), tmp_path / "run")
    added = [name for name in cheap[len(before) :] if name.startswith("train/")]
    assert len(added) == 2, "the sixth setting with either seed is all that is new"


def test_reported_prompts_cannot_reverse_the_choice(
    tmp_path: Path, model: Path, cheap: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On planted pairs the order of settings is the other way round: in the reported part they change no choice."""

    def ran_with(folder: Path, tune: dict[str, Any], planted: Callable[[str, str], bool]) -> tuple[Any, float]:
        path = write(folder, model, tune, **ONE)
        for name in ("tuning", "heldout"):
            file = folder / f"{name}.jsonl"
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            for row in rows:
                row["chosen"] += " planted" * planted(name, row["prompt"][-1]["content"])
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        api.run(path, folder / "run")
        results = radpo.load_run(folder / "run").results
        reported = results[results["benchmark"] == "implicit-reward"]["value"].mean()
        return json.loads((folder / "run" / "choices.json").read_text())["variants"]["dpo"], reported

    without_reports(monkeypatch)
    few = {"training": {"learning_rate": RATES}}
    sides: dict[str, tuple[dict[str, Any], Callable[[str, str], bool], Callable[[str, str], bool]]] = {
        "files": ({**FILES, **few}, lambda file, _: file == "heldout", lambda file, _: file == "tuning"),
        "split": ({**SPLIT, **few}, lambda _, text: place_of(text) >= 0.5, lambda _, text: place_of(text) < 0.5),
    }
    for name, (tune, of_reported, of_tuning) in sides.items():
        plain, own = ran_with(tmp_path / name, tune, lambda *_: False)
        same, turned = ran_with(tmp_path / f"{name}-reported", tune, of_reported)
        assert same == plain
        assert own == -turned, "what is reported does read the plant"
        other, _ = ran_with(tmp_path / f"{name}-tuning", tune, of_tuning)
        assert other["chosen"] != plain["chosen"], "and a choice does, where it is tuned on"


def test_a_setting_that_fails_is_said_and_not_chosen(tmp_path: Path, model: Path, cheap: list[str]) -> None:
    tune = {**SPLIT, "training": {"beta": [666, 0.1, 0.5]}}
    path = write(tmp_path, model, tune, **ONE)
    with pytest.raises(StageError, match="diverged"):
        api.run(path, tmp_path / "run")
    with pytest.warns(UserWarning, match="settings that failed are left out"):
        api.run(path, tmp_path / "run", keep_going=True)
    run = radpo.load_run(tmp_path / "run")
    assert any("tuning: 1 of 3 settings of dpo could not be chosen" in note for note in run.manifest["notes"])
    choice = json.loads((tmp_path / "run" / "choices.json").read_text())["variants"]["dpo"]
    assert choice["chosen"] == {"beta": 0.5}
    assert choice["trials"][0]["mean"] is None
    assert "failed" in choice["trials"][0]["seeds"][0]["failed"]


def test_a_part_of_a_file_is_taken_by_its_prompts(tmp_path: Path) -> None:
    from radpo.preferences.preferences import Reading
    from radpo.preferences.streamed import write_checked

    pairs = scored_pairs([(9, 3)] * 40)
    write_preferences(pairs, tmp_path / "pairs.jsonl")
    found = []
    for share in ((0, 0.25), (0.25, 1)):
        counts = write_checked(tmp_path / "pairs.jsonl", Reading(), tmp_path / "part.parquet", None, share)
        found.append(set(pd.read_parquet(tmp_path / "part.parquet")["id"]))
        assert counts["checked"] == len(found[-1])
    assert found[0] | found[1] == set(load_preferences(tmp_path / "pairs.jsonl").table.column("id").to_pylist())
    assert not found[0] & found[1]


QUESTIONS = [f"Say {number} things about the sea and nothing at all about the ships on it." for number in range(30)]


def write_questions(path: Path, questions: Sequence[str]) -> None:
    rows = ({"instruction": question, "index": number} for number, question in enumerate(questions))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_questions_are_others_than_those_reported_and_what_judges_cost_is_planned(tmp_path: Path, model: Path) -> None:
    judge = {"kind": "openai", "base_url": "http://localhost:1/v1", "model": "j", "price_in": 1000, "price_out": 0}
    asked = {"alpaca-eval": {"questions": {"path": "asked.jsonl"}, "sampling": {"max_new_tokens": 2}, "judge": judge}}
    tune = {"training": {"beta": BETAS}, "metric": "alpaca-eval/win_rate", "questions": {"path": "others.jsonl"}}
    more: dict[str, Any] = {"benchmarks": asked, "variants": {"base": None, "dpo": None}, "seeds": [0]}
    write_questions(tmp_path / "asked.jsonl", QUESTIONS[:10])
    write_questions(tmp_path / "others.jsonl", QUESTIONS[10:])
    path = write(tmp_path, model, tune, **more)
    before = expand(load_matrix(path))
    assert before.tuning is not None
    assert before.tuning.prompts.similar == 10, "one word differs: counted, and not refused"
    asking = [stage for stage in before.tuning.stages if "questions" in stage.settings]
    assert {Path(stage.settings["questions"].location).name for stage in asking} == {"others.jsonl"}
    write_questions(tmp_path / "asked.jsonl", QUESTIONS[:7])
    after = expand(load_matrix(path))
    assert tried_keys(before) == tried_keys(after)

    planned = api.plan(path, tmp_path / "run").to_json()
    calls = {stage["key"]: stage["judge_calls"] for stage in planned["stages"]}
    tuning = sum(calls[key] or 0 for key in planned["tuning"]["keys"])
    assert tuning == 2 * 20 * (planned["to_do"]["judge_calls"] // (2 * 20 + 7))
    assert f"{tuning} judge calls, $" in str(api.plan(path, tmp_path / "run"))

    write_questions(tmp_path / "others.jsonl", QUESTIONS[5:])
    with pytest.raises(ConfigError, match="tune: 2 of 29 reported prompts are tuned on, too, such as 'Say"):
        expand(load_matrix(path))
    with pytest.raises(ConfigError, match=r"tune.questions: missing: alpaca-eval asks questions"):
        expand(load_matrix(write(tmp_path, model, {**tune, "questions": None, "heldout": "tuning.jsonl"}, **more)))
    split = {key: value for key, value in tune.items() if key != "questions"}
    halves = expand(load_matrix(write(tmp_path, model, {**split, "split": 0.5}, **more)))
    assert halves.tuning is not None
    assert halves.tuning.prompts.tuning + halves.tuning.prompts.reported == 7 + 22


def test_each_model_has_its_own_choice(tmp_path: Path, model: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "note": "another"}))
    path = write(tmp_path, model, FILES, models=[str(model), str(other)], seeds=[0], **ONE)
    plan = expand(load_matrix(path))
    assert plan.tuning is not None
    first, last = plan.tuning.trials["dpo"][0], plan.tuning.trials["dpo"][-1]
    models = [cell.model for cell in plan.cells if cell.variant == "dpo"]
    chosen_plan = plan.tuning.expand({models[0]: {"dpo": first}, models[1]: {"dpo": last}})
    rates = {cell.model: cell.train.settings["training"] for cell in chosen_plan.cells if cell.train is not None}
    assert [rates[model]["beta"] for model in models] == [BETAS[0], BETAS[-1]]
    assert [chosen_plan.matrix_of(model).variants["dpo"].training for model in chosen_plan.models] == [
        dict(first.values),
        dict(last.values),
    ]
    narrow = expand(load_matrix(write(tmp_path, model, FILES, exclude=[{"variant": "ra-dpo"}])))
    assert narrow.tuning is not None
    assert {cell.variant.split("-learning")[0] for cell in narrow.tuning.cells} == {"dpo"}
