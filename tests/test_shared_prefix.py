"""Shared-prefix rows: TRL's loss and every gradient, for every architecture, loss and length."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from factories import write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from trl import DPOConfig, DPOTrainer
from trl.kernels import ChunkedLogProbFunction

from radpo.core.errors import DataError, ModelError, RadpoError
from radpo.models.kernels import branch_attention
from radpo.models.kernels.branch_attention import reading
from radpo.models.kernels.head import TokenLogProbs
from radpo.models.likelihood import TokenizedResponse, log_likelihoods
from radpo.models.loading import load_tokenizer
from radpo.models.shared_prefix import attention_mask, model_inputs, shared_prefix_unsupported_reason, shared_rows
from radpo.preferences.relabel import source_of
from radpo.training.collator import SharedPrefixCollator, StepGroupedSampler
from radpo.training.settings import Loss, TrainingSettings, loss_arguments
from radpo.training.trainer import SharedPrefixDPOTrainer

SIZE = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
GROUPED = {**SIZE, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 258, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.4}
ARCHITECTURES = {
    "llama": transformers.LlamaConfig(**GROUPED),
    "qwen2": transformers.Qwen2Config(**GROUPED),
    "qwen2-windows": transformers.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen3": transformers.Qwen3Config(**GROUPED, head_dim=8),
    "gemma2": transformers.Gemma2Config(
        **GROUPED, head_dim=8, sliding_window=5, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
    ),
    "gemma3": transformers.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=5),
    "mistral": transformers.MistralConfig(**GROUPED, sliding_window=5),
    "gpt2": transformers.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0, pad_token_id=1, resid_pdrop=0.0),
}
LOSSES = [
    ("sigmoid", 0.0), ("sigmoid", 0.3), ("hinge", 0.0), ("ipo", 0.0), ("exo_pair", 0.1), ("nca_pair", 0.0),
    ("robust", 0.2), ("bco_pair", 0.0), ("sppo_hard", 0.0), ("aot", 0.0), ("aot_unpaired", 0.0), ("apo_zero", 0.0),
    ("apo_down", 0.0), ("discopop", 0.0), ("sigmoid_norm", 0.0), ("sft", 0.0),
]  # fmt: skip
EXAMPLES = [
    {"prompt_ids": list(range(10, 22)), "chosen_ids": [30, 31, 32, 33, 0], "rejected_ids": [40, 41, 0]},
    {"prompt_ids": [50, 51, 52], "chosen_ids": [60, 0], "rejected_ids": list(range(70, 84))},
    {"prompt_ids": [90, 91, 92, 93], "chosen_ids": list(range(100, 111)), "rejected_ids": [120, 121, 0]},
]
KNOWN = {"ref_chosen_logps": -20.5, "ref_rejected_logps": -18.25}


class Peer(DPOTrainer):
    """TRL's trainer on pairs that are tokens already, with their references."""

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *rest: Any) -> Any:
        return dataset


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(write_model(tmp_path_factory.mktemp("tokens")))


