"""Small models and data that several test files build."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ALPACA_MODELS = [
    "FuseChat-Gemma-2-9B-Instruct", "FuseChat-Llama-3.2-1B-Instruct", "NullModel", "alpaca-7b", "alpaca-7b_concise",
    "alpaca-7b_verbose", "claude-2.1", "gemma-2b-it", "gpt-3.5-turbo-1106", "gpt-3.5-turbo-1106_concise",
    "gpt-3.5-turbo-1106_verbose", "gpt4_1106_preview", "gpt4_gamed", "phi-2", "vicuna-13b-v1.5-togetherai",
]  # fmt: skip
"""The models whose official annotations are among the real data."""

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_model(folder: Path, template: str | None = TEMPLATE, texts: Iterable[str] = ()) -> Path:
    """A random Llama of two layers with a byte-level tokenizer, whose tokens are bytes.

    Args:
        texts: where given, a thousand tokens are made of them, so that such texts have a quarter of the tokens.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0, "<pad>": 1} | {token: place + 2 for place, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if texts:
        trainer = trainers.BpeTrainer(
            vocab_size=1000, special_tokens=["</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.5,
        eos_token_id=0,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def scored_pairs(rows: Sequence[tuple[float, float]]) -> Any:
    """A table of scored pairs, one for every (score_chosen, score_rejected), all texts different."""
    import pyarrow as pa

    from radpo.preferences.preferences import schema

    return pa.Table.from_pylist(
        [
            {
                "id": f"p{number}",
                "prompt": [{"role": "user", "content": f"Say something of {number}" + " please" * (number % 3)}],
                "chosen": f"Here is {number}, and more" + "!" * (number % 5),
                "rejected": f"No {number}" + " no" * (number % 4),
                "score_chosen": chosen,
                "score_rejected": rejected,
            }
            for number, (chosen, rejected) in enumerate(rows)
        ],
        schema=schema(),
    )


def alpaca_leaderboard_row(real_data: Path, model: str) -> dict[str, float]:
    """A model's figures on AlpacaEval's official leaderboard."""
    with (real_data / "alpaca_eval2" / "leaderboard.csv").open() as stream:
        (row,) = [row for row in csv.DictReader(stream) if row[""] == model]
    return {name: float(value) for name, value in row.items() if value and name not in ("", "mode")}


def write_plugin(site: Path, name: str, entries: dict[str, str], **modules: str) -> Path:
    """A package as pip leaves it in a folder of installed packages.

    Args:
        entries: the lines of each entry point group, by group: {"radpo.judges": "lengths = lengths:KIND"}.
        modules: the source of each module by its name; a name with two underscores is a module of a package.

    Returns:
        `site`, to be put on the path.
    """
    metadata = site / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("".join(f"[{group}]\n{lines}\n" for group, lines in entries.items()))
    for module, source in modules.items():
        path = site.joinpath(*module.split("__")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return site


def evaluation_sets(folder: Path, real_data: Path) -> Path:
    """A file that lists the evaluation sets among the real data, and one that is not among them."""
    places = {
        "alpaca-eval": "alpaca_eval2/instructions_and_baseline.jsonl.gz",
        "mt-bench": "mt_bench/question.jsonl",
        "arena-hard": "arena_hard_v0.1/question.jsonl",
        "gsm8k": "academic/gsm8k/test.jsonl.gz",
        "gpqa": "academic/gpqa",
        "musr": "academic/musr",
        "truthfulqa": "academic/truthfulqa/TruthfulQA.csv",
        "bbh": "academic/bbh",
        "arc-challenge": "academic/arc",
    }
    path = folder / "evaluations.yaml"
    path.write_text("".join(f"{name}: {real_data / place}\n" for name, place in places.items()))
    return path
