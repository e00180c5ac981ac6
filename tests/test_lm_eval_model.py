"""lm-eval's model class `radpo` answers as lm-eval's own `hf`, and reads what requests have in common once."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import transformers
from factories import write_model
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from test_shared_prefix import ARCHITECTURES, GPT2

from radpo.models.lm_eval import SharedPrefixHFLM

CONTEXT = 60
OTHERS = {"bloom": transformers.BloomConfig(vocab_size=258, hidden_size=32, n_layer=2, n_head=4)}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_model(tmp_path_factory.mktemp("tokenizer"))
    return {side: transformers.AutoTokenizer.from_pretrained(folder, padding_side=side) for side in ("left", "right")}


def both(config: Any, tokenizer: Any, **settings: Any) -> tuple[SharedPrefixHFLM, HFLM]:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0 if "emb" not in name and "wte" not in name else 1.0)
    # hf's cache of logits takes "Which" + " one" for "W" + "hich one" and answers with the wrong tokens' sum
    given = {"logits_cache": False, "max_length": CONTEXT, "batch_size": 2, **settings}
    given |= {"pretrained": model, "tokenizer": tokenizer}
    return SharedPrefixHFLM(**given), HFLM(**given)


def requests() -> list[Instance]:
    """Few-shot questions with several answers, answers alone, texts past the context, equal ones, and no context."""
    shown = "Q: 1 + 1? A: 2\n\nQ: 2 + 2? A: 4\n\n"
    asked = [(f"{shown}Q: {n} + 1? A:", answer) for n in range(3) for answer in (" one", " two", " 2", " thirteen")]
    asked += [("Yes or no?", answer) for answer in "YN"] + [("Yes or no?", "Y"), ("Which", " one"), ("W", "hich one")]
    asked += [("x" * 90 + f" {n}", answer) for n in range(2) for answer in (" long", " longer still")]
    asked += [("", "Nothing before"), ("", "N")]
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(asked)]


@pytest.mark.parametrize(
    ("name", "side"),
    [*list(product(["llama", "qwen2-windows", "gemma2", "gemma3", "gpt2"], ["left", "right"])), ("bloom", "right")],
)
def test_values_and_greedy_flags_are_those_of_hf(name: str, side: str, tokenizers: dict[str, Any]) -> None:
    ours, theirs = both((ARCHITECTURES | OTHERS)[name], tokenizers[side])
    found, expected = (model.loglikelihood(requests(), disable_tqdm=True) for model in (ours, theirs))
    for request, (logp, greedy), (their_logp, their_greedy) in zip(requests(), found, expected, strict=True):
        tokens = len(ours.tok_encode(request.args[1]))
        assert logp == pytest.approx(their_logp, abs=1e-5 * tokens), request.args
        assert greedy == their_greedy, request.args
    assert (ours.one_at_a_time is None) == (name != "bloom")


def test_greedy_continuations_are_known_as_such(tokenizers: dict[str, Any]) -> None:
    ours, theirs = both(ARCHITECTURES["llama"], tokenizers["right"])
    context = ours.tok_encode("Q: 1 + 1? A:")
    said: list[int] = []
    for _ in range(4):
        said.append(int(ours.model(torch.tensor([context + said])).logits[0, -1].argmax()))
    asked = [(("q", str(n)), context, ids) for n, ids in enumerate((said, said[:1], [*said[:3], (said[3] + 1) % 250]))]
    for model in (ours, theirs):
        assert [greedy for _, greedy in model._loglikelihood_tokens(asked, disable_tqdm=True)] == [True, True, False]


def test_rolling_log_likelihoods_are_those_of_hf(tokenizers: dict[str, Any]) -> None:
    texts = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in ("short", "a longer text " * 12)]
    ours, theirs = (m.loglikelihood_rolling(texts, True) for m in both(ARCHITECTURES["llama"], tokenizers["right"]))
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_what_requests_have_in_common_is_read_once(tokenizers: dict[str, Any]) -> None:
    ours, _ = both(ARCHITECTURES["llama"], tokenizers["right"], max_length=400)
    shown = "An example with its answer. " * 8
    questions = [f"{shown}{n}?" for n in range(5)]
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in product(questions, [" yes", " no", " perhaps"])]
    read = []
    ours.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    assert ours.one_at_a_time is None
    read.clear()
    ours.loglikelihood(asked, disable_tqdm=True)
    apart = 5 * (len(" yes no perhaps") + len("0?") - 1)
    assert sum(read) == len(shown) + apart, "the examples once, then each question and each answer"


def test_answers_are_kept_for_lm_evals_cache_as_they_come(tokenizers: dict[str, Any]) -> None:
    ours, _ = both(ARCHITECTURES["llama"], tokenizers["right"])
    kept = []
    ours.cache_hook.add_partial = lambda kind, request, answer: kept.append((kind, request, answer))
    asked = requests()
    found = ours.loglikelihood(asked, disable_tqdm=True)
    assert {request: answer for _, request, answer in kept} == {r.args: a for r, a in zip(asked, found, strict=True)}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"mixed_precision_dtype": "bfloat16"}, "mixed precision"), ({"backend": "seq2seq"}, "an encoder")],
)
def test_what_cannot_be_shared_is_read_one_at_a_time_with_its_reason(
    settings: dict[str, str], reason: str, tokenizers: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = both(transformers.GPT2Config(**GPT2), tokenizers["right"])
    for model in (ours, theirs):
        if "backend" in settings:
            model.backend = settings["backend"]
        else:
            model.mixed_precision_dtype = torch.bfloat16
    assert reason in str(ours.one_at_a_time)
    if "backend" not in settings:
        asked = requests()
        assert ours.loglikelihood(asked, True) == theirs.loglikelihood(asked, True)
        assert reason in caplog.text


def test_it_is_registered_with_lm_eval() -> None:
    assert get_model("radpo") is SharedPrefixHFLM