def build(kind: type[DPOTrainer], config: Any, tokenizer: Any, *, peft_config: Any = None, **changes: Any) -> Any:
    """A trainer of a random model, the same for the same configuration."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    arguments: dict[str, Any] = {
        "output_dir": "unused", "beta": 0.3, "bf16": False, "use_cpu": True, "gradient_checkpointing": False,
        "report_to": "none", "save_strategy": "no", "max_length": None, "precompute_ref_log_probs": True,
        "disable_tqdm": True, **changes,
    }  # fmt: skip
    return kind(
        model=model, args=DPOConfig(**arguments), processing_class=tokenizer, peft_config=peft_config,
        train_dataset=Dataset.from_list([{**example, **KNOWN} for example in EXAMPLES]),
    )  # fmt: skip


def loss_and_gradients(trainer: Any, examples: list[dict[str, Any]] = EXAMPLES) -> tuple[torch.Tensor, dict[str, Any]]:
    trainer.model.train()
    trainer.model.zero_grad()
    batch = trainer.data_collator([{**example, **KNOWN} for example in examples])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.detach(), found


def assert_equal(ours: Any, theirs: Any, examples: list[dict[str, Any]] = EXAMPLES) -> None:
    """Loss and every gradient, to 1e-4 of TRL's."""
    (loss, gradients), (their_loss, their_gradients) = (loss_and_gradients(t, examples) for t in (ours, theirs))
    assert ours.unshared is None
    torch.testing.assert_close(loss, their_loss, rtol=1e-4, atol=1e-6)
    assert gradients.keys() == their_gradients.keys()
    largest = max(float(gradient.norm()) for gradient in their_gradients.values())
    assert largest > 1e-5, "equal gradients mean something only if there are some"
    for name, gradient in gradients.items():
        apart = float((gradient - their_gradients[name]).norm())
        # A gradient that is zero but for rounding is held against the largest one.
        assert apart <= 1e-4 * max(float(their_gradients[name].norm()), 1e-3 * largest), name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradients_are_trls_for_every_architecture(name: str, tokenizer: Any) -> None:
    assert_equal(*(build(kind, ARCHITECTURES[name], tokenizer) for kind in (SharedPrefixDPOTrainer, Peer)))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "mistral", "gpt2"])
def test_loss_and_gradients_are_trls_with_truncation(name: str, tokenizer: Any) -> None:
    trainers = [build(k, ARCHITECTURES[name], tokenizer, max_length=13) for k in (SharedPrefixDPOTrainer, Peer)]
    assert_equal(*trainers)
    short = trainers[0].data_collator(EXAMPLES)
    assert int((short["rows_labels"] >= 0).sum()) == 1 + 1 + 2 + 10 + 9 + 3, "responses were cut"


@pytest.mark.parametrize("name", ["llama", "qwen2-windows", "gemma2", "mistral", "gpt2"])
def test_loss_and_gradients_are_trls_with_lora(name: str, tokenizer: Any) -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    assert_equal(*(build(k, ARCHITECTURES[name], tokenizer, peft_config=lora) for k in (SharedPrefixDPOTrainer, Peer)))


def test_loss_and_gradients_are_trls_for_every_loss(tokenizer: Any) -> None:
    ours, theirs = (build(kind, ARCHITECTURES["llama"], tokenizer) for kind in (SharedPrefixDPOTrainer, Peer))
    assert {loss for loss, _ in LOSSES} == set(Loss.__args__), "every loss is here"  # type: ignore[attr-defined]
    for loss, smoothing in LOSSES:
        asked = loss_arguments(TrainingSettings(loss=loss, label_smoothing=smoothing))  # type: ignore[arg-type]
        for trainer in (ours, theirs):
            trainer.loss_types, trainer.label_smoothing = asked["loss_type"], smoothing
            trainer.loss_weights = asked.get("loss_weights", [1.0])
        assert_equal(ours, theirs)


