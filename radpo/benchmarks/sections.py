"""The benchmark sections of a matrix file. Each builds its stages in `radpo.matrix.benchmarks`, under the same name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from radpo.benchmarks.section import DataFile, MatrixPath, Section
from radpo.benchmarks.settings import AlpacaEvalSampling, ArenaHardSampling, JudgeSettings, MTBenchSampling


class Unlearning(Section):
    """Log-likelihoods of held-out responses before and after."""

    high_score: float = 5.0


class ImplicitReward(Section):
    """How the implicit reward ranks held-out responses, and how sure it is. Nothing to set: beta is the variant's."""


class Displacement(Section):
    """Whether training lowered chosen responses, and whether CHES scores (arXiv 2410.08847) told which."""


class RewardKL(Section):
    """Samples at temperature 1: how far the policy is from the reference, and what the judge says of it."""

    questions: DataFile
    judge: Literal["verifier"] = "verifier"
    per_prompt: int = Field(1, ge=1)
    max_new_tokens: int = Field(512, ge=1)
    batch_size: int = Field(32, ge=1)


class Calibration(Section):
    """Samples asked for each goal, scored: does asking for more give more?"""

    questions: DataFile
    judge: Literal["verifier"] = "verifier"
    goals: tuple[float, ...] = Field((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12), min_length=2)
    best_seen: float | None = Field(None, description="The best score in the training data; the scale's end if unset.")
    per_prompt: int = Field(1, ge=1)
    max_new_tokens: int = Field(512, ge=1)
    batch_size: int = Field(32, ge=1)


class Style(Section):
    """Length, variety, repetition and refusals of the answers that AlpacaEval compares; it takes that benchmark."""


class AlpacaEval(Section):
    """One-turn questions, answered by variant and baseline, compared by the judge.

    The baseline is the matrix's own, unless `baseline_outputs` gives another model's answers. Without `questions` both
    are AlpacaEval 2's from the Hub: its 805 instructions, and gpt4_1106_preview's answers. `reference` is the folder of
    the length-controlled win rate's reference files, which are else looked for on the Hub too.
    """

    questions: DataFile | None = None
    judge: JudgeSettings = JudgeSettings()
    sampling: AlpacaEvalSampling = AlpacaEvalSampling()
    baseline_outputs: MatrixPath | None = None
    reference: MatrixPath | None = None
    swap_check: int = Field(50, ge=0, description="Comparisons judged again in the other order, for position bias.")


class MTBench(Section):
    """Two-turn questions in categories, graded 1-10 by the judge, beside reference answers where there are any."""

    questions: DataFile
    judge: JudgeSettings = JudgeSettings()
    sampling: MTBenchSampling = MTBenchSampling()
    references: MatrixPath | None = None


class ArenaHard(Section):
    """Arena-Hard's questions, compared in both orders with the matrix's baseline, or with `baseline_outputs`."""

    questions: DataFile
    judge: JudgeSettings = JudgeSettings()
    sampling: ArenaHardSampling = ArenaHardSampling()
    baseline_outputs: MatrixPath | None = None
    resamples: int = Field(1000, ge=10, description="Bootstrap resamples.")


class Academic(Section):
    """lm-eval tasks by name, the folder `include` searched first."""

    tasks: tuple[str, ...] = Field(min_length=1)
    include: MatrixPath | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    batch_size: int = Field(16, ge=1)


class Benchmarks(Section):
    """What every variant is scored on; a benchmark that is not named is not run."""

    unlearning: Unlearning | None = None
    alpaca_eval: AlpacaEval | None = Field(None, alias="alpaca-eval")
    mt_bench: MTBench | None = Field(None, alias="mt-bench")
    arena_hard: ArenaHard | None = Field(None, alias="arena-hard")
    academic: Academic | None = None
    implicit_reward: ImplicitReward | None = Field(None, alias="implicit-reward")
    displacement: Displacement | None = None
    reward_kl: RewardKL | None = Field(None, alias="reward-kl")
    calibration: Calibration | None = None
    style: Style | None = None

    @model_validator(mode="after")
    def _style_has_answers(self) -> Benchmarks:
        if self.style is not None and self.alpaca_eval is None:
            raise ValueError("style looks at AlpacaEval's answers: name alpaca-eval, too, or leave style out")
        return self

    def named(self) -> dict[str, Section | None]:
        """Every benchmark there is by the name it has in a matrix file, with its section where it was asked for."""
        return {field.alias or name: getattr(self, name) for name, field in type(self).model_fields.items()}
