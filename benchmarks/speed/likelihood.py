"""Log-likelihoods of responses: radpo's scorer against lm-eval's, same requests, same model, one run, in turn.

Run from the repository's root: python benchmarks/speed/likelihood.py [--json FILE] [--rounds N]

Kinds of requests: the two responses of a preference pair (real UltraFeedback pairs where RADPO_REAL_DATA or
../shared/data has them, else the bundled ones), eight responses to a prompt (as sampled for on-policy data), the
one-word answers of a multiple-choice question with its worked examples before it (lm-eval reads such a question once
too), and where it is there TruthfulQA as lm-eval asks it, whose answers are sentences. Both scorers compute in float32.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limit import least_seconds, needed
from tables import write

from radpo.models.likelihood import TokenizedResponse, log_likelihoods, tokenize_pair
from radpo.models.loading import load_model, load_tokenizer, resolve_model

REAL = Path(os.environ.get("RADPO_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
UF = REAL / "preferences" / "ultrafeedback_binarized_960.jsonl.gz"
BUNDLED = Path(__file__).parents[1] / "data" / "heldout_pairs.jsonl"
FACTS = Path(__file__).parents[1] / "tasks" / "facts.jsonl"
TRUTHFUL = REAL / "academic" / "truthfulqa" / "mc_task.json"
PAIRS, SAMPLES, QUESTIONS, MOST = 6, 8, 6, 1024


def main() -> None:
    """Time both, check that they agree, print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    parser.add_argument("--rounds", type=int, default=2, help="how often each scorer runs; one more warms up")
    arguments = parser.parse_args()
    from lm_eval.models.huggingface import HFLM

    folder = resolve_model("smollm2-135m-instruct")
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    peer = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=8)
    pairs = preference_pairs()
    kinds = {
        "two responses of a pair": paired(tokenizer, pairs[:PAIRS]),
        f"{SAMPLES} responses to a prompt": sampled(tokenizer, pairs[: SAMPLES // 2]),
        "one-word answers after worked examples": choices(tokenizer),
    }
    if TRUTHFUL.is_file():
        kinds["TruthfulQA's answers"] = truthful(tokenizer)
    rows = []
    for what, items in kinds.items():
        row = compare(what, items, model, peer, arguments.rounds)
        rows.append(row)
        print(
            f"{row['what']}: ours {row['ours']}, lm-eval {row['peer']} {row['unit']}; ratio {row['ratio']} "
            f"{row['spread']}, goal {row['goal']}; {row['share_of_limit']} of the limit; "
            f"largest difference {row['apart']:.1e} nats a token",
            flush=True,
        )
    write(arguments.json, "likelihood", rows)


def compare(what: str, items: Sequence[TokenizedResponse], model: Any, peer: Any, rounds: int) -> dict[str, Any]:
    """Responses per CPU second of both, and the ratio round by round."""
    requests = [((str(n), ""), list(item.prompt_ids), list(item.response_ids)) for n, item in enumerate(items)]
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    values: dict[str, list[float]] = {}
    for _ in range(rounds + 1):  # the first round warms up and is not counted
        for name in seconds:
            start = time.process_time()
            if name == "ours":
                values[name] = [result.logp for result in log_likelihoods(model, items)]
            else:
                values[name] = [logp for logp, _ in peer._loglikelihood_tokens(requests, disable_tqdm=True)]
            seconds[name].append(time.process_time() - start)
    apart = max(abs(a - b) / len(i.response_ids) for a, b, i in zip(values["ours"], values["peer"], items, strict=True))
    rate = {name: [len(items) / taken for taken in times[1:]] for name, times in seconds.items()}
    ratios = [ours / theirs for ours, theirs in zip(rate["ours"], rate["peer"], strict=True)]
    tokens = sum(len(item.prompt_ids) + len(item.response_ids) for item in items)
    least = least_seconds(model, needed((item.prompt_ids, item.response_ids) for item in items), "float32", 1)
    return {
        "what": f"{what}, {len(items)} responses, {tokens} tokens, SmolLM2-135M, float32",
        "ours": round(statistics.median(rate["ours"]), 3),
        "peer": round(statistics.median(rate["peer"]), 3),
        "unit": "responses per CPU second",
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "goal": 3.0,
        "apart": apart,
        "share_of_limit": round(statistics.median(least / taken for taken in seconds["ours"][1:]), 3),
        "share_goal": 0.8,
    }


def preference_pairs() -> list[dict[str, str]]:
    """Prompt, chosen and rejected as text."""
    with gzip.open(UF, "rt", encoding="utf-8") if UF.is_file() else BUNDLED.open(encoding="utf-8") as stream:
        return [
            {side: _text(row[side]) for side in ("prompt", "chosen", "rejected")} for row in map(json.loads, stream)
        ]


def paired(tokenizer: Any, pairs: Sequence[dict[str, str]]) -> list[TokenizedResponse]:
    """Both responses of every pair."""
    items = []
    for pair in pairs:
        tokens = tokenize_pair(tokenizer, [_user(pair["prompt"])], pair["chosen"], pair["rejected"])
        keep = max(MOST - len(tokens.prompt_ids), 1)
        items += [TokenizedResponse(tokens.prompt_ids, ids[:keep]) for ids in (tokens.chosen_ids, tokens.rejected_ids)]
    return items


def sampled(tokenizer: Any, pairs: Sequence[dict[str, str]]) -> list[TokenizedResponse]:
    """Several responses to the first prompt, of the lengths that responses have: those of all the pairs."""
    return paired(tokenizer, [{**pair, "prompt": pairs[0]["prompt"]} for pair in pairs])


def choices(tokenizer: Any) -> list[TokenizedResponse]:
    """Every answer to every question, after eight questions with their answers, as few-shot tasks ask."""
    rows = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]
    shown = "\n\n".join(f"Question: {row['question']}\nAnswer: {row['choices'][row['answer']]}" for row in rows[:8])
    items = []
    for row in rows[8 : 8 + QUESTIONS]:
        prompt = tokenizer(f"{shown}\n\nQuestion: {row['question']}\nAnswer:")["input_ids"]
        items += [TokenizedResponse(tuple(prompt), tuple(tokenizer(f" {c}")["input_ids"])) for c in row["choices"]]
    return items


def truthful(tokenizer: Any) -> list[TokenizedResponse]:
    """Every answer to TruthfulQA's questions (mc2), asked in the words of lm-eval's task."""
    import lm_eval
    import yaml
    from jinja2.sandbox import SandboxedEnvironment

    task = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa" / "truthfulqa_mc1.yaml"
    ask = SandboxedEnvironment().from_string(yaml.safe_load(task.read_text(encoding="utf-8"))["doc_to_text"])
    items = []
    for row in json.loads(TRUTHFUL.read_text(encoding="utf-8"))[:QUESTIONS]:
        prompt = tokenizer(ask.render(question=row["question"]))["input_ids"]
        answers = [tokenizer(f" {answer}")["input_ids"] for answer in row["mc2_targets"]]
        items += [TokenizedResponse(tuple(prompt), tuple(answer)) for answer in answers]
    return items


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value[-1]["content"])


if __name__ == "__main__":
    main()