def test_loss_and_gradients_are_trls_with_weighting_and_length_desensitising(tokenizer: Any) -> None:
    for changes in ({"use_weighting": True}, {"ld_alpha": 0.5}, {"f_divergence_type": "js_divergence"}):
        assert_equal(*(build(k, ARCHITECTURES["llama"], tokenizer, **changes) for k in (SharedPrefixDPOTrainer, Peer)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_loss_and_gradients_are_trls_with_gradient_checkpointing(tokenizer: Any, reentrant: bool) -> None:
    changes = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    trainers = [build(k, ARCHITECTURES["llama"], tokenizer, **changes) for k in (SharedPrefixDPOTrainer, Peer)]
    for trainer in trainers:
        trainer.model.gradient_checkpointing_enable(changes["gradient_checkpointing_kwargs"])
    assert_equal(*trainers)


def test_label_smoothing_is_conservative_dpo(tokenizer: Any) -> None:
    asked = loss_arguments(TrainingSettings(label_smoothing=0.3, beta=0.3))
    trainer = build(SharedPrefixDPOTrainer, ARCHITECTURES["llama"], tokenizer, **asked)
    plain = build(SharedPrefixDPOTrainer, ARCHITECTURES["llama"], tokenizer)
    batch = plain.data_collator([{**EXAMPLES[0], **KNOWN}])
    plain.compute_loss(plain.model, batch)
    x = torch.tensor(plain._metrics["train"]["rewards/margins"][0])
    expected = -0.7 * torch.nn.functional.logsigmoid(x) - 0.3 * torch.nn.functional.logsigmoid(-x)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


TOKENS = st.integers(2, 257)


@st.composite
def pairs_of_any_length(draw: Any) -> list[dict[str, Any]]:
    def ids(low: int, high: int) -> Any:
        return draw(st.lists(TOKENS, min_size=low, max_size=high))

    # The first tokens differ, also where the rest is cut: equal responses have no gradient to compare.
    return [
        {"prompt_ids": ids(1, 14), "chosen_ids": [5, *ids(0, 12)], "rejected_ids": [6, *ids(0, 12)]}
        for _ in range(draw(st.integers(1, 4)))
    ]


@pytest.fixture(scope="module")
def two_trainers(tokenizer: Any) -> Any:
    return [
        build(kind, ARCHITECTURES["gemma3"], tokenizer, max_length=16, beta=0.05)
        for kind in (SharedPrefixDPOTrainer, Peer)
    ]


@settings(max_examples=30, deadline=None)
@given(examples=pairs_of_any_length())
def test_loss_and_gradients_are_trls_at_any_length(two_trainers: Any, examples: list[dict[str, Any]]) -> None:
    assert_equal(*two_trainers, examples)


def test_logged_metrics_are_trls(tokenizer: Any) -> None:
    ours, theirs = (build(kind, ARCHITECTURES["llama"], tokenizer) for kind in (SharedPrefixDPOTrainer, Peer))
    for trainer in (ours, theirs):
        loss_and_gradients(trainer)
    logged, expected = (dict(trainer._metrics["train"]) for trainer in (ours, theirs))
    assert logged.keys() == expected.keys()
    for name, values in expected.items():
        assert logged[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name


def test_rejected_never_sees_chosen(tokenizer: Any) -> None:
    trainer = build(SharedPrefixDPOTrainer, ARCHITECTURES["llama"], tokenizer)
    prompt, rejected = [10, 11, 12, 13], [40, 41, 42]
    found = []
    for chosen in ([30, 31], [32, 33, 34, 35, 36]):
        batch = trainer.data_collator([{"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, **KNOWN}])
        trainer.compute_loss(trainer.model, batch)
        found.append(trainer._metrics["train"]["logps/rejected"][-1])
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_a_row_holds_its_prompt_once() -> None:
    rows = shared_rows([[5, 6, 7], [8]], [[[1, 2, 3], [4]], [[9], []]], pad_token_id=99)
    assert rows.input_ids.tolist() == [[5, 6, 7, 1, 2, 7], [8, 99, 99, 99, 99, 99]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 2], [0, 0, 0, 0, 0, 0]]
    assert rows.branch.tolist() == [[0, 0, 1, 1, 1, 2], [1, -1, -1, -1, -1, -1]]
    assert rows.labels.tolist() == [[-100, -100, 1, 2, 3, 4], [9, -100, -100, -100, -100, -100]]
    mask = attention_mask(rows, transformers.LlamaConfig(attn_implementation="sdpa"), torch.float32)[0, 0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    with pytest.raises(DataError, match="a prompt has no token"):
        shared_rows([[]], [[[1]]])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.BloomConfig(vocab_size=258, hidden_size=32, n_layer=2, n_head=4), "does not take the mask"),
        (transformers.MambaConfig(vocab_size=258, hidden_size=32, num_hidden_layers=2), "linear_attention"),
    ],
)
def test_a_model_that_cannot_take_the_mask_is_trained_trls_way_and_says_so(
    config: Any, reason: str, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = (build(kind, config, tokenizer) for kind in (SharedPrefixDPOTrainer, Peer))
    with caplog.at_level(logging.WARNING, logger="radpo"):
        loss, gradients = loss_and_gradients(ours)
    assert reason in ours.unshared
    assert "prompts are read twice" in caplog.text
    assert reason in caplog.text
    their_loss, their_gradients = loss_and_gradients(theirs)
    torch.testing.assert_close(loss, their_loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name])


def test_a_mask_left_unheeded_is_found_out() -> None:
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES["llama"])
    assert shared_prefix_unsupported_reason(model) is None
    forward = model.model.forward
    model.model.forward = lambda *args, attention_mask=None, **kwargs: forward(*args, **kwargs)
    assert shared_prefix_unsupported_reason(model) == "its attention does not heed the mask"


def test_keeping_the_end_is_left_to_trl(tokenizer: Any) -> None:
    trainer = build(
        SharedPrefixDPOTrainer, ARCHITECTURES["llama"], tokenizer, max_length=13, truncation_mode="keep_end"
    )
    assert trainer.unshared == "truncation_mode is keep_end"
    theirs = build(Peer, ARCHITECTURES["llama"], tokenizer, max_length=13, truncation_mode="keep_end")
    torch.testing.assert_close(loss_and_gradients(trainer)[0], loss_and_gradients(theirs)[0])


def test_a_loss_of_ones_own_is_used(tokenizer: Any) -> None:
    def squared(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
        return (beta * (chosen - rejected) - 1) ** 2

    torch.manual_seed(0)
    plain = build(SharedPrefixDPOTrainer, ARCHITECTURES["llama"], tokenizer)
    batch = plain.data_collator([{**EXAMPLES[0], **KNOWN}])
    plain.compute_loss(plain.model, batch)
    margin = plain._metrics["train"]["rewards/margins"][0]
    plain.pair_loss = squared
    assert plain.compute_loss(plain.model, batch).item() == pytest.approx((margin - 1) ** 2, rel=1e-5)


def test_a_loss_that_is_no_number_names_step_and_pairs(tokenizer: Any) -> None:
    trainer = build(SharedPrefixDPOTrainer, ARCHITECTURES["llama"], tokenizer)
    trainer.pair_loss = lambda chosen, rejected, beta: chosen * float("nan")
    trainer.model.train()
    batch = trainer.data_collator([{**example, **KNOWN, "id": f"pair-{n}"} for n, example in enumerate(EXAMPLES)])
    with pytest.raises(RadpoError, match=r"training step 1: the loss is nan on the pairs pair-0, pair-1, pair-2"):
        trainer.compute_loss(trainer.model, batch)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 900), min_size=1, max_size=60), step=st.integers(1, 16), seed=st.integers(0, 9))
