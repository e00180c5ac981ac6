"""What can be measured on a GPU in one short sitting: training, likelihoods, lm-eval, FSDP and QLoRA's import.

Run by gpu.sh. The model is built from its configuration (Llama, bytes for tokens), so that nothing is downloaded; what
training does to it means nothing, the times do. Every part is a process of its own with a limit; one that fails is a
row with the error in it, and the others go on. Nothing begins that could not end in time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ARMS = ("trl-defaults", "trl-precomputed", "trl-liger", "radpo-sdpa", "radpo-flex_attention")
PARTS = ("machine", *ARMS, "likelihood", "lm-eval", "fsdp", "qlora")
SIZES = {
    "0.6b": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "vocab_size": 64_000},
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 512},
}
LEAST_SECONDS = 20
TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def main(words: list[str] | None = None) -> None:
    """Do every part, write each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "gpu", help="the folder for gpu.json")
    parser.add_argument("--size", choices=SIZES, default="0.6b", help="of the model")
    parser.add_argument("--pairs", type=int, default=32, help="pairs that every trainer takes, in one step")
    parser.add_argument("--seconds", type=float, default=460, help="in all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to do")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.part:
        print(json.dumps(DOING[arguments.part](arguments.model, arguments.pairs)))
        return
    end = time.monotonic() + arguments.seconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", arguments.size)
        for part in arguments.parts:
            start = time.monotonic()
            row = {"what": part, "size": arguments.size, **_part(part, model, arguments.pairs, end - start)}
            rows.append({**row, "seconds": round(time.monotonic() - start, 1)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            document = {"name": "gpu", "rows": rows, "complete": len(rows) == len(arguments.parts)}
            (arguments.out / "gpu.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def _part(part: str, model: Path, pairs: int, seconds: float) -> dict[str, Any]:
    """A part's figures, by a process of its own, or what went wrong."""
    if seconds < LEAST_SECONDS:
        return {"error": "no time was left"}
    words = ["--part", part, "--model", str(model), "--pairs", str(pairs)]
    if part in ARMS:  # twice: the first time compiles kernels and fills caches
        command = [str(HERE / "train.py"), "--arm", part, "--times", "2", *words[2:]]
    else:
        command = [__file__, *words]
    try:
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done in the {seconds:.0f} s that were left"}
    if done.returncode:
        return {"error": done.stderr.strip()[-1500:]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def write_model(folder: Path, size: str) -> Path:
    """A model of random weights from its configuration."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"</s>": 0, "<pad>": 1} | {t: n + 2 for n, t in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    heads = max(SIZES[size]["hidden_size"] // 64, 2)
    config = LlamaConfig(
        **SIZES[size], num_attention_heads=heads, max_position_embeddings=4096, eos_token_id=0, pad_token_id=1
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def machine(model: Path, pairs: int) -> dict[str, Any]:
    """What the figures are of."""
    import torch

    from radpo.core.machine import describe_machine

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    packages = (
        "torch",
        "triton",
        "transformers",
        "trl",
        "accelerate",
        "peft",
        "lm-eval",
        "liger-kernel",
        "bitsandbytes",
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    found = {"gpu": gpu, "python": platform.python_version(), "packages": {name: version(name) for name in packages}}
    return {**describe_machine(), **found}


def likelihood(model: Path, pairs: int) -> dict[str, Any]:
    """Responses a second of ours and of lm-eval's `hf`, on the pairs that are trained on; both in bfloat16 on a GPU."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from train import MAX_LENGTH, clock, preference_pairs

    from radpo.models.likelihood import log_likelihoods, responses
    from radpo.models.loading import load_model, load_tokenizer
    from radpo.training.reference import tokenize_pairs

    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    ours, tokenizer = load_model(model, dtype), load_tokenizer(model)
    peer = HFLM(pretrained=str(model), device=device, dtype=dtype, batch_size=8)
    items = list(responses(tokenize_pairs(tokenizer, preference_pairs(pairs, tokenizer)), MAX_LENGTH))
    requests = [((str(n), ""), list(item.prompt_ids), list(item.response_ids)) for n, item in enumerate(items)]
    taken: dict[str, float] = {}
    for _ in range(2):  # the first time warms up
        start = clock()
        mine = [found.logp for found in log_likelihoods(ours, items)]
        taken["ours"] = clock() - start
        start = clock()
        theirs = [found[0] for found in peer._loglikelihood_tokens(requests, disable_tqdm=True)]
        taken["peer"] = clock() - start
    apart = max(abs(a - b) / len(item.response_ids) for a, b, item in zip(mine, theirs, items, strict=True))
    rates = {who: round(len(items) / seconds, 3) for who, seconds in taken.items()}
    return {**rates, "unit": "responses a second", "ratio": round(taken["peer"] / taken["ours"], 3), "apart": apart}


def lm_eval_class(model: Path, pairs: int) -> dict[str, Any]:
    """Seconds of lm-eval with its `hf` and with `radpo`, on a multiple-choice task with eight examples before each."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from train import clock

    from radpo.benchmarks import academic
    from radpo.models.lm_eval import SharedPrefixHFLM

    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    settings: dict[str, Any] = {"pretrained": str(model), "device": device, "dtype": dtype, "batch_size": 8}
    manager = TaskManager(include_path=str(ROOT / "benchmarks" / "tasks"), include_defaults=False)
    taken: dict[str, float] = {}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        academic._anchor_data(manager, ROOT / "benchmarks" / "tasks", Path(cache))
        for name, made in (("ours", SharedPrefixHFLM(**settings)), ("peer", HFLM(**settings))):
            for _ in range(2):
                start = clock()
                found = simple_evaluate(
                    model=made, tasks=["radpo_facts"], task_manager=manager, num_fewshot=8, limit=pairs,
                    bootstrap_iters=0, verbosity="ERROR",
                )  # fmt: skip
                taken[name] = clock() - start
            figures[name] = {key: value for key, value in found["results"]["radpo_facts"].items() if "," in key}
    rates = {who: round(seconds, 3) for who, seconds in taken.items()}
    equal = all(a == b or a != a for a, b in zip(figures["ours"].values(), figures["peer"].values(), strict=True))
    return {**rates, "unit": "seconds", "ratio": round(taken["peer"] / taken["ours"], 3), "equal": equal}


def fsdp(model: Path, pairs: int) -> dict[str, Any]:
    """Whether `radpo train` under FSDP on one process writes a checkpoint."""
    config = ROOT / "benchmarks" / "accelerate" / "fsdp.yaml"
    with tempfile.TemporaryDirectory() as out:
        given = (ROOT / "benchmarks" / "data" / "train_pairs.jsonl").read_text(encoding="utf-8").splitlines()
        data = Path(out) / "pairs.jsonl"
        data.write_text("\n".join(given[:pairs]) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        command += ["--num_processes", "1", "-m", "radpo", "train", str(data), "--out", f"{out}/run"]
        command += ["--model", str(model), "--method", "dpo", "--set", "batch_size=8"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-1500:])
        return {"checkpoint": sorted(path.name for path in (Path(out) / "run" / "policy").iterdir())}


def qlora(model: Path, pairs: int) -> dict[str, Any]:
    """Whether what QLoRA needs can be imported."""
    import bitsandbytes

    return {"bitsandbytes": bitsandbytes.__version__}


DOING: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "machine": machine, "likelihood": likelihood, "lm-eval": lm_eval_class, "fsdp": fsdp, "qlora": qlora,
}  # fmt: skip

if __name__ == "__main__":
    main()
