"""What sections of a matrix file are made of: files, the sampling of answers, a judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)

from radpo.clients.endpoint import Endpoint
from radpo.core.errors import ConfigError, RadpoError
from radpo.core.files import can_be_there, is_there
from radpo.core.named_data import NAMED, find_named, place_of
from radpo.core.plugins import choice_schema, load_plugins
from radpo.core.suggestions import did_you_mean
from radpo.core.texts import LONGEST_PATH, excerpt
from radpo.judges.base import JudgeKind
from radpo.judges.lookup import GROUP, SplitSettings, check_settings, find_judge_kind, split_settings
from radpo.models.precision import Precision
from radpo.preferences.hub import parse_hub


class Section(BaseModel):
    """A mapping of a matrix file: its keys are the model's fields, and there are no others."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Option:
    """In a field's annotation: what the field is called on the command line, where that is not its own name."""

    name: str


class ExistingModel(BaseModel):
    """Judgments that there are, as a benchmark scores them without a model: a file, and what it is to know of it.

    `sources` are the fields of which one is given; every field is an option of the benchmark's command.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    sources: ClassVar[tuple[str, ...]] = ()


def beside_the_matrix(path: Path, info: ValidationInfo) -> Path:
    """A path of a matrix file, which begins at the file's own folder; a ValueError if nothing is there.

    Where the matrix is read to be planned (`planning` in the context), it may be yet to come.
    """
    context = info.context or {}
    folder, planning = context.get("folder", Path()), context.get("planning", False)
    try:
        found: Path = folder / path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{excerpt(str(path))}: {error}") from error
    if is_there(found):
        return found
    if str(path) in NAMED:
        try:
            return find_named(str(path), absent_ok=planning)
        except RadpoError as error:
            raise ValueError(str(error)) from error
    if not planning or not can_be_there(found):
        hint = did_you_mean(str(path), NAMED)
        raise ValueError(f"{excerpt(str(found), LONGEST_PATH)} does not exist{hint}")
    return found


def pairs_beside_the_matrix(path: Path, info: ValidationInfo) -> Path:
    """The same, or a data set of the Hub (`radpo.preferences.hub`), whose folder if it is one is beside the matrix."""
    hub = parse_hub(path)
    if hub is None:
        return beside_the_matrix(path, info)
    beside = (info.context or {}).get("folder", Path()) / hub.name
    return Path(str(replace(hub, name=str(beside)))) if is_there(beside) else path


def location_beside(path: str, folder: Path) -> str:
    """What the location of a file is that a matrix in this folder names so, whether or not it is there."""
    if parse_hub(path) is not None:
        return path
    found = folder / Path(path).expanduser()
    return str(place_of(path) if path in NAMED and not is_there(found) else found)


MatrixPath = Annotated[Path, AfterValidator(beside_the_matrix)]
"""A file or folder that exists, or published data by name; relative paths begin at the matrix file's own folder."""


def model_beside_the_matrix(name: str, info: ValidationInfo) -> str:
    """A model of a matrix file: a folder or a .gguf file beside it where there is one, else the name as it is.

    It is named from the working folder on where it is beneath that, so that a manifest names no machine's folders.
    """
    beside = Path((info.context or {}).get("folder", Path()), name)
    try:
        # Models that are drawn are several, with a number in the place of {seed}: one of them is looked for.
        one = (
            next(beside.parent.glob(beside.name.replace("{seed}", "*")), beside) if "{seed}" in beside.name else beside
        )
        if not ((one / "config.json").is_file() or (one.suffix == ".gguf" and one.is_file())):
            return name
    except (OSError, ValueError):  # too long for a path, or no text for one: what the model's loading says
        return name
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


ModelName = Annotated[str, AfterValidator(model_beside_the_matrix)]
"""A bundled model's name, a folder, a .gguf file, or a Hub id; relative paths begin at the matrix file's own folder,
or where nothing is there, at the folder that the command is run in."""


def served_beside_the_matrix(endpoint: Endpoint, info: ValidationInfo) -> Endpoint:
    """An endpoint whose server radpo starts: its model and its interpreter may be beside the matrix file."""
    found: dict[str, Any] = {}
    if endpoint.loads_model:
        found["weights"] = model_beside_the_matrix(endpoint.weights or endpoint.model, info)
    if endpoint.python is not None:
        beside = Path((info.context or {}).get("folder", Path()), endpoint.python)
        found["python"] = str(beside) if is_there(beside) else endpoint.python
    return endpoint.model_copy(update=found)


