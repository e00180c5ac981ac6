"""Log-likelihoods of responses: radpo's scorer against lm-eval's, same requests, same model, one run, alternating.

Run from the repository's root: python benchmarks/speed/likelihood.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from radpo.data.preferences import load_preferences
from radpo.models.likelihood import log_likelihoods, responses, tokenize_pair
from radpo.models.loading import load_model, load_tokenizer, resolve_model

PAIRS = Path(__file__).parents[1] / "data" / "heldout_pairs.jsonl"
COUNT, ROUNDS = 24, 3


def main() -> None:
    """Time both, check that they agree, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    arguments = parser.parse_args()
    from lm_eval.models.huggingface import HFLM

    folder = resolve_model("smollm2-135m-instruct")
    tokenizer = load_tokenizer(folder)
    pairs = load_preferences(PAIRS).table.slice(0, COUNT).to_pylist()
    tokenized = [tokenize_pair(tokenizer, pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs]
    items = list(responses(tokenized, None))
    model = load_model(folder)
    peer = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=8)
    requests = [((str(n), ""), list(i.prompt_ids), list(i.response_ids)) for n, i in enumerate(items)]

    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    values: dict[str, list[float]] = {}
    for _ in range(ROUNDS + 1):  # the first round warms up and is not counted
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
    row: dict[str, Any] = {
        "what": f"log-likelihood of {len(items)} responses, SmolLM2-135M, float32",
        "ours": round(statistics.median(rate["ours"]), 3),
        "peer": round(statistics.median(rate["peer"]), 3),
        "unit": "responses per processor second",
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "goal": None,
    }
    print(
        f"{row['what']}: ours {row['ours']}, lm-eval {row['peer']} {row['unit']}; ratio {row['ratio']} {row['spread']}"
    )
    print(f"largest difference: {apart:.2e} nats a token")
    if arguments.json:
        arguments.json.write_text(json.dumps({"name": "likelihood", "rows": [row]}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
