"""A DPO training step and the reference precompute: radpo's trainer against TRL's, same pairs, one run, in turn.

Run from the repository's root: python benchmarks/speed/train.py [--json FILE] [--model FOLDER] [--rounds N]

Three trainers take the same optimiser steps on the same pairs, each in a process of its own so that peak memory is its
own: TRL with its defaults (gradient checkpointing, the reference model beside the policy), TRL with precomputed
references and no gradient checkpointing, and radpo's. Pairs are real UltraFeedback ones where RADPO_REAL_DATA or
../shared/data has them, else synthetic ones of the same lengths. The precision is what `auto` comes to here, or what
RADPO_PRECISION says.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tables import write

REAL = Path(os.environ.get("RADPO_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
UF = REAL / "preferences" / "ultrafeedback_binarized_960.jsonl.gz"
PAIRS, MICRO_BATCH, MAX_LENGTH, SEED = 24, 4, 512, 0
SHARE_GOALS = {"train": 0.75, "reference": 0.8}
ARMS = ("trl-defaults", "trl-precomputed", "radpo")


def main() -> None:
    """Run every arm in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here as JSON")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a bundled model, a folder, or a Hub id")
    parser.add_argument("--rounds", type=int, default=1, help="how often every trainer runs")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how many pairs it trains on, all in one epoch")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        for _ in range(arguments.times):
            print(json.dumps(measure(arguments.arm, arguments.model, arguments.pairs)), flush=True)
        return
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for _ in range(arguments.rounds):
        for arm in ARMS:
            command = [sys.executable, __file__, "--arm", arm, "--model", arguments.model, "--pairs"]
            out = subprocess.run([*command, str(arguments.pairs)], check=True, stdout=subprocess.PIPE, text=True)
            found[arm].append(json.loads(out.stdout.splitlines()[-1]))
            print(f"{arm}: {found[arm][-1]}", file=sys.stderr)
    (precision,) = {run["precision"] for runs in found.values() for run in runs}
    training, reference = (f"{what}, {precision}" for what in ("training step", "reference precompute"))
    rows = [
        row(training, found, "trl-defaults", "train", arguments.pairs, 2.5),
        row(training, found, "trl-precomputed", "train", arguments.pairs, 2.0),
        row(reference, found, "trl-precomputed", "reference", arguments.pairs, 2.5),
        memory(found, "trl-precomputed", 0.7),
    ]
    where = "real UltraFeedback pairs" if UF.is_file() else "synthetic pairs of UltraFeedback's lengths"
    print(f"{arguments.pairs} {where}, {arguments.model}, max_length {MAX_LENGTH}, micro-batch {MICRO_BATCH}")
    for r in rows:
        print(
            f"{r['what']}: ours {r['ours']}, peer {r['peer']} {r['unit']}; ratio {r['ratio']} {r['spread']}, "
            f"goal {r['goal']}" + (f"; {r['share_of_limit']} of the limit" if "share_of_limit" in r else "")
        )
    write(arguments.json, "train", rows)


def row(
    what: str, found: dict[str, list[dict[str, Any]]], peer: str, figure: str, pairs: int, goal: float
) -> dict[str, Any]:
    """Pairs per CPU second of ours and of a peer, and the ratios round by round."""
    ours, theirs = ([pairs / run[figure] for run in found[arm]] for arm in ("radpo", peer))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    shares = [run[f"least_{figure}"] / run[figure] for run in found["radpo"]]
    share = {"share_of_limit": round(statistics.median(shares), 3), "share_goal": SHARE_GOALS[figure]}
    return {**_row(f"{what} against {peer}", ours, theirs, "pairs per CPU second", ratios, goal), **share}


def memory(found: dict[str, list[dict[str, Any]]], peer: str, goal: float) -> dict[str, Any]:
    """Peak memory of ours and of a peer in training; the ratio is better where it is lower."""
    ours, theirs = ([run["peak_gib"] for run in found[arm]] for arm in ("radpo", peer))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return _row(f"peak memory against {peer} (lower is better)", ours, theirs, "GiB", ratios, goal)


def _row(
    what: str, ours: list[float], theirs: list[float], unit: str, ratios: list[float], goal: float
) -> dict[str, Any]:
    return {
        "what": what,
        "ours": round(statistics.median(ours), 4),
        "peer": round(statistics.median(theirs), 4),
        "unit": unit,
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "goal": goal,
    }


