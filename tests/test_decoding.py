"""How answers are drawn: by the sampling settings, within the model's context, without a model's reasoning."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from factories import write_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from radpo.benchmarks.alpaca_eval import Sampling as AlpacaEvalSampling
from radpo.core.errors import ConfigError, ModelError
from radpo.core.reasoning import Reply, split_reasoning
from radpo.models import generation
from radpo.models.answers import answer_notes, answer_questions
from radpo.models.backends import with_transformers, with_vllm
from radpo.models.context import context_tokens
from radpo.models.decoding import Sampling
from radpo.models.generation import answer, as_text
from radpo.models.loading import load_model, load_tokenizer
from radpo.models.samples import SampleConfig, write_samples
from radpo.preferences.questions import Question

LEAKS = {
    "repetition_penalty": 1.8, "no_repeat_ngram_size": 2, "min_new_tokens": 4, "temperature": 0.3, "top_k": 5,
    "top_p": 0.5, "do_sample": True, "begin_suppress_tokens": [72],
}  # fmt: skip
"""Settings of a model's own that would change what is drawn."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("plain"))


def with_config(folder: Path, out: Path, **settings: Any) -> Path:
    """The same weights with a generation config of their own."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "pad_token_id": 1, **settings}))
    return out


@pytest.fixture(scope="module")
def leaking(plain, tmp_path_factory) -> Path:
    """It suppresses, among others, the very tokens that greedy answers are made of."""
    model, ids = AutoModelForCausalLM.from_pretrained(plain), torch.tensor([ids_of(plain, "Why?")])
    greedy = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    suppressed = sorted(set(greedy.tolist()) - {0})
    return with_config(plain, tmp_path_factory.mktemp("leaking"), **LEAKS, suppress_tokens=suppressed)


def talk(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def drawn(folder: Path, sampling: Sampling, *texts: str) -> list[str]:
    return answer(load_model(folder), load_tokenizer(folder), talk(*texts), sampling, batch_size=2)


def ids_of(folder: Path, text: str) -> list[int]:
    return list(
        AutoTokenizer.from_pretrained(folder).apply_chat_template(
            talk(text)[0], add_generation_prompt=True, return_dict=False
        )
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_models_own_generation_config_changes_nothing_that_is_drawn(plain, leaking, temperature):
    sampling = Sampling(24, temperature, 0.9 if temperature else 1.0, seed=2)
    texts = ["Why?", "Say it all again, please.", "Hm"]
    assert drawn(leaking, sampling, *texts) == drawn(plain, sampling, *texts)


def test_greedy_answers_are_the_likeliest_tokens_whatever_the_models_config(leaking):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(leaking), AutoTokenizer.from_pretrained(leaking)
    ids = ids_of(leaking, "Why?")
    prompt = len(ids)
    while len(ids) < prompt + 20 and ids[-1] != 0:
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    found = drawn(leaking, Sampling(20, 0), "Why?")
    assert found == [tokenizer.decode(ids[prompt:], skip_special_tokens=True).strip()]


def test_sampled_entropy_and_kl_are_exact_sums_whatever_the_models_config(plain, leaking, tmp_path):
    """Of one-token answers entropy and KL are sums over the vocabulary."""
    question = Question("a", "short", ("Say a.",), ((),))
    reference = AutoModelForCausalLM.from_pretrained(plain)
    with torch.no_grad():
        for weight in reference.parameters():
            weight += 0.03 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    reference.save_pretrained(tmp_path / "reference")
    AutoTokenizer.from_pretrained(plain).save_pretrained(tmp_path / "reference")
    draws = SampleConfig((None,), 1500, 1, batch_size=500)
    out = write_samples(leaking, tmp_path / "reference", [question], tmp_path / "s.parquet", draws)
    frame = pd.read_parquet(out)
    prompt = torch.tensor([ids_of(plain, "Say a.")])
    with torch.no_grad():
        p, q = (
            AutoModelForCausalLM.from_pretrained(folder)(prompt).logits[0, -1].double().log_softmax(-1)
            for folder in (leaking, tmp_path / "reference")
        )
    entropy, kl = float(-(p.exp() * p).sum()), float((p.exp() * (p - q)).sum())
    ratios = frame.logp_policy - frame.logp_reference
    assert abs(-frame.logp_policy.mean() - entropy) < 3.5 * frame.logp_policy.std() / np.sqrt(len(frame))
    assert abs(ratios.mean() - kl) < 3.5 * ratios.std() / np.sqrt(len(frame))


def test_the_models_own_config_is_used_where_it_is_asked_for_and_noted(plain, leaking, tmp_path):
    sampling = Sampling(12, 0.0, seed=3, use_model_config=True)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(leaking), AutoTokenizer.from_pretrained(leaking)
    found = drawn(leaking, sampling, "Why?")
    ids = torch.tensor([ids_of(leaking, "Why?")])
    with torch.random.fork_rng():
        torch.manual_seed(generation._batch_seed(3, 0))
        expected = model.generate(ids, max_new_tokens=12)[0, ids.shape[1] :]
    assert found == [tokenizer.decode(expected, skip_special_tokens=True).strip()]
    assert found != drawn(plain, sampling, "Why?") == drawn(plain, Sampling(12, 0.0), "Why?")
    question = Question("a", "short", ("Why?",), ((),))
    answer_questions(
        [question], lambda: with_transformers(leaking, precision="float32"), lambda q, t: sampling, tmp_path
    )
    assert "repetition_penalty 1.8" in answer_notes(tmp_path)[0]
    answer_questions(
        [question], lambda: with_transformers(leaking, precision="float32"), lambda q, t: Sampling(4, 0), tmp_path / "x"
    )
    assert answer_notes(tmp_path / "x") == ()


@pytest.fixture
def vllm(monkeypatch) -> list[dict[str, Any]]:
    """A stand-in for vLLM: the parameters of every prompt."""
    seen: list[dict[str, Any]] = []

    class LLM:
        def __init__(self, **settings):
            pass

        def generate(self, prompts, parameters, use_tqdm):
            seen.extend(parameters)
            return [types.SimpleNamespace(outputs=[types.SimpleNamespace(text="text")]) for _ in prompts]

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, lambda **values: values
    monkeypatch.setitem(sys.modules, "vllm", module)
    return seen


def test_vllm_draws_as_transformers_does(plain, tmp_path, vllm):
    folder = with_config(plain, tmp_path / "own", do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.1)
    backend = with_vllm(folder)
    for sampling in (Sampling(9, 0.5, 0.9), Sampling(9, 0.0, use_model_config=True)):
        backend(talk("A"), sampling, {}, lambda fresh: None, lambda *step: None)
    common = {"max_tokens": 9, "seed": 0, "stop": [], "stop_token_ids": [0]}
    assert vllm == [
        {"temperature": 0.5, "top_p": 0.9, **common},
        {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1, **common},
    ]
    unknown = with_vllm(with_config(plain, tmp_path / "unknown", no_repeat_ngram_size=3))
    with pytest.raises(ConfigError, match="vLLM has nothing for no_repeat_ngram_size"):
        unknown(talk("A"), Sampling(9, 0.0, use_model_config=True), {}, lambda fresh: None, lambda *step: None)


def test_a_temperature_beside_the_models_own_config_is_refused():
    with pytest.raises(ValueError, match="use_model_config takes the model's own temperature"):
        AlpacaEvalSampling(use_model_config=True, temperature=0.7)


# --- the context


@pytest.fixture(scope="module")
def short(plain, tmp_path_factory) -> Path:
    """A GPT-2 of 64 learned positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("short")
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(plain)
    config = GPT2Config(
        vocab_size=258, n_positions=64, n_embd=32, n_layer=2, n_head=4, eos_token_id=0, bos_token_id=0,
        pad_token_id=1, initializer_range=0.4,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_answers_end_where_the_context_does_and_the_notes_count_them(short, tmp_path):
    sizes = {"fits": 5, "limited": 20, "fills": 90}
    questions = [Question(name, "", ("x" * size,), ((),)) for name, size in sizes.items()]
    model, tokenizer = load_model(short), load_tokenizer(short)
    path = answer_questions(
        questions, lambda: with_transformers(short, precision="float32"), lambda q, t: Sampling(30, 0), tmp_path
    )
    rows = {row["question_id"]: row["turns"][0] for row in map(json.loads, path.read_text().splitlines())}
    for name in ("fits", "limited"):  # as each alone
        ids = ids_of(short, "x" * sizes[name])
        room = min(30, 64 - len(ids))
        alone = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=room
        )
        assert rows[name] == tokenizer.decode(alone[0, len(ids) :], skip_special_tokens=True).strip()
    assert rows["fills"] == ""
    fills, limited = answer_notes(tmp_path)
    assert fills == "1 of 3 prompts fill the model's context of 64 tokens: their answers are empty."
    assert limited.startswith("1 of 3 answers had room for fewer tokens than max_new_tokens")


