"""Every kind of relabeling, in memory and batch by batch, against what its definition says."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import scored_pairs, write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from radpo.core.errors import DataError
from radpo.preferences.conditioning import condition_prompts
from radpo.preferences.goals import attribute_goals, attributes_text, goal_aware_template, goal_text, join_goal_text
from radpo.preferences.implicit import implicit_reward, rescaled
from radpo.preferences.plan import Relabeling
from radpo.preferences.preferences import PreferenceReader, Reading, schema
from radpo.preferences.relabel import KINDS, Kind, relabel, to_trl
from radpo.preferences.rows import LOG_LIKELIHOODS
from radpo.preferences.streaming import relabel_to
from radpo.preferences.writing import write_preferences

RATED = ("helpfulness", "instruction_following")


def rich_pairs(count: int, seed: int = 0, prompts: int | None = None) -> pa.Table:
    """Scored pairs with attributes (some not rated) and log-likelihoods; `prompts` different prompts."""
    rng = random.Random(seed)
    rating = lambda: rng.choice([None, 1.0, 2.0, 4.0, 5.0])  # noqa: E731
    rows = []
    for number in range(count):
        low, high = sorted(rng.sample(range(2, 21), 2))
        asked = [{"role": "system", "content": "Be kind."}] * (number % 3 == 0)
        asked += [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}] * (number % 2)
        asked += [{"role": "user", "content": f"ask {number % (prompts or count)}"}]
        rows.append(
            {
                "id": f"p{number}", "prompt": asked if prompts is None else asked[-1:],
                "chosen": f"good {number}", "rejected": f"bad {number}",
                "score_chosen": high / 2, "score_rejected": low / 2,
                "attributes_chosen": {name: rating() for name in RATED},
                "attributes_rejected": {name: rating() for name in RATED},
                **{name: -rng.uniform(5, 90) for name in LOG_LIKELIHOODS},
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema(RATED, log_likelihoods=True))


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=4), st.data())
def test_conditioning_whole_columns_is_conditioning_row_by_row(texts: list[tuple[str, str]], data: Any) -> None:
    role = st.sampled_from(["system", "user", "assistant"])
    messages = st.lists(st.fixed_dictionaries({"role": role, "content": st.text(max_size=3)}), max_size=4)
    prompts = [data.draw(messages) for _ in texts]
    kind = schema().field("prompt").type
    for placement in ("system", "user"):
        sides = [pa.array([pair[side] for pair in texts], pa.string()) for side in (0, 1)]
        # A slice, as the columns of a table that is cut in pieces are.
        column = pa.array([[{"role": "user", "content": "?"}], *prompts], type=kind).slice(1)
        expected = [
            join_goal_text(prompt, text, placement)  # type: ignore[arg-type]
            for prompt, pair in zip(prompts, texts, strict=True)
            for text in pair
        ]
        assert condition_prompts(column, sides, placement).to_pylist() == expected  # type: ignore[arg-type]


def test_half_ra_has_as_many_pairs_as_plain_and_takes_whole_prompts() -> None:
    pairs = rich_pairs(200, prompts=70)
    plain, half = relabel(pairs, "plain"), relabel(pairs, "half-ra", seed=1)
    assert abs(half.table.num_rows - plain.table.num_rows) <= 4, "two training pairs of each of a prompt's 3 pairs"
    taken = set(half.table["source_id"].to_pylist())
    asked = {row["id"]: row["prompt"][-1]["content"] for row in pairs.to_pylist()}
    taken_prompts = {asked[name] for name in taken}
    assert {name for name, prompt in asked.items() if prompt in taken_prompts} == taken
    assert half.counts.other_half == 200 - half.counts.used
    whole = {row["id"]: row for row in relabel(pairs, "ra").table.to_pylist()}
    assert all(whole[row["id"]] == row for row in half.table.to_pylist()), "what it takes is what ra gives"


def test_half_ra_is_exactly_half_where_prompts_differ_and_depends_on_the_seed_alone() -> None:
    pairs = rich_pairs(301)
    halves = [relabel(pairs, "half-ra", seed=seed) for seed in range(40)]
    assert {half.counts.used for half in halves} <= {150, 151}
    drawn = [frozenset(half.table["source_id"].to_pylist()) for half in halves]
    assert len(set(drawn)) == 40
    assert drawn[3] == set(relabel(pairs, "half-ra", seed=3).table["source_id"].to_pylist())
    backwards = pairs.take(list(range(300, -1, -1)))
    assert drawn[3] == set(relabel(backwards, "half-ra", seed=3).table["source_id"].to_pylist())
    often = np.array([sum(f"p{number}" in half for half in drawn) for number in range(301)])
    # Every pair is drawn like a fair coin's 40 tosses: outside 5-35 with probability 1e-6.
    assert often.min() >= 5
    assert often.max() <= 35


def test_attributes_asks_for_what_is_rated_for_both_and_prefers_the_nearer_vector() -> None:
    pairs = rich_pairs(300)
    relabeled = relabel(pairs, "attributes")
    source = {row["id"]: row for row in pairs.to_pylist()}
    used = 0
    for name, row in source.items():
        ours, theirs = row["attributes_chosen"], row["attributes_rejected"]
        both = [a for a in RATED if ours[a] is not None and theirs[a] is not None]
        used += any(ours[a] != theirs[a] for a in both)
        for training in relabeled.table.filter(pa.compute.equal(relabeled.table["source_id"], name)).to_pylist():
            goal = training["goal_attributes"]
            assert [a for a in RATED if goal[a] is not None] == both
            far = {
                s: sum((goal[a] - training[f"attributes_{s}"][a]) ** 2 for a in both) for s in ("chosen", "rejected")
            }
            assert far["chosen"] == 0 < far["rejected"]
            wanted = {a: goal[a] for a in both}
            text = attributes_text((1, 5)).replace("{g}", attribute_goals(wanted))
            assert training["prompt"] == join_goal_text(row["prompt"], text, "system")
            assert training["chosen"] == row[training["side"]]
    counts = relabeled.counts
    assert counts.used == used == relabeled.table.num_rows // 2
    assert counts.pairs == used + counts.ties_dropped + counts.unrated_dropped
    assert counts.ties_dropped > 0
    assert counts.unrated_dropped > 0


def test_the_attributes_wording_is_the_papers_with_a_line_for_each() -> None:
    assert attribute_goals({"instruction_following": 4.0, "honesty": 2.5}) == (
        "Instruction following score: 4.\nHonesty score: 2.5."
    )
    overall = goal_text(8).replace("1-10", "1-5").replace("10 is", "5 is").removesuffix("Overall score: 8.")
    assert attributes_text((1, 5)).replace("{g}", "") == overall


def test_a_checkpoint_trained_on_attributes_asks_for_the_best_of_each() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    own = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    best = attribute_goals(dict.fromkeys(RATED, 5.0))
    template = goal_aware_template(own, best, "system", attributes_text((1, 5)))
    messages = [{"role": "user", "content": "Hi"}]
    rendered, _ = render_jinja_template(conversations=[messages], chat_template=template)
    asked = join_goal_text(messages, attributes_text((1, 5)).replace("{g}", best), "system")
    assert rendered[0] == "".join(f"<{message['role']}>{message['content']}" for message in asked)


def test_attributes_off_their_scale_or_absent_are_an_error() -> None:
    with pytest.raises(DataError, match=r"5 is not on the attributes' scale 1-4.*--attribute-scale"):
        relabel(rich_pairs(50), "attributes", attribute_scale=(1, 4))
    with pytest.raises(DataError, match="lack attributes_chosen"):
        relabel(scored_pairs([(9, 4)]), "attributes")


rewards = st.lists(st.integers(-50, 50).map(lambda value: value / 4), min_size=2, max_size=20)


@settings(deadline=None)
@given(rewards)
def test_rescaling_by_rank_is_scipys_rank_moved_to_the_scale(values: list[float]) -> None:
    moved = rescaled(np.array(values), "rank", (1, 10))
    if len(set(values)) == 1:
        assert (moved == 5.5).all()
        return
    np.testing.assert_allclose(moved, 1 + 9 * (rankdata(values) - 1) / (len(values) - 1))


@settings(deadline=None)
@given(rewards)
def test_rescaling_linearly_is_sklearns_min_max_scaler(values: list[float]) -> None:
    from sklearn.preprocessing import MinMaxScaler

    moved = rescaled(np.array(values), "linear", (1, 10))
    if len(set(values)) > 1:
        theirs = MinMaxScaler((1, 10)).fit_transform(np.array(values)[:, None])[:, 0]
        np.testing.assert_allclose(moved, theirs, atol=1e-9)


@pytest.mark.parametrize("how", ["rank", "linear"])
def test_ira_asks_for_implicit_rewards_rescaled_over_all_responses(how: Any) -> None:
    pairs = rich_pairs(60)
    relabeled = relabel(pairs, "ira", rescale=how, beta=0.1)
    numbers = {name: pairs[name].to_numpy() for name in LOG_LIKELIHOODS}
    raw = {
        side: implicit_reward(numbers[f"policy_logp_{side}"], numbers[f"reference_logp_{side}"], 0.1)
        for side in ("chosen", "rejected")
    }
    together = np.concatenate([raw["chosen"], raw["rejected"]])
    if how == "rank":
        moved = 1 + 9 * (rankdata(together) - 1) / 119
    else:
        moved = 1 + 9 * (together - together.min()) / np.ptp(together)
    expected = {f"p{n}": {"chosen": moved[n], "rejected": moved[60 + n]} for n in range(60)}
    assert relabeled.table.num_rows == 120
    for row in relabeled.table.to_pylist():
        other = {"chosen": "rejected", "rejected": "chosen"}[row["side"]]
        ours = expected[row["source_id"]]
        assert row["goal"] == row["score_chosen"] == pytest.approx(ours[row["side"]])
        assert row["score_rejected"] == pytest.approx(ours[other])
        number = int(row["source_id"][1:])
        assert row["implicit_reward_chosen"] == pytest.approx(raw[row["side"]][number])
        assert row["implicit_reward_rejected"] == pytest.approx(raw[other][number])
    assert relabeled.table["goal"].to_numpy().min() == 1
    assert relabeled.table["goal"].to_numpy().max() == 10
    colder = relabel(pairs, "ira", rescale=how, beta=5.0).table["goal"].to_numpy()
    np.testing.assert_allclose(colder, relabeled.table["goal"].to_numpy(), rtol=1e-12)


def test_ira_without_log_likelihoods_names_the_columns() -> None:
    with pytest.raises(DataError, match="lack policy_logp_chosen, policy_logp_rejected, reference_logp_chosen"):
        relabel(scored_pairs([(9, 4)]), "ira")


def test_the_gap_filter_leaves_out_and_counts() -> None:
    pairs = scored_pairs([(9, 8), (9, 7), (5, 5), (9, 8.5)])
    for kind in ("plain", "ra"):
        relabeled = relabel(pairs, kind, min_gap=1)  # type: ignore[arg-type]
        assert set(relabeled.table["source_id"].to_pylist()) == {"p0", "p1"}
        assert (relabeled.counts.gap_dropped, relabeled.counts.ties_dropped) == (1, 1)


def test_goals_that_read_the_same_are_counted() -> None:
    pairs = scored_pairs([(7.002, 7.001), (7.01, 7), (9, 4)])
    assert relabel(pairs, "ra").counts.same_goal == 1
    assert relabel(pairs, "ra").table.num_rows == 6, "distinct scores give two pairs each"
    assert relabel(pairs, "ra", min_gap=0.005).counts.same_goal == 0


@pytest.mark.parametrize("kind", KINDS)
def test_shuffling_is_a_permutation_that_the_seed_decides(kind: Kind) -> None:
    pairs = rich_pairs(50)
    ordered = relabel(pairs, kind, seed=4).table
    shuffled = relabel(pairs, kind, shuffle=True, seed=4).table
    assert shuffled.equals(relabel(pairs, kind, shuffle=True, seed=4).table)
    assert shuffled["id"].to_pylist() != ordered["id"].to_pylist()
    assert shuffled["id"].to_pylist() != relabel(pairs, kind, shuffle=True, seed=5).table["id"].to_pylist()
    assert shuffled.sort_by("id").equals(ordered.sort_by("id"))


def test_every_order_is_as_likely_as_any_other() -> None:
    from scipy.stats import chisquare

    pairs = scored_pairs([(9, 4), (8, 3), (7, 2)])
    orders: dict[tuple[str, ...], int] = {}
    for seed in range(600):
        order = tuple(relabel(pairs, "plain", shuffle=True, seed=seed).table["source_id"].to_pylist())
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == 6
    assert chisquare(list(orders.values())).pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_batch_by_batch_gives_what_a_table_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, shuffle: bool
) -> None:
    monkeypatch.setattr("radpo.preferences.sources.CHUNK_ROWS", 7)
    monkeypatch.setattr("radpo.preferences.preferences.CHUNK_ROWS", 7)
    monkeypatch.setattr("radpo.preferences.streaming.BUCKET_ROWS", 11)
    pairs = rich_pairs(100, seed=2, prompts=60)
    for source in ("pairs.parquet", "pairs.jsonl"):
        write_preferences(pairs, tmp_path / source)
        asked = Relabeling(kind, "user", min_gap=1.0, shuffle=shuffle, seed=9)
        counts = relabel_to(PreferenceReader(tmp_path / source), asked, tmp_path / "out.parquet")
        expected = relabel(pairs, kind, placement="user", min_gap=1.0, shuffle=shuffle, seed=9)
        assert pq.read_table(tmp_path / "out.parquet").to_pylist() == to_trl(expected.table).to_list()
        assert counts == expected.counts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "pairs.jsonl", "pairs.parquet"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out", "out.parquet"])
def test_every_output_format_holds_the_same(tmp_path: Path, name: str) -> None:
    from datasets import load_from_disk

    pairs = rich_pairs(30)
    write_preferences(pairs, tmp_path / "pairs.parquet")
    relabel_to(PreferenceReader(tmp_path / "pairs.parquet"), Relabeling("attributes"), tmp_path / name)
    out = tmp_path / name
    if name == "out":
        rows = load_from_disk(str(out)).to_list()
    elif name == "out.parquet":
        rows = pq.read_table(out).to_pylist()
    else:
        data = out.read_bytes()
        text = (gzip.decompress(data) if name.endswith("gz") else data).decode()
        rows = [json.loads(line) for line in text.split("\n")[:-1]]
    assert rows == to_trl(relabel(pairs, "attributes").table).to_list()


def test_a_failure_leaves_no_file_and_the_input_as_it_was(tmp_path: Path) -> None:
    table = scored_pairs([(9, 4)] * 50)
    write_preferences(table, tmp_path / "pairs.jsonl")
    with (tmp_path / "pairs.jsonl").open("a") as stream:
        stream.write('{"broken": \n')
    before = (tmp_path / "pairs.jsonl").read_bytes()
    for shuffle in (False, True):
        for name in ("out.parquet", "out.jsonl", "out"):
            with pytest.raises(DataError, match="line 51"):
                relabel_to(
                    PreferenceReader(tmp_path / "pairs.jsonl"), Relabeling("ra", shuffle=shuffle), tmp_path / name
                )
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]
    assert (tmp_path / "pairs.jsonl").read_bytes() == before
    with pytest.raises(DataError, match="is the source itself"):
        relabel_to(PreferenceReader(tmp_path / "pairs.jsonl"), Relabeling("ra"), tmp_path / "pairs.jsonl")
    assert (tmp_path / "pairs.jsonl").read_bytes() == before


def test_long_responses_are_relabeled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = rich_pairs(40)
    expected = relabel(pairs, "ra").table
    monkeypatch.setattr("radpo.preferences.relabel.PIECE_BYTES", 500)
    assert relabel(pairs, "ra").table.equals(expected)


def test_the_output_trains_with_trl_as_it_is(tmp_path: Path) -> None:
    from datasets import load_from_disk
    from trl import DPOConfig, DPOTrainer, is_conversational

    write_preferences(rich_pairs(4), tmp_path / "pairs.parquet")
    relabel_to(PreferenceReader(tmp_path / "pairs.parquet"), Relabeling("ra"), tmp_path / "out")
    dataset = load_from_disk(str(tmp_path / "out"))
    assert is_conversational(dataset[0])
    assert {"source_id", "goal", "side"} <= set(dataset.column_names)
    settings = DPOConfig(
        str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to="none"
    )
    trainer = DPOTrainer(str(write_model(tmp_path / "model")), args=settings, train_dataset=dataset)
    assert len(trainer.train_dataset) == 8
    trainer.train()


def test_training_pairs_are_not_taken_for_scored_ones(tmp_path: Path) -> None:
    write_preferences(rich_pairs(5), tmp_path / "pairs.parquet")
    relabel_to(PreferenceReader(tmp_path / "pairs.parquet"), Relabeling("ra"), tmp_path / "out.jsonl")
    with pytest.raises(DataError, match="training pairs that `radpo data relabel` made"):
        list(PreferenceReader(tmp_path / "out.jsonl", Reading()))


def test_the_real_set_is_relabeled_whole(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "preferences" / "ultrafeedback_binarized_960.jsonl.gz"
    before = source.read_bytes()
    reader = PreferenceReader(source, Reading(on_error="skip"))
    counts = relabel_to(reader, Relabeling("ra"), tmp_path / "ra.parquet")
    with gzip.open(source, "rt", encoding="utf-8") as stream:
        rows = {str(row["source_index"]): row for row in map(json.loads, stream)}
    usable = {
        name: row
        for name, row in rows.items()
        if row["chosen"].strip() and row["rejected"].strip() and row["chosen"] != row["rejected"]
    }
    ties = sum(row["score_chosen"] == row["score_rejected"] for row in usable.values())
    assert (counts.pairs, counts.ties_dropped, counts.used) == (len(usable), ties, len(usable) - ties)
    made = pq.read_table(tmp_path / "ra.parquet").to_pylist()
    assert len(made) == 2 * counts.used
    for training in made:
        row, side = rows[training["source_id"]], training["side"]
        assert training["chosen"] == [{"role": "assistant", "content": row[side]}]
        assert training["prompt"] == [
            {"role": "system", "content": goal_text(row[f"score_{side}"])},
            {"role": "user", "content": row["prompt"]},
        ]
    assert source.read_bytes() == before
