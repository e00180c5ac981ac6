"""What programs and notebooks call, and the command line as well: a matrix file run to its report, or planned."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from radpo.engine.executors import ChosenExecutor
    from radpo.engine.graph import Stage
    from radpo.engine.schedule import Done, Pool
    from radpo.engine.store import Store
    from radpo.matrix.estimate import Estimate
    from radpo.matrix.expand import Plan, Tuned
    from radpo.matrix.plan_text import TuningPlan
    from radpo.matrix.preflight import Faults
    from radpo.matrix.run import Finished
    from radpo.matrix.settings import Matrix
    from radpo.matrix.spending import Most


def run(
    matrix: str | Path,
    out: str | Path | None = None,
    *,
    store: str | None = None,
    executor: str | None = None,
    executor_options: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    keep_going: bool = False,
    variant: str | None = None,
    seed: int | None = None,
) -> Finished:
    """Run a matrix to its report. Interrupted, the same call resumes; unchanged, it does nothing.

    Args:
        matrix: the matrix file.
        out: the run directory. Default: runs/NAME.
        store: the store of finished stages, a folder or an fsspec URL. Default: RADPO_STORE, else `store` beside the
            run directory.
        executor: `local`, `ray`, `slurm` or an installed one. Default: the matrix file's, else local.
        executor_options: its own options, which override the matrix file's.
        jobs: stages to compute at once. Default on the local executor: one for each GPU, and one where there is none.
        keep_going: after a failure, still compute every stage that does not depend on it.
        variant: run this variant of the matrix alone, with what it is compared with.
        seed: of that variant, this one of its seeds; all unless given.

    Returns:
        Where the run directories and their reports are.

    Raises:
        ConfigError: the matrix file, an option or a plug-in is wrong.
        StageError: a stage failed.

    Answers that there are already, checked by rules; a matrix with a model is run in the same way:

    >>> import radpo
    >>> from tempfile import TemporaryDirectory
    >>> place = TemporaryDirectory()
    >>> for name, text in {
    ...     "questions.jsonl": '{"question_id": "q", "turns": ["The capital of France?"],'
    ...     ' "constraints": [[{"kind": "keyword", "word": "Paris"}]]}',
    ...     "good.jsonl": '{"question_id": "q", "turns": ["It is Paris."]}',
    ...     "bad.jsonl": '{"question_id": "q", "turns": ["It is Rome."]}',
    ...     "m.yaml": "{name: m, baseline: bad, variants: {bad: {answers: bad.jsonl}, good: {answers: good.jsonl}},"
    ...     " benchmarks: {mt-bench: {questions: {path: questions.jsonl}}}}",
    ... }.items():
    ...     _ = Path(place.name, name).write_text(text)
    >>> matrix, folder = Path(place.name, "m.yaml"), Path(place.name, "run")
    >>> finished = radpo.run(matrix, folder)
    >>> scores = radpo.load_run(finished.run_dirs[0]).results.query("subset == 'all' and metric == 'score'")
    >>> dict(zip(scores["variant"], scores["value"]))
    {'bad': 1.0, 'good': 10.0}
    >>> radpo.run(matrix, folder).unchanged
    True
    >>> place.cleanup()
    """
    from radpo.core.files import check_writable
    from radpo.matrix.loading import placed
    from radpo.matrix.preflight import Faults

    faults = Faults(lambda message: placed(Path(matrix), message))
    asked, folder, kept = _asked(faults, Path(matrix), out, store, variant, seed)
    if not kept.root.is_dir():
        faults.ask(lambda: check_writable(kept.root, "--store"))
    if faults.found:
        _prepared(asked, folder, kept, executor, executor_options or {}, jobs, faults)  # all else that is lacking
    with _using(asked, kept):
        return _execute(asked, folder, kept, executor, executor_options or {}, jobs, keep_going, faults)


def check(
    matrix: str | Path,
    out: str | Path | None = None,
    *,
    store: str | None = None,
    executor: str | None = None,
    executor_options: Mapping[str, Any] | None = None,
    jobs: int | None = None,
) -> int:
    """Find everything that keeps a matrix from running, as `run` does before its first stage; nothing is computed.

    Every judge and endpoint that would be needed is asked one tiny request.

    Args:
        matrix: the matrix file.
        out: the run directory, as `run` takes it.
        store: the store, as `run` takes it.
        executor: as `run` takes it.
        executor_options: as `run` takes them.
        jobs: stages to compute at once.

    Returns:
        How many stages there are to compute.

    Raises:
        ConfigError: the matrix file is wrong.
        NotReadyError: something is lacking; its `faults` say what, all of it.
    """
    from radpo.matrix.loading import placed
    from radpo.matrix.preflight import Faults

    faults = Faults(lambda message: placed(Path(matrix), message))
    asked, folder, kept = _asked(faults, Path(matrix), out, store, begin=False)
    return len(_prepared(asked, folder, kept, executor, executor_options or {}, jobs, faults).missing)


def _asked(
    faults: Faults,
    matrix: Path,
    out: str | Path | None,
    store: str | None,
    variant: str | None = None,
    seed: int | None = None,
    *,
    begin: bool = True,
) -> tuple[Plan, Path, Store]:
    """What a run of a matrix file is made of; `begin` as `_expanded` takes it.

    Raises:
        ConfigError: the matrix file is wrong.
        NotReadyError: it cannot be expanded, or names what is not there; with all else that is lacking.
    """
    from radpo.core.errors import ConfigError
    from radpo.core.files import check_writable
    from radpo.matrix.choosing import settle
    from radpo.matrix.loading import load_matrix
    from radpo.matrix.one_cell import narrowed
    from radpo.matrix.preflight import Faults, ask_matrix, ask_places

    try:
        loaded = load_matrix(matrix)
    except ConfigError as error:
        faults.add(str(error))
        try:
            loaded = load_matrix(matrix, planning=True)  # where no more than files are missing, the rest is asked, too
        except ConfigError:
            raise error from None
    folder, kept = places(loaded.name, out, store)
    chosen = loaded if variant is None else narrowed(loaded, variant, seed)
    unwritable = Faults()  # which a finished run does not mind
    unwritable.ask(lambda: check_writable(folder, "--out"))
    begin = begin and not unwritable.found
    asked = None if faults.found else faults.ask(lambda: settle(_expanded(chosen, folder, begin=begin), kept)[0])
    if asked is None:
        ask_places(faults, folder, kept)
        ask_matrix(faults, chosen)
        faults.raise_any()
    assert asked is not None
    return asked, folder, kept


def _using(plan_: Plan, kept: Store) -> AbstractContextManager[Path]:
    """Held as long as a plan's stages are computed and read, so that none of them is removed as garbage."""
    from radpo.core.files import check_writable

    if not kept.root.is_dir():
        check_writable(kept.root, "--store")
    return kept.using(stage.key for stage in plan_.stages)