class DataFile(Section):
    """A file of scored pairs or of questions, and how many of its rows to take (all, unless `limit` says less).

    A path or a name alone is one without a limit.
    """

    path: Annotated[Path, AfterValidator(pairs_beside_the_matrix)] = Field(
        description="A file or folder; published data by name (`radpo data list`), such as mt-bench; or scored pairs "
        "of the Hub, hub:NAME[@CONFIG]:SPLIT[#REVISION]."
    )
    limit: Annotated[int, Field(ge=1)] | None = None
    share: tuple[float, float] | None = Field(
        None,
        description="Only rows whose prompt's hash, a number from 0 to 1, is from the first to below the second, such "
        "as [0, 0.3]: shares that do not overlap have no prompt in common, in this file and in others.",
    )

    @property
    def rows(self) -> dict[str, Any]:
        """Which of its rows to take, as stages' settings have it."""
        return {"limit": self.limit, **({} if self.share is None else {"share": list(self.share)})}

    @property
    def label(self) -> str:
        """What tells it in stages' names from other parts of its file."""
        return ""

    @field_validator("share")
    @classmethod
    def _within(cls, share: tuple[float, float] | None) -> tuple[float, float] | None:
        if share is not None and not 0 <= share[0] < share[1] <= 1:
            raise ValueError("a share rises from its first number to its second, both from 0 to 1")
        return share

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler.resolve_ref_schema(handler(core_schema)), "type": ["object", "string"]}


class TrainingFile(DataFile):
    """A file of scored pairs to train on."""

    draw: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Which of the samples of `limit` pairs to take, from 0: by a hash of the prompt, no pair in two of "
        "them. Default: the first `limit` rows.",
    )

    @property
    def rows(self) -> dict[str, Any]:
        """As a data file's."""
        return {**super().rows, **({} if self.draw is None else {"draw": self.draw})}

    @property
    def label(self) -> str:
        """As a data file's."""
        return "" if self.draw is None else f"-draw-{self.draw}"

    @model_validator(mode="after")
    def _draws_so_many(self) -> TrainingFile:
        if self.draw is not None and self.limit is None:
            raise ValueError("draw: needs limit: how many pairs a draw has")
        return self


class SamplingSettings(Section):
    """How answers are drawn: greedily at temperature 0, by transformers in this process or by vLLM."""

    max_new_tokens: int = Field(512, ge=1, description="Maximum tokens of an answer.")
    temperature: float = Field(0.0, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: the share of probability to sample from.")
    stop: tuple[str, ...] = Field((), description="Stop sequences: texts at which an answer ends.")
    batch_size: int = Field(32, ge=1, description="Prompts answered at once.")
    backend: Literal["transformers", "vllm"] = Field("transformers", description="The backend that generates answers.")
    precision: Precision = Field("auto", description="Precision of the model that answers.")
    use_model_config: bool = Field(
        False,
        description="Use the checkpoint's own generation config (temperature, top_p, top_k, repetition_penalty, ...) "
        "in place of temperature and top_p here.",
    )
    keep_reasoning: bool = Field(
        False, description="Keep a model's reasoning (such as <think>...</think>) as part of its answer."
    )

    @model_validator(mode="after")
    def _one_of_both_decides(self) -> SamplingSettings:
        set_here = sorted({"temperature", "top_p"} & self.model_fields_set)
        if self.use_model_config and set_here:
            raise ValueError(f"use_model_config takes the model's own {' and '.join(set_here)}; leave one of them out")
        return self


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
        given = {} if self.model_extra is None else self.model_extra
        try:
            checked, of = check_settings(self.kind, given), find_judge_kind(self.kind)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        for name in given:
            value = getattr(checked, name)
            if name in of.members:
                given[name] = [JudgeSettings.model_validate(judge, context=info.context) for judge in value]
            elif isinstance(value, Path):
                given[name] = beside_the_matrix(value, info)
        if isinstance(checked, Endpoint) and checked.is_served:
            placed = served_beside_the_matrix(checked, info)
            more = {"weights": placed.weights, "python": placed.python}
            given.update({name: value for name, value in more.items() if value is not None})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        known = load_plugins(GROUP, JudgeKind)
        return choice_schema(handler, {name: known[name].settings for name in known}, default="verifier")

    def parts(self, settle: Callable[[Any], Any]) -> SplitSettings:
        """The kind's settings split: what can change a verdict, what cannot, and the files and models that can.

        Args:
            settle: as `split_settings` takes it.
        """
        return split_settings(self.kind, check_settings(self.kind, self.model_extra or {}), settle)
