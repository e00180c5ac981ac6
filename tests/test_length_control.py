"""Length-controlled win rates equal the leaderboard's and alpaca-eval's own, and go by their right names."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from factories import ALPACA_MODELS, alpaca_leaderboard_row

from radpo.benchmarks.alpaca_eval import load_annotations, scores, win_rate
from radpo.benchmarks.length_control import at_equal_length, from_weights, length_controlled
from radpo.core.errors import DataError
from radpo.stats.equal_length import rate_at_equal_length


def annotations_of(real_data: Path, model: str) -> pd.DataFrame:
    return load_annotations(real_data / "alpaca_eval2" / "annotations" / f"{model}.jsonl.gz")


def direct(frame: pd.DataFrame, gamed: Path, glm: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The package called on the annotations as its own files have them: outputs, and no column `index`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from alpaca_eval.metrics import glm_winrate
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(gamed))
    own = frame.drop(columns="index").assign(
        output_1=["b" * n for n in frame["len_1"]], output_2=["m" * n for n in frame["len_2"]]
    )
    return glm_winrate.get_length_controlled_winrate(
        own, glm_name=glm, save_weights_dir=None, is_warn_extreme_changes=False
    )


@pytest.mark.parametrize("model", ALPACA_MODELS)
def test_equal_to_the_leaderboard_and_to_the_package_called_directly(real_data, model, monkeypatch):
    folder, row = real_data / "alpaca_eval2", alpaca_leaderboard_row(real_data, model)
    frame = annotations_of(real_data, model)
    found = win_rate(frame, folder / "reconstructed")
    # With reconstructed reference files; rows without a standard error are of an earlier version of the method.
    published = row["length_controlled_winrate"]
    assert found.length_controlled_winrate == pytest.approx(published, abs=0.3 if "lc_standard_error" in row else 0.75)
    if "lc_standard_error" in row:
        assert found.lc_standard_error == pytest.approx(row["lc_standard_error"], abs=0.02)
    assert found.win_rate_at_equal_length is None
    assert any("is an estimate" in note for note in found.notes)
    own = direct(frame, folder / "reconstructed" / "df_gamed_reconstructed.csv", "length_controlled_v1", monkeypatch)
    for name in ("win_rate", "length_controlled_winrate", "lc_standard_error", "discrete_win_rate", "standard_error"):
        assert getattr(found, name) == pytest.approx(own[name], abs=1e-9)


@pytest.mark.parametrize("model", ALPACA_MODELS)
def test_published_weights_give_the_published_rate(real_data, model):
    folder = real_data / "alpaca_eval2"
    found = from_weights(
        folder / "length_controlled_v1_glm_weights.csv", model, "gpt4_1106_preview", folder / "reconstructed"
    )
    published = alpaca_leaderboard_row(real_data, model)["length_controlled_winrate"]
    # NullModel's weight of difficulty is far from everyone's, so that errors of the reconstructed ones show.
    assert found.winrate == pytest.approx(published, abs=0.2 if model == "NullModel" else 0.05)
    assert "is an estimate" in found.note


def test_weights_of_nobody_are_named(real_data, tmp_path):
    folder = real_data / "alpaca_eval2"
    table = folder / "length_controlled_v1_glm_weights.csv"
    with pytest.raises(DataError, match="no weights of 'gpt-9'"):
        from_weights(table, "gpt-9", "gpt4_1106_preview", folder / "reconstructed")
    with pytest.raises(DataError, match="has the columns"):
        from_weights(folder / "leaderboard.csv", "alpaca-7b", "gpt4_1106_preview", folder / "reconstructed")
    with pytest.raises(DataError, match=r"no instruction_difficulty\.csv there"):
        from_weights(table, "alpaca-7b", "gpt4_1106_preview", tmp_path)


def test_without_reference_files_the_rate_at_equal_length_goes_by_its_own_name(real_data, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    frame = annotations_of(real_data, "gemma-2b-it")
    found = win_rate(frame)
    assert found.length_controlled_winrate is None
    assert found.lc_standard_error is None
    assert any("df_gamed.csv" in note and "not computed" in note for note in found.notes)
    judged = frame[frame["preference"].notna()]
    difference = (judged["len_2"] - judged["len_1"]).to_numpy(dtype=float)
    design = np.column_stack([np.ones(len(judged)), np.tanh(difference / difference.std())])
    wins = np.where(judged["preference"] == 0, 0.5, judged["preference"] - 1)
    fit = sm.GLM(wins, design, family=sm.families.Binomial()).fit()
    # The slope's weak prior hardly moves a figure of 805 comparisons.
    assert found.win_rate_at_equal_length == pytest.approx(100 / (1 + np.exp(-fit.params[0])), abs=0.1)
    robust = sm.GLM(wins, design, family=sm.families.Binomial()).fit(cov_type="HC1")
    share = found.win_rate_at_equal_length / 100
    assert found.equal_length_standard_error == pytest.approx(100 * share * (1 - share) * robust.bse[0], rel=0.1)
    assert found.equal_length_ci_low < found.win_rate_at_equal_length < found.equal_length_ci_high
    metrics = {result.metric for result in scores(frame).results}
    assert "win_rate_at_equal_length" in metrics
    assert "length_controlled_winrate" not in metrics


def test_comparisons_that_cannot_tell_give_no_rate_and_say_why(real_data):
    frame = annotations_of(real_data, "gemma-2b-it")
    longer = frame["len_2"] > frame["len_1"]
    for changed, reason in (
        (frame.iloc[:10], "10 comparisons are too few"),
        (frame.assign(len_2=frame["len_1"]), "differ by the same length"),
        (frame.assign(preference=2.0), "all comparisons came out alike"),
        (frame.assign(len_2=frame["len_1"] + 10 + frame["index"]), "every answer of the model is the longer one"),
        (frame.assign(preference=1.0 + longer), "length alone separates every win from every loss"),
    ):
        found = at_equal_length(changed)
        assert (found.winrate, found.standard_error, found.low) == (None, None, None)
        assert f"was not estimated, because {reason}" in found.note or reason in found.note
    assert at_equal_length(frame.drop(columns=["len_1", "len_2"])).winrate is None


@pytest.mark.parametrize(
    ("n", "rate", "slope", "fractional"), [(48, 0.35, 0.0, False), (48, 0.46, 1.5, False), (100, 0.5, 2.0, True)]
)
def test_the_interval_at_equal_length_holds_the_truth_in_95_of_100_samples(n, rate, slope, fractional):
    """93 to 97% of 600 samples; those of no effect of length are no nearer to 50% than the truth."""
    rng, at_zero = np.random.default_rng(0), np.log(rate / (1 - rate))
    found = []
    for _ in range(600):
        difference = rng.normal(50, 400, n)
        chance = 1 / (1 + np.exp(-(at_zero + slope * np.tanh(difference / 400))))
        wins = rng.beta(8 * chance, 8 * (1 - chance)) if fractional else (rng.random(n) < chance).astype(float)
        found.append(rate_at_equal_length(wins, difference, resamples=400, rng=rng))
    assert 0.93 <= np.mean([one.low <= rate <= one.high for one in found]) <= 0.97
    assert np.mean([one.value for one in found]) == pytest.approx(rate, abs=0.015)
    assert np.mean([one.value == 0.5 for one in found]) < 0.01
    assert all(one.stderr > 0 for one in found)


def test_outputs_and_lengths_give_the_same(real_data):
    folder = real_data / "alpaca_eval2"
    lengths = annotations_of(real_data, "NullModel")
    texts = lengths.drop(columns=["len_1", "len_2"]).assign(
        output_1=["b" * n for n in lengths["len_1"]], output_2=["m" * n for n in lengths["len_2"]]
    )
    assert win_rate(texts, folder / "reconstructed") == win_rate(lengths, folder / "reconstructed")


def test_it_does_not_depend_on_the_rows_order_nor_leave_traces(real_data):
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    folder = real_data / "alpaca_eval2"
    before = glm_winrate.hf_hub_download, sklearn.get_config()
    annotations = annotations_of(real_data, "alpaca-7b")
    shuffled = annotations.sample(frac=1.0, random_state=0)
    columns = list(annotations.columns)
    first, second = (length_controlled(frame, folder / "reconstructed") for frame in (annotations, shuffled))
    assert first == second
    assert (glm_winrate.hf_hub_download, sklearn.get_config()) == before
    assert list(annotations.columns) == columns


def test_it_is_for_the_805_instructions_only(real_data, tmp_path):
    folder = real_data / "alpaca_eval2"
    annotations = annotations_of(real_data, "NullModel")
    others = annotations.assign(instruction=annotations["instruction"].where(annotations["index"] != 3, "Another?"))
    moved = annotations.assign(index=annotations["index"].replace({3: 4, 4: 3}))
    for frame in (others, moved, annotations.iloc[:700]):
        found = length_controlled(frame, folder / "reconstructed")
        assert (found.winrate, found.standard_error) == (None, None)
        assert "805 instructions" in found.note
    with pytest.raises(DataError, match=r"no df_gamed\.csv"):
        length_controlled(annotations, tmp_path)
