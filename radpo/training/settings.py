"""The settings of one training run, as a matrix file or the command line gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from radpo.core.errors import ConfigError
from radpo.core.suggestions import did_you_mean
from radpo.core.warn import warn_once

# Every loss of TRL 1.16's DPOTrainer; its documentation has each one's paper.
Loss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
    "sft",
]

SMOOTHED: tuple[Loss, ...] = ("sigmoid", "robust", "exo_pair")
"""Losses that take a label smoothing; TRL leaves it out of all others without a word."""


class Lora(BaseModel):
    """Low-rank adapters (arXiv 2106.09685) through peft; the checkpoint has them merged into its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(16, ge=1, description="The adapters' rank.")
    alpha: float = Field(32, gt=0, description="Their updates are scaled by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="Modules that get an adapter: names' endings, or all-linear (all but the head)."
    )
    four_bit: bool = Field(
        False, description="Hold the model's own weights in four bits (QLoRA, arXiv 2305.14314); needs bitsandbytes."
    )


RENAMED = {
    "warmup_share": "warmup_ratio",
    "epochs": "num_train_epochs",
    "micro_batch_size": "per_device_train_batch_size",
}
"""Settings that had a name of radpo's own, by that name, which is read with a warning until the next release."""


TRL_NAMES = {"loss_type": "loss", "attn_implementation": "attention"}
"""Settings that are called otherwise in TRL and transformers, and are read under that name, too."""
_IN_TRL = {
    "gradient_accumulation_steps": "batch_size: what an optimiser step sees, accumulated in micro-batches",
    "bf16": "precision: bfloat16", "fp16": "precision: bfloat16", "dtype": "precision", "torch_dtype": "precision",
    "max_prompt_length": "max_length: of prompt and response together",
    "max_completion_length": "max_length: of prompt and response together",
    "lora_r": "lora: {r: ...}", "lora_alpha": "lora: {alpha: ...}", "lora_dropout": "lora: {dropout: ...}",
    "lora_target_modules": "lora: {targets: ...}", "use_peft": "lora: {}", "load_in_4bit": "lora: {four_bit: true}",
    "seed": "the matrix's seeds", "output_dir": "the option --out", "save_steps": "the matrix's save_every",
    "report_to": "the matrix's report_to", "warmup_steps": "warmup_ratio: a share of the steps",
    "lr": "learning_rate", "max_steps": "num_train_epochs",
    "ref_model": "the matrix's model: a checkpoint's reference is the model that it is trained from",
}  # fmt: skip
"""Settings of TRL, transformers and peft that radpo has in another form, by their names there."""


