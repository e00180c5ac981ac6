"""A judge and the sampling of answers, as benchmark sections of a matrix file name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from radpo.benchmarks.section import Section, beside_the_matrix
from radpo.core.errors import ConfigError
from radpo.judges.lookup import SettingsApart, check_settings, split_settings
from radpo.models.loading import Precision


class SamplingSettings(Section):
    """How answers are drawn: greedily at temperature 0, by transformers in this process or by vLLM."""

    max_new_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    stop: tuple[str, ...] = ()
    batch_size: int = Field(32, ge=1)
    backend: Literal["transformers", "vllm"] = "transformers"
    precision: Precision = Field("auto", description="Arithmetic of the answering model.")
    use_model_config: bool = Field(
        False,
        description="Choose tokens as the checkpoint's own generation config says (temperature, top_p, top_k, "
        "repetition_penalty, ...), in place of temperature and top_p here.",
    )
    keep_reasoning: bool = Field(
        False, description="Judge and count what a model thinks (such as <think>...</think>) as part of its answer."
    )

    @model_validator(mode="after")
    def _one_of_both_decides(self) -> SamplingSettings:
        set_here = sorted({"temperature", "top_p"} & self.model_fields_set)
        if self.use_model_config and set_here:
            raise ValueError(f"use_model_config takes the model's own {' and '.join(set_here)}; leave one of them out")
        return self


class AlpacaEvalSampling(SamplingSettings):
    """AlpacaEval's answers, up to the length that its own models' configurations allow."""

    max_new_tokens: int = Field(2048, ge=1)


class MTBenchSampling(SamplingSettings):
    """MT-Bench's answers as FastChat draws them: 1024 tokens, and unless a temperature is given, one by category."""

    max_new_tokens: int = Field(1024, ge=1)
    temperature: float | None = Field(None, ge=0)  # type: ignore[assignment]


class ArenaHardSampling(SamplingSettings):
    """Arena-Hard's answers as arena-hard-auto draws them: greedily, 4096 tokens."""

    max_new_tokens: int = Field(4096, ge=1)


class JudgeSettings(BaseModel):
    """A judge: its kind, and the settings of that kind (`radpo.judges.lookup`); a name alone is a kind without any."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str = "verifier"

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _settings_fit(self, info: ValidationInfo) -> JudgeSettings:
        try:
            checked = check_settings(self.kind, self.model_extra or {})
        except ConfigError as error:
            raise ValueError(str(error)) from error
        for name in self.model_extra or {}:
            value = getattr(checked, name)
            if isinstance(value, Path):
                (self.model_extra or {})[name] = beside_the_matrix(value, info)
        return self

    def parts(self) -> SettingsApart:
        """The kind's settings apart: what can change a verdict, what cannot, and the files and models that can."""
        return split_settings(self.kind, check_settings(self.kind, self.model_extra or {}))