def measure(arm: str, model: str, count: int) -> dict[str, Any]:
    """One trainer's CPU seconds for the precompute and for the steps, its peak memory in training, and its precision.

    Args:
        arm: of `ARMS`; also `trl-liger` (TRL with precomputed references and Liger kernels), and `radpo-NAME` for ours
            with the attention that transformers calls NAME.
    """
    import torch
    from limit import Needed, least_seconds, needed
    from trl import DPOConfig, DPOTrainer

    from radpo.models.likelihood import log_likelihoods, responses
    from radpo.models.loading import load_model, load_tokenizer, resolve_model
    from radpo.models.precision import settle
    from radpo.preferences.relabel import to_trl
    from radpo.training.dataset import training_dataset
    from radpo.training.reference import reference_log_likelihoods, tokenize_pairs
    from radpo.training.trainer import SharedPrefixDPOTrainer

    folder = resolve_model(model)
    pairs = preference_pairs(count, load_tokenizer(folder))
    precision = settle("auto")
    taken: dict[str, float] = {"reference": 0.0}

    def timed(function: Any) -> Any:
        """The function, its seconds noted as the precompute's; models and tokens are there before it begins."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = function(*args, **kwargs)
            taken["reference"] += clock() - start
            return result

        return run

    settings: dict[str, Any] = {
        "per_device_train_batch_size": MICRO_BATCH,
        "gradient_accumulation_steps": max(count // MICRO_BATCH, 1),  # one step, as the paper's of 128 pairs is
        "max_length": MAX_LENGTH,
        "bf16": precision == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "num_train_epochs": 1,
        "seed": SEED,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    with tempfile.TemporaryDirectory() as out:
        ours, _, attention = arm.partition("-")
        if ours == "radpo":
            with patch("radpo.training.reference.log_likelihoods", timed(log_likelihoods)):
                reference = reference_log_likelihoods(folder, pairs, max_length=MAX_LENGTH, precision=precision)
            data, trainer_class = training_dataset(pairs, reference), SharedPrefixDPOTrainer
        else:
            data, trainer_class = to_trl(pairs), DPOTrainer
        if arm != "trl-defaults":
            settings |= {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
        if arm == "trl-liger":
            settings["use_liger_kernel"] = True
        with patch.object(DPOTrainer, "_precompute_ref_logps", timed(DPOTrainer._precompute_ref_logps)):
            trainer = trainer_class(
                model=load_model(folder, attention=(attention if ours == "radpo" else "") or None),
                ref_model=load_model(folder) if arm == "trl-defaults" else None,
                args=DPOConfig(output_dir=out, **settings),
                train_dataset=data,
                processing_class=load_tokenizer(folder),
            )
        forget_peak()
        start = clock()
        trainer.train()
        taken["train"] = clock() - start
    peak = peak_gib()
    asked = list(responses(tokenize_pairs(load_tokenizer(folder), pairs), MAX_LENGTH))
    each_pair = (
        needed((one.prompt_ids, one.response_ids) for one in both) for both in zip(asked[::2], asked[1::2], strict=True)
    )
    to_read = sum(each_pair, Needed(0, 0, 0))
    for figure, passes in (("reference", 1), ("train", 3)):
        taken[f"least_{figure}"] = least_seconds(load_model(folder), to_read, precision, passes)
    rounded = {name: round(value, 3) for name, value in taken.items()}
    return {**rounded, "peak_gib": round(peak, 3), "precision": precision}


def preference_pairs(count: int, tokenizer: Any) -> Any:
    """Plain training pairs whose prompts leave room for a response, which TRL drops otherwise: messages and text."""
    import pyarrow as pa

    from radpo.preferences.preferences import schema
    from radpo.preferences.relabel import relabel

    rows = [row for row in (_real() if UF.is_file() else _synthetic()) if row["score_chosen"] > row["score_rejected"]]
    random.Random(SEED).shuffle(rows)
    fitting = (
        row
        for row in rows
        if len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)) < MAX_LENGTH
    )
    return relabel(pa.Table.from_pylist(list(islice(fitting, count)), schema=schema()), "plain").table


def _real() -> list[dict[str, Any]]:
    with gzip.open(UF, "rt", encoding="utf-8") as stream:
        read = [json.loads(line) for line in stream]
    return [
        {
            "id": str(number),
            "prompt": [{"role": "user", "content": _text(row["prompt"])}],
            "chosen": _text(row["chosen"]),
            "rejected": _text(row["rejected"]),
            "score_chosen": float(row["score_chosen"]),
            "score_rejected": float(row["score_rejected"]),
        }
        for number, row in enumerate(read)
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value[-1]["content"])


def _synthetic() -> list[dict[str, Any]]:
    """Random words, in numbers drawn from log-normal fits to UltraFeedback's prompts and responses."""
    chance = random.Random(SEED)

    def words(mean: float, spread: float) -> str:
        number = int(min(max(chance.lognormvariate(mean, spread), 3), 700))
        return " ".join(chance.choices(("the", "answer", "model", "of", "score", "good", "river", "two"), k=number))

    return [
        {
            "id": str(number),
            "prompt": [{"role": "user", "content": words(4.2, 1.0)}],
            "chosen": words(4.9, 0.8),
            "rejected": words(4.7, 0.9),
            "score_chosen": 8.0,
            "score_rejected": 5.0,
        }
        for number in range(960)
    ]


def clock() -> float:
    """CPU seconds of this process on a CPU; wall seconds where a GPU does the work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def forget_peak() -> None:
    """Start measuring peak memory anew."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_gib() -> float:
    """Peak memory since `forget_peak`: the GPU's where there is one, else this process's resident memory."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) / 2**20 if found else float("nan")


if __name__ == "__main__":
    main()
