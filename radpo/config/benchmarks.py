"""The benchmark sections of a matrix file. Each builds its stages in `radpo.matrix.benchmarks`, under the same name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from radpo.config.section import DataFile, MatrixPath, Section


class SamplingSettings(Section):
    """How answers are drawn: greedily at temperature 0."""

    max_new_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    batch_size: int = Field(32, ge=1)


class Unlearning(Section):
    """Log-likelihoods of held-out responses before and after."""

    high_score: float = 5.0


class ImplicitReward(Section):
    """How the implicit reward ranks held-out responses, and how sure it is. Nothing to set: beta is the variant's."""


class AlpacaEval(Section):
    """One-turn questions, answered by variant and baseline, compared by the judge."""

    questions: DataFile
    judge: Literal["verifier"] = "verifier"
    sampling: SamplingSettings = SamplingSettings()


class MTBench(Section):
    """Two-turn questions in categories, graded 1-10 by the judge."""

    questions: DataFile
    judge: Literal["verifier"] = "verifier"
    sampling: SamplingSettings = SamplingSettings()


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
    academic: Academic | None = None
    implicit_reward: ImplicitReward | None = Field(None, alias="implicit-reward")

    def named(self) -> dict[str, Section | None]:
        """Every benchmark there is by the name it has in a matrix file, with its section where it was asked for."""
        return {field.alias or name: getattr(self, name) for name, field in type(self).model_fields.items()}
