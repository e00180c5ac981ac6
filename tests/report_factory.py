"""Synthetic run directories for the report's tests: tables of every shape that a matrix writes, drawn from a seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radpo.core.results import examples_frame, results_frame

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
TASKS = (("radpo_facts", "acc"), ("radpo_arithmetic", "acc"), ("radpo_one_word", "exact_match"))
KINDS = ("slogan", "advice", "explanation", "memory")
GOALS = ("none", "best", "chosen", "rejected")
USUAL = ("alpaca-eval", "mt-bench", "unlearning", "academic", "training")
ALL = (*USUAL, "length-control", "arena-hard", "trajectory", "analyses", "published")
SENTENCES = (
    "The sea is blue in the morning and grey by noon.",
    "A bridge carries people over what they cannot cross alone.",
    "Remember to water the plants before the sun is high.",
    "Numbers do not lie, yet they rarely say all there is to say.",
    "First gather the ingredients, then mix them slowly together.",
)


JUDGED = {
    "sent": 50, "answered": 48, "from_cache": 7, "failed": 1, "prompt_tokens": 12_345, "completion_tokens": 678,
    "cost": 1.25, "unclear_cost": 0.5,
}  # fmt: skip
"""What a judge of one stage was asked."""


def write_run(
    folder: Path,
    *,
    variants: Sequence[str] = ("base", "dpo", "ra-dpo"),
    seeds: Sequence[int] = (0,),
    prompts: int = 48,
    questions: int = 16,
    pairs: int = 120,
    documents: int = 60,
    steps: int = 30,
    hostile: Sequence[str] = (),
    only: Sequence[str] = USUAL,
    manifest: dict[str, Any] | None = None,
) -> Path:
    """Write a run directory: three variants, of which the second unlearns and the third hardly does.

    Args:
        hostile: texts that become prompts, outputs, details and a note.
        only: which of `ALL` the run has.
        manifest: keys to replace in the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    results: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    for place, variant in enumerate(variants):
        for seed in seeds:
            cell = {"variant": variant, "model": "tiny-model", "seed": seed}
            for benchmark, rows in (
                ("alpaca-eval", _alpaca(rng, place, prompts, hostile, variants[0])),
                ("arena-hard", _arena_hard(rng, place, prompts, variants[0])),
                ("mt-bench", _mt_bench(rng, place, questions)),
                ("academic", _academic(rng, place, documents)),
            ):
                if benchmark in only:
                    examples += [{**cell, "benchmark": benchmark, **row} for row in rows]
                    results += [{**cell, **row} for row in _figures(benchmark, pd.DataFrame(rows))]
            if "length-control" in only and place:
                figure = {"value": 44.0 + 3 * place, "stderr": 1.4, "n": prompts, "higher_is_better": True}
                metric = "length_controlled_winrate"
                results.append({**cell, **figure, "benchmark": "alpaca-eval", "subset": "all", "metric": metric})
            if "analyses" in only:
                results += [{**cell, **row} for row in _analyses(rng, place)]
    likelihoods = _likelihoods(rng, variants, seeds, pairs)
    if "unlearning" in only:
        likelihoods.to_parquet(folder / "likelihoods.parquet", index=False)
        results += _unlearning(likelihoods)
    if "training" in only:
        _training(rng, variants[1:], seeds, steps).to_parquet(folder / "training.parquet", index=False)
    if "trajectory" in only:
        _trajectory(rng, variants[1:], seeds, pairs).to_parquet(folder / "trajectory.parquet", index=False)
    if "published" in only:
        (folder / "published.csv").write_text(
            "variant,benchmark,metric,subset,value,source\n"
            f'{variants[1]},mt-bench,score,all,7.25,"arXiv 2410.08067, table 1"\n'
            "another,academic,acc,radpo_facts,0.61,a table\n",
            encoding="utf-8",
        )
    results_frame(results).to_parquet(folder / "results.parquet", index=False)
    examples_frame(examples).to_parquet(folder / "examples.parquet", index=False)
    document = {**_manifest(variants, seeds, hostile), **(manifest or {})}
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "matrix.yaml").write_text("name: synthetic\nbaseline: base\n", encoding="utf-8")
    return folder


