"""The baselines: losses in closed form and TRL's own, pairs as they say, and losses given what they ask for."""

from __future__ import annotations

import importlib
import math
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from factories import scored_pairs, write_model

from radpo import Variant
from radpo.core.errors import RadpoError
from radpo.models.loading import load_model, load_tokenizer
from radpo.preferences.relabel import relabel, to_trl
from radpo.training.dataset import training_dataset
from radpo.training.reference import reference_log_likelihoods

BASELINES = Path(__file__).parents[1] / "examples" / "baselines"
SCORES = [(9.0, 3.0), (7.0, 6.0), (10.0, 1.0), (5.0, 4.0)]


@pytest.fixture(scope="module", autouse=True)
def variants() -> Any:
    """The package's variants by name, as its entry points have them."""
    sys.path.insert(0, str(BASELINES))
    document = tomllib.loads((BASELINES / "pyproject.toml").read_text(encoding="utf-8"))
    named = document["project"]["entry-points"]["radpo.variants"]
    modules = {name: target.partition(":") for name, target in named.items()}
    yield {name: getattr(importlib.import_module(module), found) for name, (module, _, found) in modules.items()}
    sys.path.remove(str(BASELINES))


def test_every_baseline_is_a_file_and_a_variant_of_its_own(variants: dict[str, Variant]) -> None:
    assert len(variants) == len(list(BASELINES.glob("radpo_*.py"))) == 6
    assert all(isinstance(variant, Variant) and not variant.conditioned for variant in variants.values())


def test_losses_are_their_papers_formulas(variants: dict[str, Variant]) -> None:
    import torch

    chosen, rejected, beta = torch.tensor([0.5, -2.0]), torch.tensor([-1.0, -3.0]), 0.3
    gap, tokens = torch.tensor([6.0, 1.0]), torch.tensor([4, 10])

    def softplus(x: float) -> float:
        return math.log1p(math.exp(-x))

    margins = [beta * 1.5, beta * 1.0]
    expected = {
        "dpo-weighted": ([2.0 * softplus(margins[0]), softplus(margins[1]) / 3.0], {"gap": gap}),
        "dpo-offset": ([softplus(margins[0] - math.log(6)), softplus(margins[1])], {"gap": gap}),
        "dpo-sft": ([softplus(margins[0]) - 0.125, softplus(margins[1]) + 0.2], {"chosen_tokens": tokens}),
        "dpo-positive": ([softplus(margins[0]), softplus(beta * (1.0 - 50 * 2.0))], {}),
    }
    for name, (values, more) in expected.items():
        loss = variants[name].loss
        assert loss is not None
        assert loss(chosen, rejected, beta, **more).tolist() == pytest.approx(values), name


def test_filtered_pairs_are_apart_and_best_of_n_keeps_one_a_prompt(variants: dict[str, Variant]) -> None:
    import pyarrow as pa

    pairs = scored_pairs(SCORES)
    filtered: Any = variants["dpo-filtered"].data
    assert filtered(pairs, "system", scale=(1.0, 10.0))["source_id"].to_pylist() == ["p0", "p2"]
    assert filtered(pairs, "system", scale=(0.0, 4.5))["source_id"].to_pylist() == ["p0", "p1", "p2", "p3"]
    prompts = pairs["prompt"].to_pylist()
    same = pairs.set_column(
        1, pairs.schema.field("prompt"), pa.array([prompts[0]] * 3 + prompts[3:], pairs["prompt"].type)
    )
    best: Any = variants["best-of-n-sft"].data
    assert best(same, "system")["source_id"].to_pylist() == ["p2", "p3"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    model = write_model(tmp_path_factory.mktemp("model"))
    pairs = relabel(scored_pairs(SCORES), "plain").table
    return model, pairs, reference_log_likelihoods(model, pairs, max_length=400, precision="float32")


def arguments(out: Path, **more: Any) -> Any:
    from trl import DPOConfig

    return DPOConfig(
        output_dir=str(out), beta=0.3, per_device_train_batch_size=1, bf16=False, use_cpu=True, report_to="none",
        gradient_checkpointing=False, max_length=400, **more,
    )  # fmt: skip


def test_dpo_with_sft_has_the_gradient_of_trls_two_losses(
    variants: dict[str, Variant], world: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    import torch
    from trl import DPOTrainer

    from radpo.training.trainer import SharedPrefixDPOTrainer

    model, pairs, reference = world
    made = []
    for ours in (True, False):
        policy = load_model(model)
        with torch.no_grad():  # away from the reference, where the two terms both matter
            for parameter in policy.parameters():
                parameter.mul_(1.05)
        more = {"processing_class": load_tokenizer(model)}
        trainer: Any
        if ours:
            config = arguments(tmp_path, precompute_ref_log_probs=True)
            data = training_dataset(pairs, reference)
            trainer = SharedPrefixDPOTrainer(
                policy, args=config, train_dataset=data, pair_loss=variants["dpo-sft"].loss, **more
            )
        else:
            config = arguments(tmp_path, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 1.0])
            trainer = DPOTrainer(policy, load_model(model), args=config, train_dataset=to_trl(pairs), **more)
        found = []
        trainer.model.train()
        for number in range(len(pairs)):
            batch = trainer.data_collator([trainer.train_dataset[number]])
            trainer.model.zero_grad()
            trainer.compute_loss(trainer.model, batch).backward()
            found.append({name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None})
        made.append(found)
    for ours_, theirs in zip(*made, strict=True):
        assert ours_.keys() == theirs.keys()
        total = sum(float(grad.square().sum()) for grad in theirs.values())
        apart = sum(float((ours_[name] - grad).square().sum()) for name, grad in theirs.items())
        assert total > 1e-3
        assert (apart / total) ** 0.5 < 1e-3


def test_a_loss_is_given_the_gaps_that_it_asks_for_and_told_where_there_are_none(
    world: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    import pyarrow as pa

    from radpo.training.trainer import SharedPrefixDPOTrainer

    model, pairs, reference = world
    seen: list[float] = []

    def loss(chosen: Any, rejected: Any, beta: float, *, gap: Any, chosen_tokens: Any) -> Any:
        assert chosen_tokens.min() > 0
        seen.extend(gap.tolist())
        return -beta * (chosen - rejected)

    def trainer(table: Any) -> Any:
        return SharedPrefixDPOTrainer(
            load_model(model), args=arguments(tmp_path, precompute_ref_log_probs=True), pair_loss=loss,
            train_dataset=training_dataset(table, reference), processing_class=load_tokenizer(model),
        )  # fmt: skip

    given = trainer(pairs)
    given.model.train()
    given.compute_loss(given.model, given.data_collator([given.train_dataset[place] for place in (2, 1)]))
    assert seen == [9.0, 1.0]
    place = pairs.schema.get_field_index("score_rejected")
    unscored = trainer(pairs.set_column(place, "score_rejected", pa.nulls(len(pairs), pa.float64())))
    with pytest.raises(RadpoError, match="gap in score needs training pairs with score_chosen and score_rejected"):
        unscored.compute_loss(unscored.model, unscored.data_collator([unscored.train_dataset[0]]))