def test_every_step_sees_the_pairs_of_trls_order(lengths: list[int], step: int, seed: int) -> None:
    from accelerate.data_loader import SeedableRandomSampler

    for epoch in (0, 1, 2):
        ours = StepGroupedSampler(lengths, step, seed)
        theirs = SeedableRandomSampler(range(len(lengths)), generator=torch.Generator(), data_seed=seed)
        for sampler in (ours, theirs):
            sampler.set_epoch(epoch)
        order, expected = list(ours), list(theirs)
        for start in range(0, len(lengths), step):
            group = order[start : start + step]
            assert sorted(group) == sorted(expected[start : start + step])
            assert [lengths[i] for i in group] == sorted((lengths[i] for i in group), reverse=True)


@settings(max_examples=40, deadline=None)
@given(pairs=st.integers(1, 30), half_step=st.integers(1, 8), seed=st.integers(0, 9))
def test_pairs_of_one_scored_pair_share_a_step_where_goals_go_together(pairs: int, half_step: int, seed: int) -> None:
    names = [f"pair#{number}#{side}" for number in range(pairs) for side in ("chosen", "rejected")]
    sampler = StepGroupedSampler([5] * len(names), 2 * half_step, seed, [source_of(name) for name in names])
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(len(names)))
        for start in range(0, len(names), 2 * half_step):
            sources = Counter(source_of(names[place]) for place in orders[-1][start : start + 2 * half_step])
            assert set(sources.values()) == {2}
    assert pairs < 6 or orders[0] != orders[1], "every epoch has an order of its own"