def _expanded(matrix: Matrix, folder: Path, *, begin: bool = True) -> Plan:
    """What a run of a checked matrix in a run directory is made of.

    With `begin`, what has to last from one try to the next is noted in the run directory.
    """
    from radpo.matrix.expand import expand
    from radpo.matrix.run import occasion_of
    from radpo.matrix.spending import account_of

    account = account_of(matrix, folder) if begin else None
    return expand(matrix, occasion=occasion_of(matrix, folder, begin=begin), account=account)


def _execute(
    plan_: Plan,
    folder: Path,
    kept: Store,
    executor: str | None = None,
    executor_options: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    keep_going: bool = False,
    faults: Faults | None = None,
) -> Finished:
    """Compute a plan's stages and write its run directory, unless something is lacking, or `faults` were found."""
    from radpo.core.warn import warn_once
    from radpo.export.trackers import export_to
    from radpo.matrix.choosing import settle
    from radpo.matrix.estimate import estimate
    from radpo.matrix.machines import NOMINAL
    from radpo.matrix.preflight import Faults
    from radpo.matrix.run import run_matrix
    from radpo.matrix.spending import stop
    from radpo.matrix.view import MatrixView
    from radpo.models.precision import arithmetic
    from radpo.report.build import build_report

    prepared = _prepared(plan_, folder, kept, executor, executor_options or {}, jobs, faults or Faults())
    kind = prepared.executor.executor.name
    if kind != "local" and plan_.precision is None and plan_.asks_for_auto:
        warn_once(
            f"precision auto: {arithmetic()}, which is of this machine; where the executor {kind} computes on others, "
            "state a precision, or set RADPO_PRECISION"
        )

    def make_pool() -> Pool:
        return prepared.executor(kept, jobs)

    def stopped() -> None:
        stop(plan_.account)

    tried = (
        [] if plan_.tuning is None else _tried(plan_.tuning, kept, prepared.expected, make_pool, keep_going, stopped)
    )
    final, _ = settle(plan_, kept, failed=keep_going)
    with _using(final, kept):
        missing, expected = prepared.missing, prepared.expected
        if final is not plan_:
            missing = [stage for stage in final.stages if not kept.has(stage)]
            expected = estimate(missing, kept, NOMINAL, jobs or 1, final.matrix.size_hints, missing)
        with MatrixView(len(final.reported), expected.seconds_by_key()) as view:
            finished = run_matrix(
                final,
                folder,
                kept,
                missing,
                view,
                make_pool,
                build_report,
                keep_going=keep_going,
                weights=expected.seconds_by_key(),
                notes=expected.notes_by_key(),
                on_failure=stopped,
                before=tried,
            )
    if "tensorboard" in plan_.matrix.report_to:
        for run_dir in finished.run_dirs:
            if not (finished.unchanged and (run_dir / "tensorboard").is_dir()):
                export_to(run_dir, "tensorboard")
    return finished