def setting_hint(name: str) -> str:
    """`; did you mean 'beta'?`, or what a setting of TRL's is here; nothing where no name is near."""
    return f"; here it is {_IN_TRL[name]}" if name in _IN_TRL else did_you_mean(name, TrainingSettings.model_fields)


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Training settings with TRL's names in place of radpo's old ones.

    Raises:
        ValueError: a setting is given under both its names.
    """
    found = dict(settings)
    for theirs, ours in TRL_NAMES.items():
        if theirs in found:
            if ours in found:
                raise ValueError(f"{theirs} is TRL's name of {ours}, which is given, too; leave one of them out")
            found[ours] = found.pop(theirs)
    for old, new in RENAMED.items():
        if old in found:
            if new in found:
                raise ValueError(f"{old} is the old name of {new}, which is given, too; leave {old} out")
            warn_once(
                f"the training setting {old} is called {new} now, as in TRL; the old name goes with the next release"
            )
            found[new] = found.pop(old)
    return found


class TrainingSettings(BaseModel):
    """What changes a trained checkpoint, seed and data apart. Defaults are the paper's (arXiv 2410.08067)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(0.01, gt=0, description="Strength of the pull to the reference; the paper's is 0.01.")
    loss: Loss = Field("sigmoid", description="TRL's name of the loss; sigmoid is DPO's own.")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share of pairs taken to be labelled the wrong way round: sigmoid becomes conservative DPO "
        "(the authors' recipes have 0.3), robust and exo_pair are made for it.",
    )
    learning_rate: float = Field(5e-7, gt=0, description="Peak learning rate; cosine decay after the warm-up.")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the steps over which the learning rate rises.")
    num_train_epochs: float = Field(1.0, gt=0, description="Passes over the training pairs.")
    batch_size: int = Field(128, ge=1, description="Pairs an optimiser step sees, over all processes.")
    per_device_train_batch_size: int = Field(
        2, ge=1, description="Pairs per process and forward pass; must divide batch_size."
    )
    max_length: int = Field(1024, ge=16, description="Tokens of prompt and response together; the rest is cut.")
    overlong_prompts: Literal["stop", "drop"] = Field(
        "stop",
        description="Pairs whose prompt fills max_length, goal included, leave no response to learn from: stop before "
        "training, or drop and count them.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the forward pass; auto is bfloat16 on GPUs that have it and, on CPUs, what a short "
        "measurement shows to be faster (`radpo doctor` prints it), settled before stages get their keys. Set it if "
        "one machine plans and another computes.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, a third more time."
    )
    attention: Literal["auto", "sdpa", "eager", "flex_attention"] = Field(
        "auto",
        description="auto: sdpa where the architecture allows it. flex_attention skips what a response does not see, "
        "compiled for the GPU.",
    )
    lora: Lora | None = Field(None, description="Train low-rank adapters instead of all weights.")

    goals_together: bool = Field(
        False,
        description="Keep the training pairs that were made of one scored pair, which ask for different goals, in one "
        "optimiser step, so that what they share cancels out and the goal is what is left to learn. Short trainings "
        "learn the goal sooner so; batch_size must be even.",
    )

    @model_serializer(mode="wrap")
    def _usual_order_unsaid(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that trainings in the usual order keep the keys that they had before there was another.
        document: dict[str, Any] = whole(self)
        return document if self.goals_together else {k: v for k, v in document.items() if k != "goals_together"}

    @model_validator(mode="after")
    def _a_step_holds_whole_groups(self) -> TrainingSettings:
        if self.goals_together and self.batch_size % 2:
            raise ValueError(f"batch_size {self.batch_size} is odd; with goals_together two pairs go together")
        if self.goals_together and self.loss in ("aot", "aot_unpaired"):
            raise ValueError(f"goals_together: the loss {self.loss} takes the pairs in TRL's own order")
        return self

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, value: Any) -> Any:
        return with_current_names(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> TrainingSettings:
        if self.batch_size % self.per_device_train_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of per_device_train_batch_size "
                f"{self.per_device_train_batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _the_loss_is_smoothed(self) -> TrainingSettings:
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(f"label_smoothing is for the losses {', '.join(SMOOTHED)}, not for {self.loss}")
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("the loss exo_pair needs a label_smoothing above 0; its paper takes 1e-3")
        return self

    def accumulation(self, processes: int) -> int:
        """Micro-batches of one process that make an optimiser step.

        Raises:
            ValueError: the processes' micro-batches together do not divide the batch.
        """
        together = self.per_device_train_batch_size * processes
        if self.batch_size % together:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of {together}, the per_device_train_batch_size "
                f"{self.per_device_train_batch_size} of {processes} processes"
            )
        return self.batch_size // together


def parse_settings(assignments: Sequence[str]) -> TrainingSettings:
    """Training settings from `key=value` texts; what is not set is the default.

    Raises:
        ConfigError: an assignment is none, or names no setting, or gives a value that the setting does not take.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write it as KEY=VALUE")
        values[key.strip()] = value.strip()
    try:
        return TrainingSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        allowed = ", ".join(TrainingSettings.model_fields)
        key = ".".join(map(str, first["loc"])) or "settings"
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"--set {key}: no such setting; settings are {allowed}{setting_hint(key)}") from error
        raise ConfigError(f"--set {key}: {first['msg']}") from error


def loss_arguments(settings: TrainingSettings) -> dict[str, Any]:
    """The loss as TRL's `DPOConfig` takes it.

    TRL's sigmoid loss knows no label smoothing. Conservative DPO (cDPO, Mitchell 2023, eq. 3; label smoothing in the
    authors' recipes), -(1 - e) log s(x) - e log s(-x) with x = beta * (difference of log-ratios), is a sum of two
    losses that it has: as log s(-x) = log s(x) - x, cDPO is -log s(x) + e x, and the robust loss (arXiv 2403.00409,
    eq. 7) is -log s(x) - e x / (1 - 2 e), so that cDPO = (2 - 2 e) sigmoid - (1 - 2 e) robust.
    """
    smoothing = settings.label_smoothing
    if settings.loss == "sigmoid" and smoothing:
        weights = [2 - 2 * smoothing, -(1 - 2 * smoothing)]
        return {"loss_type": ["sigmoid", "robust"], "loss_weights": weights, "label_smoothing": smoothing}
    return {"loss_type": [settings.loss], "label_smoothing": smoothing}