def test_the_usual_order_of_training_is_no_part_of_a_key_and_another_is() -> None:
    assert "goals_together" not in TrainingSettings().model_dump(mode="json")
    settings = TrainingSettings(goals_together=True)
    assert settings.model_dump(mode="json")["goals_together"] is True
    assert TrainingSettings.model_validate(settings.model_dump()) == settings
    for wrong in ({"batch_size": 3, "per_device_train_batch_size": 1}, {"loss": "aot"}):
        with pytest.raises(ValidationError, match="goals_together"):
            TrainingSettings(goals_together=True, **wrong)


@pytest.mark.parametrize(
    ("softcap", "scale", "temperature", "bias", "dtype"),
    [
        (None, 1.0, 1.0, False, torch.float32),
        (3.0, 0.5, 1.7, True, torch.float32),
        (None, 1.0, 1.0, False, torch.bfloat16),
    ],
)
def test_the_cpu_head_is_trls(
    softcap: float | None, scale: float, temperature: float, bias: bool, dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("radpo.models.kernels.head.TILE_ROWS", 40)  # several tiles, and not all of them are kept
    monkeypatch.setattr("radpo.models.kernels.head.TILE_NUMBERS", 40 * 700)
    monkeypatch.setattr("radpo.models.kernels.head.KEPT_NUMBERS", 10 * 40 * 700)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(101, 24), torch.randn(5000, 24), torch.randint(0, 5000, (101,))
    offset, upstream = torch.randn(5000), torch.randn(101)
    names = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
    found = []
    for function in (TokenLogProbs, ChunkedLogProbFunction):
        inputs = [value.to(dtype).clone().requires_grad_() for value in (hidden, weight, offset)]
        head_bias = inputs[2] if bias else None
        outputs = function.apply(*inputs[:2], head_bias, targets, temperature, 2000, softcap, scale, names)
        (outputs[0] * upstream).sum().backward()
        found.append(
            [*(value.detach().float() for value in outputs), *(v.grad.float() for v in inputs if v.grad is not None)]
        )
    tolerance = 2e-2 if dtype is torch.bfloat16 else 1e-4
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2", "bloom", "granite", "cohere"])
def test_log_likelihoods_of_many_responses_are_those_of_one_sequence_at_a_time(name: str) -> None:
    torch.manual_seed(1)
    others = {
        "bloom": transformers.BloomConfig(vocab_size=258, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.4),
        "granite": transformers.GraniteConfig(**GROUPED, logits_scaling=8.0, attention_multiplier=0.3),
        "cohere": transformers.CohereConfig(**GROUPED, logit_scale=0.25),
    }
    model = transformers.AutoModelForCausalLM.from_config((ARCHITECTURES | others)[name]).eval()
    draw = torch.Generator().manual_seed(2)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 257, (length,), generator=draw).tolist())

    prompts = [ids(9), ids(1), ids(4)]
    items = [TokenizedResponse(prompts[n % 3], ids(1 + n % 7)) for n in range(17)]
    found = log_likelihoods(model, items, batch_tokens=40)
    for item, ours in zip(items, found, strict=True):
        sequence = torch.tensor([item.prompt_ids + item.response_ids])
        with torch.no_grad():
            logps = model(sequence).logits[0, :-1].log_softmax(-1).gather(-1, sequence[0, 1:, None])
        expected = logps[len(item.prompt_ids) - 1 :].sum().item()
        assert ours.logp == pytest.approx(expected, abs=1e-4 * len(item.response_ids))
        assert ours.tokens == len(item.response_ids)


def test_the_collators_example_holds() -> None:
    import doctest

    import radpo.training.collator as module

    assert doctest.testmod(module).failed == 0
    assert SharedPrefixCollator.__doc__ is not None


