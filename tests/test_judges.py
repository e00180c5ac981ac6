"""Judges ask exactly what the published judges were asked, and read answers as the releases did."""

from __future__ import annotations

import gzip
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from factories import TEMPLATE, write_model
from fault_server import FaultServer

from radpo.clients.chat import Chat
from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ConfigError, DataError, ModelError
from radpo.judges.annotator import annotate_pairs
from radpo.judges.base import CompareRequest, Comparison, Grade, GradeRequest, compare
from radpo.judges.fastchat import NEED_REFERENCE, grading, load_prompts, pairing, rating, winner
from radpo.judges.lookup import check_settings, find_judge, split_settings
from radpo.judges.openai import OpenAIJudge, OpenAISettings
from radpo.judges.quality import agreement, bias, both_orders, spearman, unswapped, verdict
from radpo.judges.record import judge_notes
from radpo.judges.reward_model import RewardModelJudge, RewardModelSettings
from radpo.judges.verifier import Verifier
from radpo.preferences.questions import load_questions


def rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as stream:
        return [json.loads(line) for line in stream]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# --- MT-Bench: FastChat's prompts and parsing, against released judgments


@pytest.mark.parametrize("model", ["claude-3-opus-20240229", "mistral-orpo-capybara"])
def test_grading_asks_what_the_released_judgments_were_asked_and_reads_the_same_rating(real_data, model):
    folder = real_data / "mt_bench"
    prompts = load_prompts(folder)
    questions = {q.question_id: q for q in load_questions(folder / "question.jsonl")}
    references = {
        str(r["question_id"]): r["choices"][0]["turns"] for r in rows(folder / "reference_answer/gpt-4.jsonl")
    }
    answers = {
        str(r["question_id"]): r["choices"][0]["turns"] for r in rows(folder / "model_answer" / f"{model}.jsonl.gz")
    }
    judged = rows(folder / "model_judgment" / f"gpt-4_single.{model}.jsonl.gz")
    assert len(judged) == 160
    for row in judged:
        question_id = str(row["question_id"])
        question, turns = questions[question_id], answers[question_id]
        prompt = user(question.turns[0])
        if row["turn"] == 2:
            prompt += [{"role": "assistant", "content": turns[0]}, *user(question.turns[1])]
        reference = {"reference_answers": references[question_id]} if question.category in NEED_REFERENCE else {}
        used, messages = grading(prompts, GradeRequest(prompt, turns[row["turn"] - 1], reference))
        assert used.name == row["judge"][1]
        assert messages[1]["content"] == row["user_prompt"]
        assert rating(row["judgment"]) == (None if row["score"] == -1 else row["score"])


@pytest.mark.parametrize(
    ("judgment", "expected"),
    [
        ("Rating: [[7]]", 7.0),
        ("[[6.5]] or [[8]]", 6.5),
        ("so [9]", 9.0),
        ("[[10/10]]", None),
        ("[[85]]", None),
        ("", None),
    ],
)
def test_a_rating_is_the_first_in_double_brackets_on_the_scale(judgment, expected):
    assert rating(judgment) == expected


@pytest.mark.parametrize(
    ("judgment", "form", "expected"),
    [
        ("[[A]]", "[[A]]", "A"), ("x [[B]]", "[[A]]", "B"), ("[[C]]", "[[A]]", "tie"), ("A", "[[A]]", "error"),
        ("[[8, 7]]", "[[rating_a,rating_b]]", "A"), ("[7,7.05]", "[[rating_a,rating_b]]", "tie"),
        ("[[1, 7]]", "[[rating_a,rating_b]]", "B"), ("none", "[[rating_a,rating_b]]", "error"),
    ],
)  # fmt: skip
def test_a_pairs_winner_is_read_as_fastchat_reads_it(judgment, form, expected):
    assert winner(judgment, form) == expected


def test_pairs_are_shown_in_the_order_given(real_data):
    prompts = load_prompts(real_data / "mt_bench")
    one, messages = pairing(prompts, CompareRequest(user("Q?"), "first answer", "second answer"))
    shown = messages[1]["content"]
    assert one.name == "pair-v2"
    assert shown.index("Assistant A's Answer]\nfirst answer") < shown.index("Assistant B's Answer]\nsecond answer")
    talk = [*user("Q1"), {"role": "assistant", "content": "any"}, *user("Q2")]
    reference = {"reference_answers": ["r1", "r2"], "first_answers": ("a1", "b1")}
    two, messages = pairing(prompts, CompareRequest(talk, "a2", "b2", reference))
    assert two.name == "pair-math-v1-multi-turn"
    assert all(text in messages[1]["content"] for text in ("Q1", "Q2", "a1", "a2", "b1", "b2", "r1", "r2"))


