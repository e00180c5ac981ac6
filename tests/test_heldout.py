"""Held-out log-likelihoods: pairs are streamed, interrupted work is taken up, every goal is asked in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from factories import scored_pairs, write_model

from radpo.core.errors import DataError
from radpo.models import heldout
from radpo.models.heldout import heldout_log_likelihoods, side_by_side, write_heldout


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("heldout") / "model")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(heldout, "CHUNK", 3)


PAIRS = scored_pairs([(9, 3), (7, 6), (10, 1), (6, 5.5), (8, 2), (9, 8), (5, 4)])
HOW = {"scale": (1.0, 10.0), "max_length": 400, "precision": "float32"}


def test_log_likelihoods_are_transformers_one_sequence_at_a_time(model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    frame = heldout_log_likelihoods(model, PAIRS, **HOW).set_index(["pair_id", "response", "goal"])
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    says = "You are an assistant that generates responses for the instruction while implicitly achieving the following "
    says += "target scores (on a scale of 1-10, where 1 is lowest and 10 is highest):\nOverall score: {g}."
    goals = {"none": None, "best": "10", "chosen": "score_chosen", "rejected": "score_rejected"}
    for pair in PAIRS.to_pylist()[:3]:
        for goal, column in goals.items():
            score = column if column in (None, "10") else f"{pair[column]:g}"
            system = [] if score is None else [{"role": "system", "content": says.replace("{g}", score)}]
            for response in ("chosen", "rejected"):
                messages = [*system, *pair["prompt"]]
                prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
                whole = tokenizer.apply_chat_template(
                    [*messages, {"role": "assistant", "content": pair[response]}], return_dict=False
                )
                with torch.no_grad():
                    logits = plain(torch.tensor([whole])).logits[0].log_softmax(-1)
                expected = sum(float(logits[at - 1, whole[at]]) for at in range(len(prompt), len(whole)))
                found = frame.loc[(pair["id"], response, goal)]
                assert found.tokens == len(whole) - len(prompt)
                assert abs(found.logp - expected) / found.tokens < 1e-4


def test_checkpoints_of_one_model_are_tokenised_for_once_and_others_anew(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three variants, one of them conditioned, and three goals: each pair is tokenised three times, not nine."""
    from transformers import AutoTokenizer

    from radpo.models import kept_tokens
    from radpo.models.loading import load_tokenizer
    from radpo.preferences.goals import goal_aware_template, goal_wording
    from radpo.preferences.relabel import relabel
    from radpo.training import reference

    monkeypatch.setattr(kept_tokens, "_KEPT", {})
    tokenize, named = heldout.tokenize_pair, []
    monkeypatch.setattr(heldout, "tokenize_pair", lambda *a, **how: (named.append(how["name"]), tokenize(*a, **how))[1])
    how = {**HOW, "goals": [1, 5.5, 10], "total": 7}
    folders = {"dpo": model, "ipo": tmp_path / "ipo", "ra-dpo": tmp_path / "ra-dpo", "other": tmp_path / "other"}
    for name in ("ipo", "ra-dpo", "other"):
        shutil.copytree(model, folders[name])
        tokenizer = load_tokenizer(model)
        if name == "ra-dpo":
            wording = goal_wording(HOW["scale"])
            tokenizer.chat_template = goal_aware_template(
                tokenizer.chat_template, best=10, placement="system", template=wording
            )
        if name == "other":
            tokenizer.chat_template = "{{ 'Be brief.' }}" + tokenizer.chat_template
        tokenizer.save_pretrained(folders[name])
    assert AutoTokenizer.from_pretrained(folders["ra-dpo"]).chat_template != load_tokenizer(model).chat_template
    measured = {}
    for name, expected in {"dpo": 21, "ipo": 21, "ra-dpo": 21, "other": 42}.items():
        measured[name] = write_heldout(folders[name], PAIRS.to_batches(), tmp_path / f"{name}.parquet", **how)
        assert len(named) == expected, name
    first, conditioned, other = (pd.read_parquet(measured[name]) for name in ("dpo", "ra-dpo", "other"))
    pd.testing.assert_frame_equal(conditioned, first)
    assert (other["logp"] != first["logp"]).all()
    named.clear()
    monkeypatch.setattr(reference, "tokenize_pair", heldout.tokenize_pair)
    relabeled = relabel(PAIRS, "ra", placement="system", template=goal_wording(HOW["scale"])).table
    logps = pa.table({"id": relabeled["id"], "ref_chosen_logps": [0.0] * 14, "ref_rejected_logps": [0.0] * 14})
    watched = [reference.known_log_likelihoods(folders[name], relabeled, logps) for name in ("dpo", "ipo", "ra-dpo")]
    assert len(named) == relabeled.num_rows == 14, "what every training is watched on, too"
    assert watched[0].equals(watched[2])
    monkeypatch.setattr(kept_tokens, "MOST_BYTES", 0)
    monkeypatch.setattr(kept_tokens, "_KEPT", {})
    named.clear()
    anew = write_heldout(model, PAIRS.to_batches(), tmp_path / "anew.parquet", **how)
    pd.testing.assert_frame_equal(pd.read_parquet(anew), first)
    assert (len(named), kept_tokens._KEPT) == (21, {})


