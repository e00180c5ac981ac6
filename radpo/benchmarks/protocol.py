"""What a benchmark is: one object that says how a checkpoint is scored, what its figures mean and what it costs.

radpo's own benchmarks and those of a user's package are alike, and are found the same way: by an entry point of the
group `radpo.benchmarks` that leads to a `Benchmark`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.benchmarks.settings import DataFile, Section
from radpo.benchmarks.work import Work
from radpo.core.errors import ConfigError
from radpo.core.files import sha256
from radpo.core.metrics import Metric
from radpo.engine.graph import ABSENT, Function, Source, Stage
from radpo.models.precision import Settled, settle, settled
from radpo.training.settings import TrainingSettings

if TYPE_CHECKING:
    from radpo.benchmarks.sizes import Sizes
    from radpo.core.run import Run
    from radpo.figures.sections import ReportSection
    from radpo.figures.styles import Styles

Cost = Callable[["Sizes", Stage], Work | None]
"""What a stage has to do; None where that cannot be said beforehand."""
Sections = Callable[["Run", "Styles"], Sequence["ReportSection"]]
"""A benchmark's part of the report on a run, with how the run's variants look (`radpo.figures`).

It is asked about every run, also one that lacks the benchmark: a section without panels is not shown, and its title is
named among what there are no figures of.
"""


@dataclass(frozen=True)
class Checkpoint:
    """What a benchmark scores: a variant with a seed, trained by `train` (None for the model as it is).

    Args:
        goal: the score it is asked for, None for a checkpoint that takes no goal.
    """

    variant: str
    seed: int
    train: Stage | None
    goal: float | None

    @property
    def label(self) -> str:
        """Its place in the names of stages."""
        return f"{self.variant}/seed-{self.seed}"


@dataclass(frozen=True)
class Context:
    """What a matrix gives a benchmark to build its stages from, about one of its models.

    Args:
        model: the model that training starts from.
        scale: the lowest and the highest score there can be.
        heldout: the file of held-out scored pairs; None where the matrix has none.
        training: the matrix's own training settings.
        baseline: the variant that the others are compared with.
        sections: the settings of the matrix's benchmarks, by name.
        benchmarks: all benchmarks there are, by name.
        checkpoint_of: a variant of the matrix with a seed, as a checkpoint.
        functions: what stages can run, by name.
        codes: what tells the code of a function that another package brings, by the function's name.
        resources: what stages take of a cluster, by function.
        files: every file and folder that was named so far, by its location.
        label: what tells this model's stages from another model's in their names; empty where there is one model.
        environment: what stages find in their environment that can change a result, such as the date that chat
            templates print.
        precision: what `auto` is, where it is not what this machine is faster in.
        planning: whether files may be yet to come; what reads them then has no key that lasts.
    """

    model: Source
    scale: tuple[float, float]
    heldout: DataFile | None
    training: TrainingSettings
    baseline: str
    sections: Mapping[str, Section]
    benchmarks: Mapping[str, Benchmark]
    checkpoint_of: Callable[[str, int], Checkpoint]
    functions: Mapping[str, Function]
    codes: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: dict[str, Source] = field(default_factory=dict)
    label: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    precision: Settled | None = None
    planning: bool = False

    def stage(
        self,
        function: str,
        label: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Stage] | None = None,
        hints: Mapping[str, Any] | None = None,
    ) -> Stage:
        """A stage called `function/label`.

        Args:
            settings: all that can change its result, its inputs apart: JSON values and `Source`s. A `precision` in
                them that is auto gets settled here, so that no key holds it.
            inputs: the stages whose folders it reads, by the name it reads them under.
            hints: what it is to know that cannot change its result.
        """
        name = "/".join(part for part in (function, self.label, label) if part)
        resources = self.resources.get(function)
        asked = {"resources": dict(resources)} if resources else {}
        code: dict[str, Any] = {"code": self.codes[function]} if function in self.codes else {}
        run = self.functions[function]
        settings = settled(dict(settings), lambda: self.precision or settle("auto"))
        if self.environment:
            code = {**code, "environment": dict(self.environment)}
        return Stage(name, function, run, {**settings, **code}, inputs or {}, {**asked, **(hints or {})})

    def about(
        self,
        checkpoint: Checkpoint | None,
        function: str,
        label: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Stage] | None = None,
    ) -> Stage:
        """A stage that reads a checkpoint: the one that was trained, or (None, too) the matrix's model as it is."""
        if checkpoint is None or checkpoint.train is None:
            return self.stage(function, label, {**settings, "model": self.model}, inputs)
        return self.stage(function, label, settings, {"policy": checkpoint.train, **(inputs or {})})

    def scored(self, benchmark: str, checkpoint: Checkpoint) -> Stage | None:
        """The last stage of another benchmark of the matrix for a checkpoint; None where it has nothing to score."""
        return self.benchmarks[benchmark].stages(self, self.sections[benchmark], checkpoint)

    def pairs(self, file: DataFile, split: str) -> Stage:
        """The stage whose folder holds a file's scored pairs, read and checked (`pairs.parquet`).

        Args:
            split: what they are for, `train` or `heldout`, in the stage's name.
        """
        settings = {"pairs": self.file(file.path), "limit": file.limit, "scale": list(self.scale)}
        # Models share it, and so its name has none of them.
        return replace(self.stage("pairs", split, settings), name=f"pairs/{split}")

    def heldout_pairs(self) -> Stage:
        """The matrix's held-out pairs, as `pairs`.

        Raises:
            ConfigError: it names none.
        """
        if self.heldout is None:
            raise ConfigError("data.heldout: missing: a benchmark of the matrix reads held-out scored pairs")
        return self.pairs(self.heldout, "heldout")

    def questions(self, file: DataFile) -> dict[str, Any]:
        """The settings that name questions."""
        return {"questions": self.file(file.path), "limit": file.limit}

    def file(self, path: Path) -> Source:
        """A file or folder, known by its content."""
        location = str(path)
        if location not in self.files:
            known = path.exists() or not self.planning
            self.files[location] = Source(location, f"sha256:{_content_hash(path)}" if known else ABSENT + path.name)
        return self.files[location]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, or one analysis of what training did: everything that radpo knows of it.

    Args:
        name: as in matrix files and tables, such as `mt-bench`.
        title: as the report calls it.
        summary: one sentence for `--help` and the schema.
        Settings: the section of a matrix file.
        metrics: what its figures mean, the first description that fits a figure's name counting.
        stages: the one stage whose folder holds results.parquet, examples.parquet and notes.json
            (`radpo.core.results.write_scores`), with all that it needs as its inputs; None where there is nothing to
            score, as when the baseline would be compared with itself.
        functions: what its own stages run, by name; module-level, so that another process finds them.
        cost: what its own stages have to do, by function.
        sections: its own part of the report; None where the overview and the tables say all.
        check: what is wrong with its settings beside the matrix's other benchmarks' (by name); None if nothing is.
        tables: the files of its stage's folder that the run directory gathers, by the table's name.
        place: where it is listed, rising.
    """

    name: str
    title: str
    summary: str
    Settings: type[Section]
    metrics: tuple[Metric, ...]
    stages: Callable[[Context, Any, Checkpoint], Stage | None]
    functions: Mapping[str, Function]
    cost: Mapping[str, Cost]
    sections: Sections | None = None
    check: Callable[[Any, Mapping[str, Section]], str | None] | None = None
    tables: Mapping[str, str] = field(default_factory=dict)
    place: int = 1000


def _content_hash(path: Path) -> str:
    """The hash of a file's bytes, or of all names and bytes in a folder."""
    digest = hashlib.sha256()
    for file in _files_of(path):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()


def _files_of(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