def _text(rng: np.random.Generator, sentences: int) -> str:
    return " ".join(SENTENCES[place] for place in rng.integers(0, len(SENTENCES), sentences))


def _alpaca(
    rng: np.random.Generator, place: int, prompts: int, hostile: Sequence[str], against: str
) -> list[dict[str, Any]]:
    if place == 0:
        return []
    lead = 0.06 * min(place, 4)
    draws = rng.choice([1.0, 1.5, 2.0], size=prompts, p=[0.38 - lead, 0.2, 0.42 + lead])
    rows = []
    for number, preference in enumerate(draws):
        met = [bool(flag) for flag in rng.integers(0, 2, 2)]
        detail: dict[str, Any] = {
            "goal": 10.0 if place == 2 else None,
            "constraints": [{"text": "at most 35 words", "met": met[0]}, {"text": "no commas", "met": met[1]}],
            "score": 1 + 4.5 * sum(met),
            "baseline_score": 5.5,
            "generator_1": against,
        }
        baseline = _text(np.random.default_rng(number), 2 + number % 5)  # the same for every variant
        answers = [baseline, f"Answer {number} of variant {place}. " + _text(rng, 1 + number % 4)]
        prompt = f"Question {number}: write about topic-{number:05d}, use at most 35 words and no commas."
        if number < len(hostile):
            prompt = answers[0] = answers[1] = hostile[number]
            detail = {hostile[number]: hostile[number], "constraints": [{"text": hostile[number], "met": True}]}
        rows.append(
            {
                "subset": KINDS[number % len(KINDS)], "example_id": f"prompt-{number:05d}",
                "prompt": prompt, "output": answers[1], "baseline_output": answers[0], "metric": "preference",
                "value": preference, "detail": json.dumps(detail),
            }
        )  # fmt: skip
    return rows


def _arena_hard(rng: np.random.Generator, place: int, prompts: int, against: str) -> list[dict[str, Any]]:
    if place == 0:
        return []
    return [
        {
            "subset": "all", "example_id": f"arena-{number:04d}", "prompt": f"Arena {number}: prove it.",
            "output": _text(rng, 3), "baseline_output": _text(np.random.default_rng(number), 3), "metric": "score",
            "value": float(rng.choice([0, 25, 50, 75, 100])),
            "detail": json.dumps({"baseline": against, "games": [{"game": 1, "score": 1.0, "weight": 3}]}),
        }
        for number in range(prompts)
    ]  # fmt: skip


def _analyses(rng: np.random.Generator, place: int) -> list[dict[str, Any]]:
    """Rows of the benchmarks that ask what training did; they have no examples here."""
    parts = [
        ("displacement", "all", "share_chosen_lost"), ("displacement", "all", "share_both_lost"),
        ("displacement", "all", "ches_correlation"), ("implicit-reward", "none/gap [0,1)", "accuracy"),
        ("implicit-reward", "best/gap [1,2)", "accuracy"), ("reward-kl", "all", "kl"), ("reward-kl", "all", "score"),
        ("calibration", "goal 4", "score"), ("calibration", "goal 10", "score"), ("style", "all", "words_difference"),
        ("style", "length [0.8,1.25)", "win_rate"),
    ]  # fmt: skip
    return [
        {
            "benchmark": benchmark, "subset": subset, "metric": metric, "value": float(rng.uniform(0.2, 0.8)) + place,
            "stderr": 0.05, "n": 60, "higher_is_better": None, "primary": False,
        }
        for benchmark, subset, metric in parts
    ] + [
        {
            "benchmark": "goal-inference", "subset": subset, "metric": metric, "value": value + 0.1 * place,
            "stderr": 0.05, "n": 60, "higher_is_better": None, "primary": False,
        }
        for subset, metric, value in (
            ("all", "accuracy", 0.6), ("score 3", "inferred_goal", 4.0), ("score 9", "inferred_goal", 7.0)
        )
    ]  # fmt: skip