def test_streamed_to_a_file_is_what_memory_holds(model: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = write_heldout(
        model, PAIRS.to_batches(max_chunksize=2), tmp_path / "l.parquet", total=7, **HOW,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    written = pd.read_parquet(out)
    pd.testing.assert_frame_equal(written, heldout_log_likelihoods(model, PAIRS, **HOW), check_dtype=False)
    assert {total for _, total in told} == {7 * 8}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {3 * 8, 6 * 8, 7 * 8} <= {done for done, _ in told}
    assert len(told) > 3, "progress is told within a chunk, too"
    assert [p.name for p in tmp_path.iterdir()] == ["l.parquet"]


def test_no_more_pairs_are_read_than_a_chunk_needs(model: Path, tmp_path: Path) -> None:
    read, seen = 0, []

    def stream():
        nonlocal read
        for batch in PAIRS.to_batches(max_chunksize=1):
            read += 1
            yield batch

    write_heldout(
        model, stream(), tmp_path / "l.parquet", total=7, **HOW, progress=lambda done, _: seen.append((done, read))
    )
    assert max(ahead - done / 8 for done, ahead in seen) <= 3, "a chunk's pairs, of which none need be scored yet"
    assert seen[-1] == (56, 7)


def test_interrupted_work_is_taken_up_and_finished_work_left(model: Path, tmp_path: Path, monkeypatch) -> None:
    def stop(done: int, total: int) -> None:
        if done > 6 * 8:
            raise KeyboardInterrupt

    out = tmp_path / "l.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_heldout(model, PAIRS.to_batches(), out, total=7, **HOW, key="a", progress=stop)
    assert not out.exists()
    scored: list[int] = []
    original = heldout._Scorer.score

    def count(self, rows, progress):
        scored.append(len(rows))
        return original(self, rows, progress)

    monkeypatch.setattr(heldout._Scorer, "score", count)
    write_heldout(model, PAIRS.to_batches(), out, total=7, **HOW, key="a")
    assert scored == [1], "only the last chunk was left to do"
    write_heldout(model, PAIRS.to_batches(), out, total=7, **HOW, key="a")
    assert scored == [1]
    write_heldout(model, PAIRS.to_batches(), out, total=7, **HOW, key="b")
    assert scored == [1, 3, 3, 1], "another call's file does not count"


def test_what_is_cut_is_said_and_equal_prompts_share_an_id(model: Path) -> None:
    frame = heldout_log_likelihoods(model, PAIRS, scale=(1.0, 10.0), max_length=60, precision="float32")
    whole = heldout_log_likelihoods(model, PAIRS, **HOW)
    assert (frame.cut > 0).any()
    assert (frame.tokens + frame.cut == whole.tokens).all()
    twice = PAIRS.take([0, 1, 0])
    assert heldout_log_likelihoods(model, twice, **HOW).prompt_id.nunique() == 2


def test_both_models_side_by_side_have_to_have_the_same_pairs(model: Path, tmp_path: Path) -> None:
    def measured(name: str, pairs) -> Path:
        return write_heldout(model, pairs.to_batches(), tmp_path / name, total=pairs.num_rows, **HOW)

    whole, few = measured("whole", PAIRS), measured("few", PAIRS.slice(1))
    joined = side_by_side(policy=whole, reference=whole)
    assert (joined.logp_policy == joined.logp_reference).all()
    assert len(joined) == 7 * 8
    with pytest.raises(DataError, match=r"are of different responses \(56 and 48\)"):
        side_by_side(policy=whole, reference=few)


def test_no_pairs_are_an_error(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no held-out pairs"):
        write_heldout(model, [], tmp_path / "l.parquet", total=0, **HOW)


def test_checked_pairs_are_the_file_read_again_and_again(tmp_path: Path) -> None:
    import pyarrow as pa

    from radpo.core.files import sha256
    from radpo.preferences.preferences import Reading, load_preferences
    from radpo.preferences.streamed import CheckedPairs, write_checked
    from radpo.preferences.writing import write_preferences

    def checked(name: str, limit: int | None = None) -> CheckedPairs:
        write_checked(tmp_path / "p.jsonl", Reading(), tmp_path / name, limit)
        return CheckedPairs.open(tmp_path / name)

    write_preferences(PAIRS, tmp_path / "p.jsonl")
    whole = load_preferences(tmp_path / "p.jsonl").table
    pairs = checked("all.parquet")
    for _ in range(2):
        assert pa.Table.from_batches(list(pairs)).equals(whole)
    few = checked("few.parquet", limit=5)
    assert (few.total, pa.Table.from_batches(list(few)).equals(whole.slice(0, 5))) == (5, True)
    assert checked("more.parquet", limit=50).total == 7
    assert sha256(few.path) != sha256(pairs.path) == sha256(checked("again.parquet").path)


def test_a_checkpoint_reads_a_prompt_once_for_each_goal_and_no_response_twice(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radpo.models import likelihood
    from radpo.models.heldout import asked_with_goals
    from radpo.models.loading import load_tokenizer

    rows: list[likelihood._Row] = []
    whole = likelihood._score
    monkeypatch.setattr(likelihood, "_score", lambda m, batch, shared: rows.extend(batch) or whole(m, batch, shared))
    heldout_log_likelihoods(model, PAIRS, **HOW)
    _, pairs = asked_with_goals(PAIRS.to_pylist(), load_tokenizer(model, with_goal=False), "system", HOW["scale"])
    assert len(pairs) == len(PAIRS) * 4
    distinct = {pair.prompt_ids: pair for pair in pairs}.values()
    assert len(distinct) < len(pairs), "a response that scored the best is asked for it once"
    needed = sum(len(p.prompt_ids) - 1 + len(p.chosen_ids) + len(p.rejected_ids) for p in distinct)
    assert sum(row.width for row in rows) <= needed


def test_what_the_reference_needs_is_one_stage_for_all_variants_seeds_and_uses(model: Path, tmp_path: Path) -> None:
    import yaml

    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix
    from radpo.preferences.writing import write_preferences

    write_preferences(PAIRS, tmp_path / "pairs.jsonl")
    document = {
        "name": "m", "model": str(model), "seeds": [0, 1], "training": {"batch_size": 2, "max_length": 400},
        "variants": {"base": None, "dpo": {"training": {"beta": [0.1, 0.2]}}, "ra-dpo": None, "dpo-norm": None},
        "data": {"train": {"path": "pairs.jsonl"}, "heldout": {"path": "pairs.jsonl"}},
        "benchmarks": {"unlearning": {}, "displacement": {}, "implicit-reward": {}},
    }  # fmt: skip
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(document))
    plan = expand(load_matrix(tmp_path / "m.yaml"))
    trained = [stage for stage in plan.stages if stage.function_name == "train"]
    measured = [stage for stage in plan.stages if stage.function_name == "likelihood"]
    assert len(trained) == 2 * 4
    assert len(measured) == 1 + len(trained), "a pass over the pairs for each checkpoint and one for the reference"
    (reference,) = [stage for stage in measured if "policy" not in stage.inputs]
    assert {stage.inputs["heldout_likelihoods"].key for stage in trained} == {reference.key}
