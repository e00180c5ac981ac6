"""What is longer than a model's context: cut there, counted, and never read beyond it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from factories import scored_pairs, write_model

from radpo.benchmarks import displacement, implicit_reward, unlearning
from radpo.core.errors import DataError, ModelError
from radpo.models.ches import write_ches
from radpo.models.heldout import heldout_log_likelihoods, side_by_side, write_heldout
from radpo.models.likelihood import TokenizedResponse, log_likelihoods
from radpo.models.loading import load_model, load_tokenizer
from radpo.preferences.relabel import relabel
from radpo.training.reference import reference_log_likelihoods
from radpo.training.run import train
from radpo.training.settings import TrainingSettings

PAIRS = scored_pairs([(9, 3), (7, 6), (10, 1), (8, 5), (6, 2), (9, 4)])
CONTEXT = 70  # prompts of 44 to 58 tokens, goals aside, so that responses are cut


@pytest.fixture(scope="module", params=["learned positions", "rotary positions"])
def model(request, tmp_path_factory) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

    plain, folder = write_model(tmp_path_factory.mktemp("plain")), tmp_path_factory.mktemp("short")
    torch.manual_seed(1)
    if request.param == "learned positions":
        config = GPT2Config(
            vocab_size=258, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, eos_token_id=0, bos_token_id=0,
            pad_token_id=1, initializer_range=0.4,
        )  # fmt: skip
        GPT2LMHeadModel(config).save_pretrained(folder)
    else:
        config = AutoConfig.from_pretrained(plain)
        config.max_position_embeddings = CONTEXT
        AutoModelForCausalLM.from_pretrained(plain, config=config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(plain).save_pretrained(folder)
    return folder


def heldout(model: Path, max_length: int) -> pd.DataFrame:
    return heldout_log_likelihoods(model, PAIRS, scale=(1.0, 10.0), max_length=max_length, precision="float32")


def test_held_out_responses_are_cut_at_the_context_and_counted(model: Path, tmp_path: Path) -> None:
    found = heldout(model, 1024)
    pd.testing.assert_frame_equal(found, heldout(model, CONTEXT))
    plain = found[found.goal == "none"]
    assert (plain.cut > 0).any()
    assert (plain.tokens > 0).all()
    assert (found[found.goal == "best"].tokens == 0).all(), "the goal's sentence alone fills this context"


def test_pairs_of_which_nothing_could_be_measured_are_left_out_with_a_note(model: Path) -> None:
    rows = heldout(model, CONTEXT)
    rows.loc[rows.pair_id != "p1", "tokens"] = 5  # as of a context that holds the goals of all pairs but one
    frame = rows.assign(logp_policy=rows.logp + 0.5, logp_reference=rows.logp)
    ches = pd.DataFrame({"pair_id": [f"p{n}" for n in range(6)], "ches": range(6), "ches_normalised": range(6)})
    note = "1 of 6 held-out pairs were left out: their prompt, goal included, fills max_length or the model's context"
    for scores, metric in (
        (unlearning.summarise(frame), "delta_logp_chosen"),
        (implicit_reward.summarise(frame, beta=0.1, resamples=20), "accuracy"),
        (displacement.summarise(frame, ches, resamples=20), "delta_logp_chosen"),
    ):
        assert sum(note in said for said in scores.notes) == 1
        assert {r.n for r in scores.results if r.metric == metric and r.subset in ("none", "best", "all")} == {5}


def test_training_reads_no_further_than_the_context_and_counts_what_is_cut(model: Path, tmp_path: Path) -> None:
    pairs = relabel(PAIRS, "plain").table
    runs = {}
    for max_length in (1024, CONTEXT):
        settings = TrainingSettings(
            learning_rate=1e-3, batch_size=2, per_device_train_batch_size=2, max_length=max_length, precision="float32"
        )
        reference = reference_log_likelihoods(model, pairs, max_length=max_length, precision="float32")
        train(model, pairs, reference, tmp_path / str(max_length), settings, seed=0)
        runs[max_length] = pd.read_parquet(tmp_path / str(max_length) / "training.parquet")
    pd.testing.assert_frame_equal(*runs.values())
    assert runs[1024].query("metric == 'loss'").value.iloc[0] == pytest.approx(0.693147, abs=1e-4)
    rows, sides = reference.to_pylist(), ("chosen_ids", "rejected_ids")
    lengths = [len(row["prompt_ids"]) + len(row[side]) for row in rows for side in sides]
    cut = [length - CONTEXT for length in lengths if length > CONTEXT]
    (note,) = json.loads((tmp_path / "1024" / "notes.json").read_text())
    assert note == (
        f"{len(cut)} of 12 training responses were cut at the model's context of {CONTEXT} tokens, which is shorter "
        f"than max_length (1024), by up to {max(cut)} tokens."
    )
    assert json.loads((tmp_path / str(CONTEXT) / "notes.json").read_text()) == []


def test_prompts_that_fill_the_context_stop_training_with_a_count(model: Path, tmp_path: Path) -> None:
    pairs = relabel(PAIRS, "ra").table
    settings = TrainingSettings(batch_size=2, per_device_train_batch_size=2, max_length=1024, precision="float32")
    reference = reference_log_likelihoods(model, pairs, max_length=1024, precision="float32")
    with pytest.raises(DataError, match=r"12 of 12 training pairs have .* 70 tokens \(the model's context\) or more"):
        train(model, pairs, reference, tmp_path, settings, seed=0)


def test_ches_scores_read_no_further_than_the_context(model: Path, tmp_path: Path) -> None:
    found = [
        pd.read_parquet(
            write_ches(model, PAIRS.to_batches(), tmp_path / f"{length}.parquet", total=6, max_length=length)
        )
        for length in (1024, CONTEXT)
    ]
    pd.testing.assert_frame_equal(*found)


def test_a_table_of_positions_is_never_read_beyond_its_end(model: Path) -> None:
    loaded, tokenizer = load_model(model), load_tokenizer(model)
    ids = tuple(tokenizer("x" * 100)["input_ids"])
    empty, long = TokenizedResponse(ids, ()), TokenizedResponse(ids[:10], ids[:80])
    assert log_likelihoods(loaded, [empty, TokenizedResponse(ids[:10], ids[:8])])[0].logp == 0
    if loaded.config.model_type == "gpt2":
        # of the 90 tokens the last is predicted, not read
        with pytest.raises(ModelError, match="learned positions for 70 tokens, and 89 are needed"):
            log_likelihoods(loaded, [long])


def test_both_models_are_cut_alike(model: Path, tmp_path: Path) -> None:
    whole = write_heldout(
        model,
        PAIRS.to_batches(),
        tmp_path / "a.parquet",
        total=6,
        scale=(1.0, 10.0),
        max_length=1024,
        precision="float32",
    )
    assert side_by_side(policy=whole, reference=whole).tokens.sum() == heldout(model, CONTEXT).tokens.sum()
