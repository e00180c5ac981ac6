"""Expansion: a checked matrix comes in, its cells and the stages that each is made of go out. Nothing is run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radpo.config import DataFile, Matrix, VariantSettings
from radpo.matrix.graph import Source, Stage
from radpo.matrix.stages import FUNCTIONS, FunctionName
from radpo.models.loading import model_fingerprint
from radpo.training.settings import TrainingSettings
from radpo.training.variants import Variant, find_variant


@dataclass(frozen=True)
class Cell:
    """One variant with one seed: its training stage (None for a model as it is) and a scoring stage a benchmark."""

    variant: str
    seed: int
    train: Stage | None
    benchmarks: Mapping[str, Stage]


@dataclass(frozen=True)
class Plan:
    """A matrix with its sources identified by content and its cells expanded."""

    matrix: Matrix
    model: Source
    files: Mapping[str, Source]
    cells: tuple[Cell, ...]

    @property
    def wanted(self) -> list[Stage]:
        """The last stage of every chain; what they need follows from them."""
        return [
            stage for cell in self.cells for stage in (*cell.benchmarks.values(), *([cell.train] if cell.train else []))
        ]


def expand(matrix: Matrix) -> Plan:
    """The cells and stages of a matrix. Cells share every stage whose settings and inputs are the same.

    Raises:
        ConfigError: a variant's method does not exist.
        ModelError: the model is not to be had.
    """
    builder = _Builder(matrix)
    cells = tuple(
        builder.cell(name, settings, seed) for seed in matrix.seeds for name, settings in matrix.variants.items()
    )
    return Plan(matrix, builder.model, builder.files, cells)


class _Builder:
    """Holds what the stages of one matrix have in common while they are built."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.model = Source(matrix.model, model_fingerprint(matrix.model))
        self.files: dict[str, Source] = {}

    def cell(self, name: str, settings: VariantSettings, seed: int) -> Cell:
        variant = find_variant(settings.method or name)
        training = self.matrix.training_for(settings)
        train = None if variant.data is None else self._train(name, variant, training, seed)
        return Cell(name, seed, train, self._benchmarks(name, variant, train, seed))

    def _train(self, name: str, variant: Variant, training: TrainingSettings, seed: int) -> Stage:
        data = self.matrix.data
        pairs = self._relabel("train", data.train, variant)
        reference = self._stage(
            "reference",
            f"reference/{variant.data}",
            {"model": self.model, "max_length": training.max_length, "precision": training.precision},
            {"pairs": pairs},
        )
        return self._stage(
            "train",
            f"train/{name}/seed-{seed}",
            {
                "model": self.model,
                "training": training.model_dump(),
                "seed": seed,
                "conditioned": variant.conditioned,
                "best": data.scale[1],
            },
            {
                "pairs": pairs,
                "reference": reference,
                "heldout_pairs": self._relabel("heldout", data.heldout, variant),
                "heldout_reference": self._likelihood(None, training),
            },
            {"save_every": self.matrix.save_every},
        )

    def _relabel(self, split: str, file: DataFile, variant: Variant) -> Stage:
        settings = {**self._pairs(file), "kind": variant.data, "model": self.model}
        return self._stage("relabel", f"relabel/{split}/{variant.data}", settings)

    def _likelihood(self, train: Stage | None, training: TrainingSettings) -> Stage:
        lengths = {"max_length": training.max_length, "precision": training.precision}
        who = "model" if train is None else train.name.removeprefix("train/")
        return self._evaluate("likelihood", who, train, {**self._pairs(self.matrix.data.heldout), **lengths})

    def _benchmarks(self, name: str, variant: Variant, train: Stage | None, seed: int) -> dict[str, Stage]:
        wanted, stages = self.matrix.benchmarks, {}
        goal = self.matrix.data.scale[1] if variant.conditioned else None
        if wanted.unlearning:
            likelihoods = {
                "policy": self._likelihood(train, self.matrix.training),
                "reference": self._likelihood(None, self.matrix.training),
            }
            stages["unlearning"] = self._stage(
                "unlearning",
                f"unlearning/{name}/seed-{seed}",
                {"high_score": wanted.unlearning.high_score},
                likelihoods,
            )
        if wanted.alpaca_eval and name != self.matrix.baseline:
            questions = self._questions(wanted.alpaca_eval.questions)
            sampling = {"sampling": wanted.alpaca_eval.sampling.model_dump(), "seed": seed}
            baseline = self._baseline_train(seed)
            stages["alpaca-eval"] = self._stage(
                "alpaca-eval",
                f"alpaca-eval/{name}/seed-{seed}",
                {**questions, "variant": name, "baseline": self.matrix.baseline, "goal": goal},
                {
                    "answers": self._generate(name, train, {**questions, **sampling}),
                    "baseline_answers": self._generate(self.matrix.baseline, baseline, {**questions, **sampling}),
                },
            )
        if wanted.mt_bench:
            questions = self._questions(wanted.mt_bench.questions)
            sampling = {"sampling": wanted.mt_bench.sampling.model_dump(), "seed": seed}
            answers = {"answers": self._generate(name, train, {**questions, **sampling})}
            stages["mt-bench"] = self._stage(
                "mt-bench", f"mt-bench/{name}/seed-{seed}", {**questions, "goal": goal}, answers
            )
        if wanted.academic:
            include = wanted.academic.include
            settings: dict[str, Any] = {
                "tasks": list(wanted.academic.tasks),
                "include": None if include is None else self._file(include),
                "limit": wanted.academic.limit,
                "batch_size": wanted.academic.batch_size,
            }
            stages["academic"] = self._evaluate("academic", f"{name}/seed-{seed}", train, settings)
        return stages

    def _baseline_train(self, seed: int) -> Stage | None:
        settings = self.matrix.variants[self.matrix.baseline]
        variant = find_variant(settings.method or self.matrix.baseline)
        if variant.data is None:
            return None
        return self._train(self.matrix.baseline, variant, self.matrix.training_for(settings), seed)

    def _generate(self, name: str, train: Stage | None, settings: dict[str, Any]) -> Stage:
        return self._evaluate("generate", f"{name}/seed-{settings['seed']}", train, settings)

    def _evaluate(self, function: FunctionName, who: str, train: Stage | None, settings: dict[str, Any]) -> Stage:
        """A stage about a checkpoint: the one that `train` makes, or the matrix's model as it is."""
        if train is None:
            return self._stage(function, f"{function}/{who}", {**settings, "model": self.model})
        return self._stage(function, f"{function}/{who}", settings, {"policy": train})

    def _stage(
        self,
        function: FunctionName,
        name: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Stage] | None = None,
        hints: Mapping[str, Any] | None = None,
    ) -> Stage:
        return Stage(name, function, FUNCTIONS[function], settings, inputs or {}, hints or {})

    def _pairs(self, file: DataFile) -> dict[str, Any]:
        return {"pairs": self._file(file.path), "limit": file.limit, "scale": list(self.matrix.data.scale)}

    def _questions(self, file: DataFile) -> dict[str, Any]:
        return {"questions": self._file(file.path), "limit": file.limit}

    def _file(self, path: Path) -> Source:
        location = str(path)
        if location not in self.files:
            self.files[location] = Source(location, f"sha256:{_content_hash(path)}")
        return self.files[location]


def _content_hash(path: Path) -> str:
    """The hash of a file's bytes, or of all names and bytes in a folder."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