def _tried(
    tuned: Tuned,
    kept: Store,
    expected: Estimate,
    make_pool: Callable[[], Pool],
    keep_going: bool,
    on_failure: Callable[[], object],
) -> list[Done]:
    """Compute what is tried before the settings are chosen; with `keep_going`, settings whose stages fail are left out.

    Raises:
        StageError: a stage failed.
    """
    from radpo.core.warn import warn_once
    from radpo.engine.schedule import StageError, run_stages
    from radpo.matrix.view import MatrixView

    if all(kept.has(stage) for stage in tuned.stages):
        return []
    weights, notes = expected.seconds_by_key(), expected.notes_by_key()
    with MatrixView(len(tuned.stages), weights) as view:
        try:
            return run_stages(
                tuned.stages, kept, make_pool(), view,
                keep_going=keep_going, weights=weights, notes=notes, on_failure=on_failure,
            )  # fmt: skip
        except StageError as error:
            if not keep_going:
                raise
            warn_once(f"settings that failed are left out of the choice: {error}")
            return []


@dataclass(frozen=True)
class _Prepared:
    """What a run begins with, nothing being in its way."""

    missing: list[Stage]
    expected: Estimate
    executor: ChosenExecutor


def _prepared(
    plan_: Plan,
    folder: Path,
    kept: Store,
    executor: str | None,
    executor_options: Mapping[str, Any],
    jobs: int | None,
    faults: Faults,
) -> _Prepared:
    """Ask everything that a run needs whether it is there.

    Raises:
        NotReadyError: something is lacking.
    """
    from radpo.engine.executors import choose_executor
    from radpo.matrix.estimate import estimate
    from radpo.matrix.machines import NOMINAL
    from radpo.matrix.preflight import ask_places, ask_plan
    from radpo.matrix.run import is_current
    from radpo.models.loading import awaits_conversion

    matrix = plan_.matrix
    missing = [stage for stage in plan_.stages if not kept.has(stage)]
    chosen = faults.ask(lambda: choose_executor(matrix.executor, executor, executor_options))
    ask_plan(faults, plan_, missing, chosen)
    # Sizes of a model that is yet to be converted take a minute: not while something else is lacking anyway.
    expected = None
    if not (faults.found and any(awaits_conversion(model) for model in matrix.all_models)):
        expected = faults.ask(lambda: estimate(missing, kept, NOMINAL, jobs or 1, matrix.size_hints, missing))
    if missing or not is_current(plan_, folder):
        ask_places(faults, folder, kept, missing, expected)
    faults.raise_any()
    assert chosen is not None
    assert expected is not None
    return _Prepared(missing, expected, chosen)


def import_results(
    out: str | Path,
    files: Mapping[str, Sequence[str | Path]],
    *,
    baseline: str | None = None,
    only: str | None = None,
) -> Path:
    """Write a run directory of results that other tools computed.

    Args:
        out: the run directory.
        files: the result files of each variant.
        baseline: the variant that the others are compared with. Default: the first.
        only: the model whose rows count, where a file has several models'; else the one that is called as the variant.

    Returns:
        The report.

    Raises:
        ConfigError: the folder holds something else, or a file is of no known kind.
        DataError: a file is malformed.
    """
    from radpo.matrix import imported
    from radpo.report.build import build_report

    named = {variant: [Path(path) for path in paths] for variant, paths in files.items()}
    return imported.import_results(Path(out), named, build_report, baseline=baseline, only=only)