def test_a_group_of_prompts_that_all_fill_the_context_does_not_end_a_run(short, tmp_path):
    questions = [Question("fits", "a", ("x" * 5,), ((),)), Question("fills", "b", ("x" * 90,), ((),))]
    path = answer_questions(
        questions,
        lambda: with_transformers(short, precision="float32"),
        lambda question, turn: Sampling(9, 0, seed=ord(question.category)),  # a group each
        tmp_path,
    )
    rows = {row["question_id"]: row["turns"][0] for row in map(json.loads, path.read_text().splitlines())}
    assert rows["fills"] == ""
    assert "1 of 2 prompts fill the model's context of 64 tokens: their answers are empty." in answer_notes(tmp_path)
    with pytest.raises(ModelError, match=r"every prompt fills the model's context of 64 tokens \(the shortest has"):
        answer_questions(
            questions[1:], lambda: with_transformers(short, precision="float32"), lambda q, t: Sampling(9, 0),
            tmp_path / "none",
        )  # fmt: skip


def test_vllm_is_given_the_same_room(short, vllm):
    backend = with_vllm(short)
    found = backend(talk("x" * 5, "x" * 20, "x" * 90), Sampling(30, 0), {}, lambda fresh: None, lambda *step: None)
    assert found == ["text", "text", ""]
    assert [told["max_tokens"] for told in vllm] == [30, 64 - len(ids_of(short, "x" * 20))]