def test_braces_in_answers_are_text(real_data):
    prompts = load_prompts(real_data / "mt_bench")
    _, messages = grading(prompts, GradeRequest(user("{answer}"), "{question.__class__} {0}"))
    assert "{question.__class__} {0}" in messages[1]["content"]


def test_missing_prompts_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no judge_prompts\.jsonl there or beside it"):
        load_prompts(tmp_path)


# --- the OpenAI judge


def openai_judge(server: FaultServer, folder: Path, **settings) -> OpenAIJudge:
    return OpenAIJudge(OpenAISettings(model="judge", base_url=server.url, **settings), folder / "chat.sqlite")


def test_the_openai_judge_grades_with_fastchats_options(real_data, tmp_path):
    with FaultServer(lambda body: "Explained. Rating: [[7]]" if "good" in str(body) else "no rating") as server:
        judge = openai_judge(server, tmp_path, prompts=real_data / "mt_bench")
        found = judge.grade([GradeRequest(user("Q"), "good"), GradeRequest(user("Q"), "bad")])
        assert found == [Grade(7.0, "Explained. Rating: [[7]]"), Grade(None, "no rating")]
        assert {(body["temperature"], body["max_tokens"]) for body in server.asked} == {(0, 2048)}
        assert server.asked[0]["messages"][0]["role"] == "system"


def test_without_a_folder_of_prompts_the_judge_uses_radpos_own(tmp_path):
    with FaultServer(lambda body: "[[3]]") as server:
        talk = [*user("Q1"), {"role": "assistant", "content": "A1"}, *user("Q2")]
        assert openai_judge(server, tmp_path).grade([GradeRequest(talk, "A2")])[0].score == 3
        shown = server.asked[0]["messages"][1]["content"]
        assert "User: Q1\n\nAssistant: A1\n\nUser: Q2" in shown
        assert "[Answer to grade]\nA2\n" in shown


# --- AlpacaEval's annotators


def instruction_of(body) -> str:
    return body["messages"][-1]["content"].split('"instruction": """', 1)[1].split('""",', 1)[0]


def test_replayed_official_completions_give_the_official_preferences(real_data, tmp_path):
    """The judge sees the two outputs in the official order of each instruction, and its tokens are read the same."""
    folder = real_data / "alpaca_eval2"
    official = rows(folder / "full" / "alpaca-7b.jsonl.gz")
    baseline = {row["instruction"]: row["output"] for row in rows(folder / "instructions_and_baseline.jsonl.gz")}
    # The server knows a request by its instruction, as the package strips it.
    completions = {row["instruction"].strip(): row["raw_completion"] for row in official}
    asked = [
        CompareRequest(user(row["instruction"]), baseline[row["instruction"]], row["output_2"]) for row in official
    ]
    with FaultServer(lambda body: completions[instruction_of(body).strip()]) as server:
        judge = openai_judge(server, tmp_path)
        found = judge.compare(asked)
        body = server.asked[0]
        assert {name: body[name] for name in ("max_tokens", "temperature", "logprobs", "top_logprobs")} == {
            "max_tokens": 1, "temperature": 1, "logprobs": True, "top_logprobs": 5,
        }  # fmt: skip
    assert [c.preference for c in found] == pytest.approx([row["preference"] for row in official], abs=1e-8)


def test_annotations_equal_those_of_the_packages_own_client(tmp_path, monkeypatch):
    """The same scripted judge behind the package's client and behind ours: same prompts, same preferences."""

    def answer(body):
        logprob = -0.1 * (len(instruction_of(body)) % 7) - 0.05
        other = float(np.log1p(-np.exp(logprob)))
        top = [{"token": "m", "logprob": logprob, "bytes": [109]}, {"token": "M", "logprob": other, "bytes": [77]}]
        choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "m"}}
        return {**choice, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}

    pairs = [{"instruction": f"Do {'x' * n}", "output_1": f"a {n}", "output_2": f"b {n % 3}"} for n in range(12)]
    pairs.append({"instruction": "Same?", "output_1": "alike", "output_2": "alike"})
    with FaultServer(answer) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from alpaca_eval.annotators import PairwiseAnnotator

            theirs = PairwiseAnnotator(annotators_config="weighted_alpaca_eval_gpt4_turbo", caching_path=None)
            for single in theirs.annotators.values():
                single.completions_kwargs |= {
                    "openai_api_base": server.url,
                    "openai_api_keys": ["none"],
                    "num_procs": 1,
                }
            expected = theirs(pairs)
        first = {json.dumps(body, sort_keys=True) for body in server.asked}
        server.asked.clear()
        judge = openai_judge(server, tmp_path)
        judge = OpenAIJudge(judge.settings.model_copy(update={"model": "gpt-4-1106-preview"}), tmp_path / "c.sqlite")
        found = judge.compare([CompareRequest(user(p["instruction"]), p["output_1"], p["output_2"]) for p in pairs])
        assert {json.dumps(body, sort_keys=True) for body in server.asked} == first
    by_instruction = {row["instruction"]: row["preference"] for row in expected}
    assert [c.preference for c in found] == pytest.approx([by_instruction[p["instruction"]] for p in pairs])
    assert found[-1].preference == 1.5