def compare(
    runs: str | Path | Sequence[str | Path], against: str | None = None, *, high_score: float | None = None
) -> pd.DataFrame:
    """Every difference between the variants of a run and one of them, with its interval and its test.

    These are the rows of the run's comparisons.parquet, and the p-values those of its report and its gate.

    Args:
        runs: a run directory, or several, whose variants are then called RUN/VARIANT.
        against: the variant to compare with. Default: the run's baseline.
        high_score: from which score on a response counts as high, where that is not to be the run's own setting.

    Returns:
        A row a variant and a figure, as `comparisons` of `radpo.core.run.Run` describes it.

    Raises:
        DataError: there is no such variant, or a run cannot be read.

    >>> rows = compare("reports/quickstart").query("metric == 'delta_logp_rejected_high' and subset == 'none'")
    >>> rows[["variant", "baseline", "n"]].to_dict("records")
    [{'variant': 'dpo', 'baseline': 'base', 'n': 23}, {'variant': 'ra-dpo', 'baseline': 'base', 'n': 23}]
    """
    from radpo.core.run import load_runs
    from radpo.stats import comparison

    run_dirs = [runs] if isinstance(runs, str | Path) else runs
    run = load_runs([Path(folder) for folder in run_dirs])
    return comparison.against(run, against or run.baseline, high_score=high_score)


