"""Peak memory of `radpo analyze unlearning` against the number of held-out pairs, on a tiny random model.

Pairs are scored and written a chunk at a time, so ten times the pairs should take the memory of one.

    python benchmarks/heldout_memory.py [--pairs 1000 10000]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ["the", "sea", "is", "blue", "in", "morning", "and", "grey", "by", "noon", "a", "bridge", "carries", "people"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
# The command in a process of its own, which says at its end how much memory it or its workers held at most.
MEASURED = (
    "import re, resource, sys; from radpo.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
    "own = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); "
    "print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), file=sys.stderr)"
)


def write_pairs(path: Path, number: int) -> None:
    """Pairs with texts of 3 to 20 words."""
    chance = random.Random(0)

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(3, 20)))

    with path.open("w", encoding="utf-8") as stream:
        for place in range(number):
            row = {
                "id": f"p{place}", "prompt": text(), "chosen": text(), "rejected": text(),
                "score_chosen": chance.randint(6, 10), "score_rejected": chance.randint(1, 5),
            }  # fmt: skip
            stream.write(json.dumps(row) + "\n")


def write_model(folder: Path) -> None:
    """A random Llama of one small layer that knows a word from an unknown one, so that sequences are short."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {
        word: place for place, word in enumerate(["</s>", "<unk>", "<user>", "<assistant>", "<system>", *WORDS])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000, 10_000])
    sizes = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder / "model")
        print("   pairs    seconds   peak MiB")
        for number in sizes:
            pairs = folder / f"{number}.jsonl"
            write_pairs(pairs, number)
            words = ["analyze", "unlearning", str(pairs), "--policy", str(folder / "model")]
            words += ["--reference", str(folder / "model"), "--json"]
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True)
            peak = int(done.stderr.strip().splitlines()[-1]) / 1024
            print(f"{number:8,} {time.perf_counter() - start:10.1f} {peak:10.0f}", flush=True)


if __name__ == "__main__":
    main()