def test_what_an_annotator_cannot_read_has_no_preference(tmp_path):
    with FaultServer(lambda body: "neither") as server:
        (found,) = openai_judge(server, tmp_path).compare([CompareRequest(user("Q"), "a", "b")])
        assert found.preference is None


def test_annotators_that_there_are_not_and_prompts_of_two_turns_are_named(tmp_path):
    chat = Chat(Endpoint(model="m", base_url="http://127.0.0.1:9/v1"), tmp_path / "c.sqlite")
    with pytest.raises(
        ConfigError, match=r"no such annotator of alpaca-eval; there are .*weighted_alpaca_eval_gpt4_turbo"
    ):
        annotate_pairs(chat, "nobody", [CompareRequest(user("Q"), "a", "b")])
    with pytest.raises(DataError, match="a prompt here has 2"):
        annotate_pairs(chat, "alpaca_eval_gpt4", [CompareRequest(user("Q") * 2, "a", "b")])
    with pytest.raises(ConfigError, match="not for chat models"):
        annotate_pairs(chat, "text_davinci_003", [CompareRequest(user("Q"), "a", "b")])


# --- the reward model


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder = write_model(tmp_path_factory.mktemp("reward"), TEMPLATE)
    config = LlamaConfig.from_pretrained(folder)
    config.num_labels = 1
    torch.manual_seed(1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_rewards_are_those_of_the_model_one_conversation_at_a_time(reward_folder):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(reward_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_folder)
    requests = [CompareRequest(user("Why?" * n), "because " * n, "no") for n in (1, 9, 3, 5)]
    judge = RewardModelJudge(RewardModelSettings(model=str(reward_folder), precision="float32", batch_size=3))
    for request, found in zip(requests, judge.compare(requests), strict=True):
        alone = []
        for response in (request.first, request.second):
            ids = tokenizer.apply_chat_template(
                [*request.prompt, {"role": "assistant", "content": response}], return_tensors="pt", return_dict=False
            )
            with torch.inference_mode():
                alone.append(float(model(ids).logits[0, 0]))
        assert found.preference == pytest.approx(1 + 1 / (1 + np.exp(alone[0] - alone[1])), abs=1e-4)


def test_rewards_become_grades_by_the_range_given_and_too_long_ones_none(reward_folder):
    settings = RewardModelSettings(
        model=str(reward_folder), precision="float32", raw_range=(-1000, 1000), max_length=60
    )
    short, long = RewardModelJudge(settings).grade([GradeRequest(user("Q"), "A"), GradeRequest(user("Q"), "A" * 100)])
    assert short.score == pytest.approx(5.5, abs=0.2)
    assert long == Grade(None, "longer than 60 tokens")
    with pytest.raises(ConfigError, match="need raw_range"):
        RewardModelJudge(RewardModelSettings(model=str(reward_folder))).grade([GradeRequest(user("Q"), "A")])
    with pytest.raises(ConfigError, match="does not rise"):
        RewardModelJudge(RewardModelSettings(model="x", raw_range=(1, 1)))


def test_control_tokens_in_what_a_reward_model_reads_are_text_and_counted(reward_folder):
    from transformers import AutoTokenizer

    token = AutoTokenizer.from_pretrained(reward_folder).eos_token
    settings = RewardModelSettings(model=str(reward_folder), precision="float32", raw_range=(-1000, 1000))
    judge = RewardModelJudge(settings)
    plain, marked = judge.grade([GradeRequest(user("Q1"), "A"), GradeRequest(user("Q2"), f"A{token}")])
    assert plain.score != marked.score
    (note,) = judge_notes(judge, "b")
    assert note.startswith("b: 1 of 2 prompts hold a text with marks")
    assert repr(token) in note
    judge.settings = settings.model_copy(update={"max_length": 16})
    judge.grade([GradeRequest(user("Why?" * 9), "A" * 100)])
    assert "1 of 3 requests have no answer: 'Why?Why?" in judge_notes(judge, "b")[-1]


def test_an_output_with_a_score_is_read_by_it_and_many_labels_are_refused(reward_folder):
    import torch

    judge = RewardModelJudge(RewardModelSettings(model=str(reward_folder)))

    @dataclass
    class Output:
        logits: torch.Tensor
        score: torch.Tensor | None = None

    assert judge._read(Output(torch.zeros(2, 19), torch.tensor([0.25, 0.5]))) == [0.25, 0.5]
    with pytest.raises(ModelError, match="19 labels"):
        judge._read(Output(torch.zeros(2, 19)))


# --- the protocol, the look-up, quality


@dataclass(frozen=True)
class Lengths:
    name: str = "lengths"

    def grade(self, requests, progress=None):
        return [Grade(float(len(r.response)) or None, r.response) for r in requests]


@dataclass(frozen=True)
class FirstShown:
    """Prefers what it is shown first, unless the second is much longer."""

    name: str = "first"

    def grade(self, requests, progress=None):
        raise NotImplementedError

    def compare(self, requests, progress=None):
        return [Comparison(2.0 if len(r.second) > len(r.first) + 3 else 1.0, "") for r in requests]


def test_grades_compare_where_the_judge_does_not():
    pairs = [
        CompareRequest(user("Q"), first, second) for first, second in (("aa", "a"), ("a", "aa"), ("a", "b"), ("", "a"))
    ]
    assert [c.preference for c in compare(Lengths(), pairs)] == [1.0, 2.0, 1.5, None]
    assert compare(Lengths(), pairs)[0].grades == (Grade(2.0, "aa"), Grade(1.0, "a"))


def test_position_and_length_bias_are_found():
    pairs = [CompareRequest(user("Q"), "a" * 4, "b" * n) for n in (1, 3, 5, 7, 9, 11)]
    found = bias(pairs, *both_orders(FirstShown(), pairs))
    # The first shown wins every game but two: 9 and 11 letters shown second to 4.
    assert found.swap_agreement == pytest.approx(2 / 6)
    assert found.first_shown_rate == pytest.approx(10 / 12)
    assert found.length_correlation > 0.8
    assert (found.longer_rate, found.n, found.n_missing) == (1.0, 6, 0)
    fair = bias(pairs, *both_orders(Lengths(), pairs))
    assert (fair.swap_agreement, fair.first_shown_rate) == (1.0, 0.5)
    missing = bias(pairs, [Comparison(None, "")] * 6)
    assert (missing.n, missing.n_missing, missing.swap_agreement, missing.length_correlation) == (0, 6, None, None)


def test_agreement_and_kappa_equal_scikit_learns_and_scipys():
    from scipy.stats import spearmanr
    from sklearn.metrics import accuracy_score, cohen_kappa_score

    rng = np.random.default_rng(0)
    ours, theirs = rng.choice([1.0, 2.0], 200), rng.choice([1.0, 2.0], 200)
    found = agreement([*ours, None, 1.0], [*theirs, 1.0, None])
    assert found.n == 200
    assert found.agreement == accuracy_score(ours, theirs)
    assert found.kappa == cohen_kappa_score(ours, theirs)
    assert agreement([1.5], [2.0]).agreement == 0.5
    assert agreement([2.0], [2.0]).kappa is None
    assert agreement([None], [1.0]) is None
    assert spearman(ours, theirs) == pytest.approx(spearmanr(ours, theirs).statistic)
    assert [verdict(p) for p in (1, 1.49, 1.5, 0, 1.51, 2)] == [1, 1, 0, 0, 2, 2]
    assert unswapped(Comparison(1.25, "x")).preference == 1.75


def test_judges_are_found_by_name_and_wrong_settings_named():
    assert isinstance(find_judge("verifier"), Verifier)
    with pytest.raises(ConfigError, match="no such judge; there are openai, panel, reward-model, verifier"):
        find_judge("oracle")
    with pytest.raises(ConfigError, match="judge openai: no setting 'modle'; allowed: model, base_url"):
        find_judge("openai", {"model": "m", "modle": "m"})
    with pytest.raises(ConfigError, match="judge openai, concurrency"):
        find_judge("openai", {"model": "m", "concurrency": 0})
    with pytest.raises(ConfigError, match="judge openai, model"):
        find_judge("openai")


def test_only_what_can_change_a_verdict_counts(tmp_path):
    settings = check_settings("openai", {"model": "m", "concurrency": 3, "max_requests": 5, "prompts": tmp_path})
    apart = split_settings("openai", settings)
    assert set(apart.counted) == {
        "model", "base_url", "annotator", "arena_config", "temperature", "max_tokens", "verdict", "version",
        "sampling_options",
    }  # fmt: skip
    assert {"concurrency", "max_requests", "api_key_env", "price_in"} <= set(apart.hints)
    assert (apart.files, apart.models) == ({"prompts": tmp_path}, {})
    reward = split_settings("reward-model", check_settings("reward-model", {"model": "a/b", "batch_size": 2}))
    assert reward.models == {"model": "a/b"}
    assert reward.hints == {"batch_size": 2}
