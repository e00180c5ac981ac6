"""The settings of one training run, as a matrix file or the command line gives them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Every pairwise loss of TRL 1.16's DPOTrainer; its documentation has each one's paper.
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
]


class TrainingSettings(BaseModel):
    """What changes a trained checkpoint, seed and data apart. Defaults are the paper's (arXiv 2410.08067)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(0.01, gt=0, description="Strength of the pull to the reference; the paper's is 0.01.")
    loss: Loss = Field("sigmoid", description="TRL's name of the loss; sigmoid is DPO's own.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of pairs taken to be labelled the wrong way round."
    )
    learning_rate: float = Field(5e-7, gt=0, description="Peak learning rate; cosine decay after the warm-up.")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="Share of the steps over which the learning rate rises.")
    epochs: float = Field(1.0, gt=0, description="Passes over the training pairs.")
    batch_size: int = Field(128, ge=1, description="Pairs an optimiser step sees (the effective batch).")
    micro_batch_size: int = Field(2, ge=1, description="Pairs in memory at once; must divide batch_size.")
    max_length: int = Field(1024, ge=16, description="Tokens of prompt and response together; the rest is cut.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the forward pass; auto is bfloat16 where the processor has it."
    )

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> TrainingSettings:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self