def _mt_bench(rng: np.random.Generator, place: int, questions: int) -> list[dict[str, Any]]:
    return [
        {
            "subset": CATEGORIES[number % len(CATEGORIES)], "example_id": f"mt-{number:02d}/turn-{turn}",
            "prompt": f"MT question {number}, turn {turn}: describe the sea.", "output": _text(rng, 1 + turn),
            "baseline_output": None, "metric": "score",
            "value": float(np.clip(4.5 + 0.5 * place - 0.9 * (turn - 1) + rng.normal(0, 2), 1, 10)),
            "detail": json.dumps({"turn": turn, "reason": "met: at most 20 words; not met: the word 'blue'"}),
        }
        for number in range(questions)
        for turn in (1, 2)
    ]  # fmt: skip


def _academic(rng: np.random.Generator, place: int, documents: int) -> list[dict[str, Any]]:
    difficulty = np.random.default_rng(11).random((len(TASKS), documents))
    return [
        {
            "subset": task, "example_id": str(number), "prompt": f"{task} {number}: which animal barks?",
            "output": "dog", "baseline_output": None, "metric": metric,
            "value": float(difficulty[which, number] + rng.normal(0, 0.12) + 0.14 * (place == 1 and which == 1) < 0.62),
            "detail": json.dumps({"target": 2, "choices": ["hen", "cat", "dog"], "logps": [-16.1, -12.3, -9.8]}),
        }
        for which, (task, metric) in enumerate(TASKS)
        for number in range(documents)
    ]  # fmt: skip