def test_references_in_the_data_are_used_and_measured_else(tokenizer: Any, tmp_path: Path) -> None:
    """The trainer is TRL's in full: on text, with references to be computed."""
    messages = [
        {
            "prompt": [{"role": "user", "content": f"Say {n}"}],
            "chosen": [{"role": "assistant", "content": "yes " * (n + 1)}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for n in range(3)
    ]
    found = []
    for kind in (SharedPrefixDPOTrainer, DPOTrainer):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES["llama"])
        arguments = DPOConfig(
            output_dir=str(tmp_path), bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none",
            precompute_ref_log_probs=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = kind(
            model=model, args=arguments, processing_class=tokenizer, train_dataset=Dataset.from_list(messages)
        )
        found.append(trainer.train_dataset)
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert found[0][column][:] == found[1][column][:]
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        assert [float(logp) for logp in found[0][column]] == pytest.approx(
            [float(logp) for logp in found[1][column]], abs=1e-3
        )


def test_flex_attention_takes_the_mask() -> None:
    """The block mask is the dense one's, and the model heeds it."""
    rows = shared_rows([[5, 6, 7], [8]], [[[1, 2, 3], [4]], [[9], [2, 3]]])
    models = [
        transformers.AutoModelForCausalLM.from_config(
            transformers.LlamaConfig(**{**GROUPED, "hidden_size": 64}), attn_implementation=kind
        )
        for kind in ("sdpa", "flex_attention")
    ]
    dense, blocks = (attention_mask(rows, model.config, torch.float32) for model in models)
    queries, keys = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    for row in range(2):
        seen = blocks.mask_mod(torch.tensor(row), torch.tensor(0), queries, keys)
        assert seen.equal(dense[row, 0])


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("most", [1 << 13, 0])
def test_rows_are_read_on_a_cpu_without_the_scores_that_are_masked(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end and padded; with windows in some layers too, where only the others go by the lengths."""
    torch.manual_seed(0)
    settings = ARCHITECTURES[kind].to_dict()
    if kind == "gemma3":
        settings["layer_types"] = ["sliding_attention", "full_attention"]
    model = transformers.AutoModelForCausalLM.from_config(type(ARCHITECTURES[kind])(**settings)).eval()
    config = model.config.get_text_config()
    rows = shared_rows([[5, 6, 7], [8], [9] * 6], [[[1, 2, 3], [4], [2, 2]], [[9], []], [[3] * 9, [4] * 7]])
    monkeypatch.setattr("radpo.models.kernels.branch_attention.MOST_TOKENS", most)
    windowed = kind == "gemma3"
    with torch.no_grad():
        masked = model(**model_inputs(rows, config, model.dtype)).logits[rows.branch >= 0]
        laid, inputs = reading(rows, config, model.dtype)
        assert len(laid.branch) == (1 if most and not windowed else 3)
        apart = model(**inputs).logits[laid.branch >= 0]
        computed = []
        parts = branch_attention._parts
        monkeypatch.setattr(
            branch_attention, "_parts", lambda *a: (computed.append(part.scores.numel()) or part for part in parts(*a))
        )
        model(**inputs)
    every_score = config.num_attention_heads * laid.branch.numel() * laid.branch.shape[1]
    by_blocks = config.layer_types.count("full_attention") if windowed else config.num_hidden_layers
    assert 0 < sum(computed) < 0.8 * by_blocks * every_score
    torch.testing.assert_close(apart, masked, rtol=1e-4, atol=1e-4)


def test_the_mask_of_rows_end_to_end_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that does not call transformers' attention reads the same from the mask alone."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES["llama"]).eval()
    rows = shared_rows([[5, 6, 7], [8]], [[[1, 2, 3], [4]], [[9], [2, 3]]])
    with torch.no_grad():
        masked = model(**model_inputs(rows, model.config, model.dtype)).logits[rows.branch >= 0]
        _, inputs = reading(rows, model.config, model.dtype)
        again = model(**{**inputs, "attention_mask": inputs["attention_mask"].clone()}).logits[0]
    torch.testing.assert_close(again, masked, rtol=1e-4, atol=1e-4)


def test_a_head_of_an_unknown_kind_is_refused_instead_of_measured_wrongly() -> None:
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES["llama"]).eval()
    head = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 3 * head(hidden)
    with pytest.raises(ModelError, match="shapes its logits in a way that is not known here"):
        log_likelihoods(model, [TokenizedResponse((3, 4), (5, 6))])
