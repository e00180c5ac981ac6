"""The testbed's model: a small Llama trained from scratch on the task, as a Hugging Face folder.

It learns to answer with any quality, whatever score the conversation asks for: that a goal means anything is left to
alignment. What numbers mean it learns by saying a word so many times.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from task import BEST, WORDS, draw_words, prompt_text, speak

from radpo.preferences.goals import DEFAULT_GOAL_TEXT, condition

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
COUNTING = 0.2
"""Share of the conversations that ask for one word so many times."""
GOAL_SHOWN = 0.5
"""Share of the conversations that begin with a goal, drawn whatever the response."""


def make_tokenizer(more: Sequence[str] = (), sentences: Sequence[str] = ()) -> Any:
    """A tokenizer of words and digits; the paper's sentence about goals is one token, which makes rows half as long.

    Args:
        more: further words that it knows.
        sentences: further sentences that are one token each.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    sentence = DEFAULT_GOAL_TEXT.partition("{g}")[0].rstrip()
    plain = ["Say", "these", "words", "times", ":", ".", *map(str, range(BEST + 1)), *WORDS, *more]
    special = ["</s>", "<pad>", "<unk>", "<system>", "<user>", "<assistant>"]
    vocabulary = {token: place for place, token in enumerate([*special, *plain])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"10|\d|[A-Za-z]+|\S"), "isolated")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
    )  # fmt: skip
    fast.add_tokens([AddedToken(text, normalized=False, rstrip=True) for text in (sentence, *sentences)])
    fast.chat_template = TEMPLATE
    return fast


def draw_conversation(chance: random.Random) -> tuple[list[dict[str, Any]], str]:
    """What is said to the model, and what it is to answer."""
    if chance.random() < COUNTING:
        word, times = chance.choice(WORDS), chance.randint(1, BEST)
        asked, answer = f"Say {word} {times} times", " ".join([word] * times)
    else:
        words = draw_words(chance)
        asked, answer = prompt_text(words), " ".join(speak(words, chance))
    goal = chance.randint(1, BEST) if chance.random() < GOAL_SHOWN else None
    return condition([{"role": "user", "content": asked}], goal, "system"), answer


def pretrain(
    folder: Path,
    *,
    seed: int,
    steps: int,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    width: int = 64,
    layers: int = 2,
    tokenizer: Any = None,
    draw: Callable[[random.Random], tuple[list[dict[str, Any]], str]] = draw_conversation,
    progress: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> None:
    """Train the model on conversations drawn as it goes, by the log-likelihood of their answers, and save it.

    Args:
        tokenizer: the study's own unless given.
        draw: what is said to the model and what it is to answer.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

    tokenizer = make_tokenizer() if tokenizer is None else tokenizer
    torch.set_num_threads(1)  # so small a model gains nothing by more, and would differ with their number
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    chance = random.Random(f"pretraining/{seed}")
    for step in range(steps):
        loss = model(**_batch(tokenizer, [draw(chance) for _ in range(batch_size)])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps, float(loss.detach()))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _batch(tokenizer: Any, conversations: list[tuple[list[dict[str, Any]], str]]) -> dict[str, Any]:
    """Token ids padded on the right, and labels where an answer's token or the end after it is."""
    import torch

    prompts = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m, _ in conversations]
    wholes = [f"{prompt}{answer}</s>" for prompt, (_, answer) in zip(prompts, conversations, strict=True)]
    batch = tokenizer(wholes, padding=True, padding_side="right", return_tensors="pt", return_token_type_ids=False)
    lengths = torch.tensor([len(ids) for ids in tokenizer(prompts)["input_ids"]])
    place = torch.arange(batch["input_ids"].shape[1])
    labels = batch["input_ids"].masked_fill((place < lengths[:, None]) | (batch["attention_mask"] == 0), -100)
    return {**batch, "labels": labels}