def evaluate(
    benchmark: str,
    settings: Mapping[str, Any] | None = None,
    *,
    variant: Mapping[str, Any],
    name: str | None = None,
    model: str | None = None,
    data: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """One benchmark's figures of one variant, by a matrix of one cell. Interrupted, the same call resumes.

    Args:
        benchmark: its name, as in matrix files.
        settings: of the benchmark, as its section of a matrix file has them; paths begin at the working folder.
        variant: what is scored, as a matrix file describes it: {"checkpoint": FOLDER}, {"endpoint": {"model": ...}}
            or {"answers": FILE}, maybe with a goal.
        name: its name in tables and report. Default: made from what is scored.
        model: what it was trained from, where the benchmark measures against that.
        data: as a matrix file has it, such as the held-out pairs to measure on.
        training: as a matrix file has it, such as the precision.
        seed: of the answers that are drawn.
        out: the run directory, as `run` makes it; also gets scores.json, what is returned, and the files that the
            benchmark names. Nothing is kept unless given.
        store: as `run` takes it.

    Returns:
        The figures under the benchmark's own names, with notes, and of judged ones the judge's bias and its usage.

    Raises:
        ConfigError: a setting is wrong, or the benchmark has nothing to score.
        StageError: a stage failed.
    """
    from radpo.matrix.one_cell import name_of

    (document,) = evaluate_each(
        benchmark, settings, variants={name or name_of(variant): variant}, model=model, data=data, training=training,
        seed=seed, out=out, store=store,
    ).values()  # fmt: skip
    return document


def evaluate_each(
    benchmark: str,
    settings: Mapping[str, Any] | None = None,
    *,
    variants: Mapping[str, Mapping[str, Any]],
    model: str | None = None,
    data: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    store: str | None = None,
) -> dict[str, dict[str, Any]]:
    """One benchmark's figures of several variants, which are compared with the first of them.

    Args:
        benchmark: as `evaluate` takes it.
        settings: as `evaluate` takes them.
        variants: what is scored, by name, each as `evaluate` takes it.
        model: as `evaluate` takes it.
        data: as `evaluate` takes it.
        training: as `evaluate` takes it.
        seed: as `evaluate` takes it.
        out: the run directory, as `evaluate` makes it; of several variants, each has a folder of its files.
        store: as `run` takes it.

    Returns:
        By variant, what `evaluate` returns.

    Raises:
        ConfigError: a setting is wrong, or the benchmark has nothing to score.
        StageError: a stage failed.
    """
    from radpo.benchmarks.registry import benchmarks
    from radpo.core.errors import ConfigError
    from radpo.core.files import replace_json
    from radpo.core.metrics import with_extreme_intervals
    from radpo.core.results import read_figures
    from radpo.matrix.manifest import pair_notes
    from radpo.matrix.one_cell import one_cell
    from radpo.matrix.run import leave_files

    (name, first), *others = variants.items()
    matrix = one_cell(
        {benchmark: settings or {}}, first, name=name, others=dict(others), seed=seed, model=model, data=data,
        training=training,
    )  # fmt: skip
    documents: dict[str, dict[str, Any]] = {}
    with _kept_in(out) as folder:
        _, kept = places(matrix.name, folder, store)
        plan_ = _expanded(matrix, folder)
        stages = {cell.variant: cell.benchmarks[benchmark] for cell in plan_.cells if benchmark in cell.benchmarks}
        if not stages:
            raise ConfigError(f"{benchmark}: there is nothing to compare with; give baseline_outputs, other answers")
        with _using(plan_, kept):
            _execute(plan_, folder, kept)
            for called, stage in stages.items():
                document = with_extreme_intervals(benchmarks()[benchmark].metrics, read_figures(kept.open(stage)))
                document["notes"] = [*document.get("notes", ()), *pair_notes(plan_.stages, kept)]
                if benchmarks()[benchmark].takes_answers and "answers" not in variants[called]:
                    goal = variants[called].get("goal", "default")
                    document["goal"] = None if goal == "none" else goal
                documents[called] = document
                found = {}
                for file, place in benchmarks()[benchmark].files.items():
                    source, _, inner = place.rpartition("/")
                    found[file] = kept.open(stage.inputs[source] if source else stage) / inner
                leave_files(found, folder / called if others else folder)
            replace_json(folder / "scores.json", documents if others else documents[name])
    return documents


def train(
    pairs: str | Path,
    out: str | Path,
    *,
    method: str = "ra-dpo",
    model: str,
    training: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    save_every: int = 50,
    store: str | None = None,
) -> Path:
    """Train one checkpoint, by a matrix of one cell. Interrupted, the same call resumes from its last checkpoint.

    Started by `accelerate launch`, the first process prepares and writes, and all of them train.

    Args:
        pairs: scored pairs, or the training pairs that `radpo data relabel` writes, which are taken as they are.
        out: the run directory, as `run` makes it; also gets policy/ (the checkpoint) and counts.json (what was read of
            the pairs, what was left out and what noted).
        method: the variant, radpo's own or an installed one.
        model: the model to train: a bundled name, a folder, a .gguf file, or a Hub id.
        training: settings of the training, as a matrix file's variant has them.
        data: how the pairs are read, as a matrix file's section `data` says it, such as their scale.
        seed: of the order of the pairs, and of what is drawn.
        save_every: optimiser steps between resumable checkpoints.
        store: as `run` takes it.

    Returns:
        The checkpoint's folder, `out/policy`.

    Raises:
        ConfigError: a setting is wrong, or the method trains nothing.
        StageError: a stage failed.
    """
    from radpo.core.errors import ConfigError
    from radpo.engine.graph import in_order
    from radpo.matrix.launched import compute_together, is_launched
    from radpo.matrix.one_cell import one_cell
    from radpo.matrix.run import leave_files
    from radpo.preferences.sources import is_address
    from radpo.training.variants import find_variant

    if find_variant(method).data is None:
        raise ConfigError(f"method {method!r} trains nothing; give dpo or ra-dpo")
    folder, given = Path(out), dict(data or {})
    if is_address(pairs) or str(pairs).startswith(("hub:", "stream:")):
        pairs, given = _fetched(str(pairs), given, folder), {"scale": given.get("scale")}
    _check_method(Path(pairs), method)
    variant = {"method": method, "training": dict(training or {})}
    read = {**{name: value for name, value in given.items() if value is not None}, "train": {"path": str(pairs)}}
    matrix = one_cell({}, variant, seed=seed, model=model, data=read, save_every=save_every)
    _, kept = places(matrix.name, folder, store)
    plan_ = _expanded(matrix, folder)
    trained = plan_.cells[0].train
    assert trained is not None
    read_by = next(stage for stage in in_order([trained]) if stage.function_name in ("pairs", "training-pairs"))
    with _using(plan_, kept):
        if is_launched() and not compute_together(plan_.stages, kept):
            return folder / "policy"
        _execute(plan_, folder, kept)
        left = {"policy": kept.open(trained) / "policy", "counts.json": kept.open(read_by) / "counts.json"}
        leave_files(left, folder)
    return folder / "policy"


def _fetched(address: str, data: Mapping[str, Any], folder: Path) -> Path:
    """The checked pairs of an address or a data set of the Hub, as a file in the run directory."""
    from radpo.matrix.settings import Data
    from radpo.preferences.preferences import load_preferences
    from radpo.preferences.writing import write_preferences

    folder.mkdir(parents=True, exist_ok=True)
    write_preferences(load_preferences(address, Data.model_validate(data).reading).table, folder / "scored.jsonl")
    return folder / "scored.jsonl"


@contextmanager
def _kept_in(out: str | Path | None) -> Iterator[Path]:
    """The run directory; one that vanishes, its store with it, where nobody wants it kept."""
    if out is not None:
        yield Path(out)
        return
    with TemporaryDirectory(prefix="radpo-") as temporary:
        yield Path(temporary) / "run"


@dataclass(frozen=True)
class Planned:
    """What a matrix takes.

    Args:
        absent: models and files that are not here, so that their sizes are as the matrix states them.
        most: what can be spent at most; None where nothing that is to do costs money.
        tuning: what is tried before, where settings are tuned.
    """

    name: str
    estimate: Estimate
    store: Store
    absent: tuple[str, ...]
    most: Most | None = None
    tuning: TuningPlan | None = None

    def to_json(self) -> dict[str, Any]:
        """As `radpo plan --json` prints it: seconds, bytes, US dollars; null what cannot be said beforehand."""
        from radpo.matrix.plan_text import plan_json

        return plan_json(self.name, self.estimate, self.absent, self.most, self.tuning)

    def __str__(self) -> str:
        from radpo.matrix.plan_text import plan_text

        return plan_text(self.name, self.estimate, self.store.root, self.absent, self.most, self.tuning)


def plan(
    matrix: str | Path,
    out: str | Path | None = None,
    *,
    store: str | None = None,
    jobs: int | None = None,
    machine: str = "here",
) -> Planned:
    """What a matrix takes: stages, tokens, floating-point operations, time, disk, judge calls and money.

    Nothing is computed and no judge is asked. Models and files may be yet to come, where the matrix states their sizes.

    Args:
        matrix: the matrix file.
        out: the run directory, as `run` takes it.
        store: the store, as `run` takes it; what it has need not be computed.
        jobs: stages to compute at once. Default: one for each of the machine's GPUs.
        machine: the machine to estimate for: `here`, a GPU such as h100-sxm, or several: 8xh100-sxm.

    Raises:
        ConfigError: the matrix file is wrong, or there is no such machine.
    """
    from radpo.core.machine import cores
    from radpo.matrix.choosing import settle, tuning_plan
    from radpo.matrix.estimate import estimate
    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix, located
    from radpo.matrix.machines import find_machine
    from radpo.matrix.run import occasion_of
    from radpo.matrix.spending import most

    loaded = load_matrix(Path(matrix), planning=True)
    folder, kept = places(loaded.name, out, store)
    found = find_machine(machine, max(1, cores() // (jobs or 1)))
    precision: Any = None if found.this else "bfloat16"
    with located(Path(matrix)):
        plan_ = expand(loaded, planning=True, precision=precision, occasion=occasion_of(loaded, folder))
        plan_, chosen = settle(plan_, kept)
        missing = [stage for stage in plan_.stages if not kept.has(stage)]
        limit = most(loaded, folder, missing)
    expected = estimate(plan_.stages, kept, found, jobs or found.gpus, loaded.size_hints, missing)
    return Planned(loaded.name, expected, kept, tuple(plan_.absent), limit, tuning_plan(plan_.tuning, chosen))


def _check_method(pairs: Path, method: str) -> None:
    """See that training pairs, which are taken as they are, are what the method is called after."""
    from radpo.core.errors import ConfigError
    from radpo.preferences.training_pairs import are_training_pairs, have_goals
    from radpo.training.variants import find_variant

    if not pairs.exists() or not are_training_pairs(pairs):
        return
    with_goals = have_goals(pairs)
    if with_goals != find_variant(method).conditioned:
        what, other = ("with goals", "ra-dpo") if with_goals else ("without goals", "dpo")
        raise ConfigError(
            f"{pairs}: holds training pairs {what}, and what is trained on them would be called {method!r}; "
            f"give --method {other}, or scored pairs"
        )


def places(name: str, out: str | Path | None, store: str | None) -> tuple[Path, Store]:
    """The run directory of a matrix of that name, and the store.

    Raises:
        ConfigError: a file is where the run directory would be.
    """
    from radpo.core.errors import ConfigError
    from radpo.engine.shared import open_store

    folder = Path(out) if out is not None else Path("runs") / name
    # Else it would be found out when all the work is done.
    if taken := next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None):
        raise ConfigError(
            f"{taken}: is a file, and the run directory {folder} cannot be there; give another with --out"
        )
    return folder, open_store(store or os.environ.get("RADPO_STORE") or str(folder.parent / "store"))
