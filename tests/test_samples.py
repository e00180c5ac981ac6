"""Samples, their log-likelihoods and CHES scores against plain transformers and exact sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from factories import scored_pairs, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from radpo.benchmarks.reward_kl import summarise
from radpo.judges.samples import with_scores
from radpo.judges.verifier import Verifier
from radpo.models import samples as module
from radpo.models.ches import write_ches
from radpo.models.samples import SampleConfig, write_samples
from radpo.preferences.questions import Question

KEYWORD = ({"kind": "min_words", "n": 1},)
QUESTIONS = [
    Question("a", "short", ("Say a.",), (KEYWORD,)),
    Question("b", "long", ("Say something rather longer, please.",), (KEYWORD,)),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("samples") / "reference")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> Path:
    """The reference, moved a little."""
    folder = tmp_path_factory.mktemp("samples") / "policy"
    model = AutoModelForCausalLM.from_pretrained(reference)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.03 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(reference).save_pretrained(folder)
    return folder


def draw(
    policy: Path, reference: Path | None, out: Path, config: SampleConfig, questions=QUESTIONS, **more
) -> pd.DataFrame:
    return pd.read_parquet(write_samples(policy, reference, questions, out, config, **more))


def test_what_a_model_thought_is_not_judged_and_the_notes_count_it() -> None:
    question = Question("a", "short", ("Say it without commas.",), (({"kind": "no_commas"},),))
    frame = pd.DataFrame(
        {
            "prompt_id": "a", "sample": range(3), "goal": None, "tokens": 4, "ended": True, "logp_policy": -3.0,
            "logp_reference": -4.0, "text": ["<think>one, two</think>yes", "yes", "no, no"],
        }
    )  # fmt: skip
    scored = with_scores(frame, [question], Verifier(), lambda *step: None)
    assert scored.score.tolist()[0] == scored.score.tolist()[1] > scored.score.tolist()[2]
    notes = summarise(scored).notes
    assert "reward-kl: 1 of 3 samples began with reasoning, which was cut off before they were judged." in notes


def test_log_likelihoods_are_of_the_very_tokens_drawn(
    policy: Path, reference: Path, tmp_path: Path, monkeypatch
) -> None:
    kept: list[tuple[list[int], list[int]]] = []
    original = module._Models._draw

    def remember(self, prompts, max_new_tokens, seed):
        drawn = original(self, prompts, max_new_tokens, seed)
        kept.extend((list(prompt), ids) for prompt, (ids, _) in zip(prompts, drawn, strict=True))
        return drawn

    monkeypatch.setattr(module._Models, "_draw", remember)
    frame = draw(policy, reference, tmp_path / "s.parquet", SampleConfig((None, 7.0), 2, 12, batch_size=3))
    assert frame.prompt_id.tolist() == ["a"] * 4 + ["b"] * 4
    assert frame["sample"].tolist() == [0, 1] * 4
    for column, folder in (("logp_policy", policy), ("logp_reference", reference)):
        model = AutoModelForCausalLM.from_pretrained(folder)
        for (prompt, ids), found, tokens in zip(kept, frame[column], frame.tokens, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
            expected = sum(float(logits[len(prompt) + place - 1, token]) for place, token in enumerate(ids))
            assert tokens == len(ids)
            assert abs(found - expected) / tokens < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(policy)
    asked = [tokenizer.decode(prompt) for prompt, _ in kept]
    assert ["Overall score: 7." in text for text in asked] == [False, False, True, True] * 2
    assert (frame.ended == [ids[-1] == 0 for _, ids in kept]).all()


def test_the_default_goal_is_what_the_checkpoints_template_asks_for(reference: Path, tmp_path: Path) -> None:
    from radpo.preferences.goals import goal_aware_template

    conditioned, tokenizer = tmp_path / "conditioned", AutoTokenizer.from_pretrained(reference)
    AutoModelForCausalLM.from_pretrained(reference).save_pretrained(conditioned)
    tokenizer.chat_template = goal_aware_template(tokenizer.chat_template, best=9, placement="system")
    tokenizer.save_pretrained(conditioned)

    def texts(policy: Path, goal, name: str) -> list[str]:
        return draw(policy, None, tmp_path / name, SampleConfig((goal,), 2, 6)).text.tolist()

    assert texts(conditioned, "default", "a") == texts(reference, 9.0, "b")
    assert texts(conditioned, None, "c") == texts(reference, "default", "d") == texts(reference, None, "e")
    assert texts(conditioned, "default", "a") != texts(reference, None, "e")


def test_sampled_kl_and_entropy_are_the_exact_sums(policy: Path, reference: Path, tmp_path: Path) -> None:
    """Of one-token answers KL and entropy are sums over the vocabulary."""
    frame = draw(
        policy, reference, tmp_path / "s.parquet", SampleConfig((None,), 1500, 1, batch_size=500), QUESTIONS[:1]
    )
    tokenizer = AutoTokenizer.from_pretrained(policy)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say a."}], add_generation_prompt=True, return_dict=False
    )
    with torch.no_grad():
        p, q = (
            AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
            for folder in (policy, reference)
        )
    kl, entropy = float((p.exp() * (p - q)).sum()), float(-(p.exp() * p).sum())
    one_each = frame.assign(score=5.0, prompt_id=[f"draw {number}" for number in range(len(frame))])
    scores = {r.metric: r for r in summarise(one_each, resamples=200).results if r.subset == "all"}
    assert kl > 0.01
    assert abs(scores["kl"].value - kl) < 3.5 * scores["kl"].stderr
    assert abs(scores["entropy"].value - entropy) < 3.5 * scores["entropy"].stderr
    assert scores["kl"].stderr < kl


def test_a_policy_is_no_distance_from_itself(reference: Path, tmp_path: Path) -> None:
    frame = draw(reference, reference, tmp_path / "s.parquet", SampleConfig((None,), 2, 6))
    assert (frame.logp_policy == frame.logp_reference).all()
    alone = draw(reference, None, tmp_path / "t.parquet", SampleConfig((None,), 2, 6))
    assert alone.logp_reference.isna().all()
    assert alone.text.tolist() == frame.text.tolist(), "the same seed draws the same answers"


def test_interrupted_sampling_goes_on_with_the_same_answers(reference: Path, tmp_path: Path) -> None:
    config = SampleConfig((None,), 3, 5, batch_size=2)
    whole = draw(reference, None, tmp_path / "whole.parquet", config)

    def stop(done: int, total: int) -> None:
        assert total == 6
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(reference, None, tmp_path / "s.parquet", config, progress=stop)
    pd.testing.assert_frame_equal(draw(reference, None, tmp_path / "s.parquet", config), whole)


def test_the_judge_scores_each_answer_by_its_own_question(reference: Path, tmp_path: Path) -> None:
    frame = draw(reference, None, tmp_path / "s.parquet", SampleConfig((None,), 1, 4))
    frame["text"] = ["...", "one word"]
    graded = with_scores(frame, QUESTIONS, Verifier(), lambda done, total: None)
    assert graded.score.tolist() == [1.0, 10.0]
    assert graded.prompt.tolist() == [q.turns[0] for q in QUESTIONS]


def test_ches_is_the_papers_definition(reference: Path, tmp_path: Path) -> None:
    pairs = scored_pairs([(9, 3), (7, 6), (8, 1)])
    out = write_ches(reference, pairs.to_batches(), tmp_path / "c.parquet", total=3, max_length=400)
    found = pd.read_parquet(out).set_index("pair_id")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(reference), AutoTokenizer.from_pretrained(reference)
    for pair in pairs.to_pylist():
        states = {}
        prompt = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, return_dict=False)
        for side in ("chosen", "rejected"):
            messages = [*pair["prompt"], {"role": "assistant", "content": pair[side]}]
            ids = tokenizer.apply_chat_template(messages, return_dict=False)
            with torch.no_grad():
                hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0].double()
            # The state that predicts a token stands one place before it; the last token's own state predicts nothing.
            states[side] = hidden[len(prompt) - 1 : len(ids) - 1]
        better, worse = states["chosen"].sum(0), states["rejected"].sum(0)
        assert found.ches[pair["id"]] == pytest.approx(float(better @ worse - better.norm() ** 2), rel=1e-4)
        better, worse = states["chosen"].mean(0), states["rejected"].mean(0)
        normalised = float(better @ worse - better.norm() ** 2)
        assert found.ches_normalised[pair["id"]] == pytest.approx(normalised, rel=1e-4, abs=1e-4)


def test_responses_that_are_alike_have_a_ches_of_nothing(reference: Path, tmp_path: Path) -> None:
    pairs = scored_pairs([(9, 3)])
    same = pairs.set_column(pairs.column_names.index("rejected"), "rejected", pairs["chosen"])
    found = pd.read_parquet(write_ches(reference, same.to_batches(), tmp_path / "c.parquet", total=1, max_length=400))
    assert np.abs(found.ches[0]) < 1e-6