def test_where_every_prompt_fills_the_context_nothing_is_begun(short, tmp_path):
    with pytest.raises(ModelError, match="every prompt fills the model's context of 64 tokens"):
        drawn(short, Sampling(5, 0), "x" * 90, "y" * 80)
    with pytest.raises(ModelError, match=r"question 'long': its prompt of \d+ tokens and max_new_tokens 40 are more"):
        write_samples(
            short,
            None,
            [Question("long", "", ("x" * 20,), ((),))],
            tmp_path / "s.parquet",
            SampleConfig((None,), 1, 40),
        )


def test_one_place_knows_a_models_context_length():
    from transformers import Gemma3Config, GPT2Config, LlamaConfig, Qwen3Config

    assert context_tokens(GPT2Config(n_positions=64)) == 64
    assert context_tokens(LlamaConfig(max_position_embeddings=2048)) == 2048
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
    assert context_tokens(Qwen3Config(max_position_embeddings=40960, rope_parameters=yarn)) == 131072
    llama3 = {
        "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "rope_theta": 5e5,
    }  # fmt: skip
    assert context_tokens(LlamaConfig(max_position_embeddings=131072, rope_parameters=llama3)) == 131072
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    assert context_tokens(LlamaConfig(max_position_embeddings=2048, rope_parameters=linear)) == 4096
    gemma = Gemma3Config(text_config={"max_position_embeddings": 8192, "num_hidden_layers": 2})
    assert context_tokens(gemma) == 8192
    bare: Any = types.SimpleNamespace()
    assert context_tokens(bare, types.SimpleNamespace(model_max_length=512)) == 512
    assert context_tokens(bare, types.SimpleNamespace(model_max_length=int(1e30))) is None


# --- reasoning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>from 1 to 10</think>\n\nFour.", Reply("from 1 to 10", "Four.")),
        ("\n<think>\n</think>\nFour.", Reply("\n", "Four.")),
        ("hm, so be it</think>Four.", Reply("hm, so be it", "Four.")),
        ("<think>and on and on", Reply("and on and on", "")),
        ("[THINK]a[/THINK]Four.", Reply("a", "Four.")),
        ("Write <think>x</think> to think.", Reply(None, "Write <think>x</think> to think.")),
        ("Four.", Reply(None, "Four.")),
        ("<think>a</think>Use </think> to close <think>.", Reply("a", "Use </think> to close <think>.")),
    ],
)
def test_reasoning_is_parted_from_the_answer(text, expected):
    assert split_reasoning(text) == expected


THOUGHTS = ["<think>long thoughts</think>One.", "<think>and on", "Three."]


@pytest.mark.parametrize("keep", [False, True])
def test_reasoning_is_cut_off_answers_before_the_next_turn_and_the_judge(tmp_path, keep):
    questions = [Question(str(n), "", ("First?", "Then?") if n == 0 else ("First?",), ((),) * 2) for n in range(3)]
    seen: list[list[dict[str, str]]] = []

    def backend(conversations, sampling, done, keep, progress):
        seen.extend([dict(message) for message in conversation] for conversation in conversations)
        return [THOUGHTS[place % 3] for place in range(len(conversations))]

    path = answer_questions(questions, lambda: backend, lambda q, t: Sampling(5, 0), tmp_path, keep_reasoning=keep)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    shown = THOUGHTS if keep else ["One.", "", "Three."]
    assert [row["turns"][0] for row in rows] == shown
    assert seen[-1][1]["content"] == shown[0]
    if keep:
        assert answer_notes(tmp_path) == ()
        return
    assert rows[0]["reasoning"] == ["long thoughts", "long thoughts"]
    assert "reasoning" not in rows[2]
    (note,) = answer_notes(tmp_path)
    assert note.startswith("3 of 4 answers began with reasoning, which was cut off")
    assert note.endswith("1 of them ended before they answered, and count as empty.")


def test_marks_of_reasoning_that_are_special_tokens_stay_in_the_text(plain):
    tokenizer = AutoTokenizer.from_pretrained(plain)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = tokenizer("[THINK]so[/THINK]yes</s>", add_special_tokens=False)["input_ids"]
    assert as_text(tokenizer, ids) == "[THINK]so[/THINK]yes"
    assert split_reasoning(as_text(tokenizer, ids)) == Reply("so", "yes")


def test_saving_keeps_the_models_own_generation_config(leaking):
    """Drawing sets it aside for the while only."""
    model, tokenizer = load_model(leaking), load_tokenizer(leaking)
    answer(model, tokenizer, talk("Why?"), Sampling(3, 0))
    assert isinstance(model.generation_config, GenerationConfig)
    assert model.generation_config.no_repeat_ngram_size == 2