def _figures(benchmark: str, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of results.parquet, as the harness would write them of these examples."""
    if rows.empty:
        return []
    if benchmark == "academic":
        return [
            _row(benchmark, task, metric, rows[rows["subset"] == task]["value"], primary=True) for task, metric in TASKS
        ]
    if benchmark == "alpaca-eval":
        rate = (rows["value"] - 1) * 100
        return [
            _row(benchmark, "all", "win_rate", rate, primary=True),
            _row(benchmark, "all", "discrete_win_rate", rate.round(-1)),
            _row(benchmark, "all", "avg_length", rows["output"].str.len()),
            *(_row(benchmark, str(part), "win_rate", rate[rows["subset"] == part]) for part in rows["subset"].unique()),
        ]
    if benchmark == "arena-hard":
        return [_row(benchmark, "all", "score", rows["value"], primary=True)]
    turn = rows["example_id"].str[-1]
    return [
        _row(benchmark, "all", "score", rows["value"], primary=True),
        _row(benchmark, "all", "first_turn", rows["value"][turn == "1"]),
        _row(benchmark, "all", "second_turn", rows["value"][turn == "2"]),
        *(_row(benchmark, str(p), "score", rows["value"][rows["subset"] == p]) for p in rows["subset"].unique()),
    ]


def _row(benchmark: str, subset: str, metric: str, values: pd.Series, primary: bool = False) -> dict[str, Any]:
    return {
        "benchmark": benchmark, "subset": subset, "metric": metric, "value": values.mean(),
        "stderr": values.std() / np.sqrt(len(values)), "n": len(values), "higher_is_better": True, "primary": primary,
    }  # fmt: skip


def _likelihoods(rng: np.random.Generator, variants: Sequence[str], seeds: Sequence[int], pairs: int) -> pd.DataFrame:
    rows = []
    for place, variant in enumerate(variants):
        for seed in seeds:
            for pair in range(pairs):
                scores = {"chosen": 6 + (pair % 8) / 2, "rejected": 1.5 + (pair % 14) / 2}
                for response, score in scores.items():
                    for goal in GOALS:
                        drift = 0.9 if response == "chosen" else -4.5 if place == 1 else -3.2 + 0.4 * score
                        drift += 1.4 if place > 1 and goal == response else 0.0
                        rows.append(
                            {
                                "variant": variant, "seed": seed, "pair_id": f"pair-{pair:03d}", "response": response,
                                "goal": goal, "score": score, "tokens": 40, "logp_reference": -80.0,
                                "logp_policy": -80.0 + (0.0 if place == 0 else drift + rng.normal(0, 3)),
                            }
                        )  # fmt: skip
    return pd.DataFrame(rows)


def _unlearning(likelihoods: pd.DataFrame) -> list[dict[str, Any]]:
    change = likelihoods["logp_policy"] - likelihoods["logp_reference"]
    frame = likelihoods.assign(change=change)
    rows = []
    for (variant, seed), part in frame.groupby(["variant", "seed"], sort=False):
        cell = {"variant": variant, "model": "tiny-model", "seed": seed}
        for subset in ("none", "best", "own"):
            asked = part[part["goal"] == (part["response"] if subset == "own" else subset)]
            rejected = asked[asked["response"] == "rejected"]
            high = rejected["score"] >= 5
            rows += [
                {**cell, **_row("unlearning", subset, metric, values, primary=metric == "delta_logp_rejected_high")}
                for metric, values in (
                    ("delta_logp_rejected_high", rejected["change"][high]),
                    ("delta_logp_rejected_low", rejected["change"][~high]),
                    ("delta_logp_chosen", asked[asked["response"] == "chosen"]["change"]),
                )
            ]
    return rows


def _trajectory(rng: np.random.Generator, variants: Sequence[str], seeds: Sequence[int], pairs: int) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"variant": variant, "seed": seed, "step": step, "id": f"pair-{pair:03d}", "side": side, "goal": goal,
             "logp": -80 - 0.2 * step + rng.normal(0, 1), "tokens": 40}
            for variant in variants
            for seed in seeds
            for step in (0, 10, 20)
            for pair in range(pairs)
            for side in ("chosen", "rejected")
            for goal in GOALS
        ]
    )  # fmt: skip


def _training(rng: np.random.Generator, variants: Sequence[str], seeds: Sequence[int], steps: int) -> pd.DataFrame:
    curves = {
        "loss": lambda step: 0.69 - 0.3 * step,
        "rewards/margins": lambda step: 1.2 * step,
        "rewards/accuracies": lambda step: 0.5 + 0.35 * step,
        "logps/chosen": lambda step: -80 - 2 * step,
        "logps/rejected": lambda step: -82 - 9 * step,
        "grad_norm": lambda step: 4 - 2 * step,
    }
    return pd.DataFrame(
        [
            {"variant": v, "seed": seed, "step": s, "metric": m, "value": curve(s / steps) + rng.normal(0, 0.05)}
            for v in variants
            for seed in seeds
            for m, curve in curves.items()
            for s in range(1, steps + 1)
        ],
        columns=["variant", "seed", "step", "metric", "value"],
    )


def _manifest(variants: Sequence[str], seeds: Sequence[int], hostile: Sequence[str]) -> dict[str, Any]:
    training = {"beta": 0.1, "learning_rate": 5e-7, "num_train_epochs": 1.0, "batch_size": 16, "loss": "sigmoid"}
    return {
        "name": "synthetic",
        "key": "0" * 32,
        "created": "2025-03-01T12:00:00+00:00",
        "radpo": "0.1.0",
        "git_commit": "3c38c335ff9956d9aee33392b9eca9b523ac656e",
        "platform": {"python": "3.11.7", "system": "Linux x86_64", "cpu": None, "cores": 2},
        "packages": {"torch": "2.13.0", "trl": "1.16.0"},
        "models": {"tiny-model": {"fingerprint": "gguf-1:b179c9523d0e6a0f98a330c7562b6827"}},
        "data": {"train_pairs.jsonl": {"sha256": "sha256:a0f164681cf8025fa10bd1e509babc9f", "rows": 240}},
        "seeds": list(seeds),
        "baseline": variants[0],
        "variants": {variant: {"method": variant, "training": training} for variant in variants},
        "notes": ["The length-controlled win rate was not computed.", *hostile[:3]],
        "stages": [
            {
                "name": f"{stage}/{variant}/seed-{seed}", "key": f"{place:032d}", "seconds": 4.0 + 37 * place,
                "from_store": place % 3 == 2, "peak_mib": None if place == 1 else 812.5 + place,
                **({"judge": JUDGED} if stage == "judge" else {}),
            }
            for seed in seeds
            for variant in variants
            for place, stage in enumerate(("relabel", "train", "generate", "judge"))
        ],
        "wall_seconds": 412.7,
        "spending": {**JUDGED, "sent": 1234, "max_cost": 9.5, "max_requests": None, "on_the_way": 0, "stages": []},
    }  # fmt: skip
