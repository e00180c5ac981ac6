"""A run's figures, training curves and report for experiment trackers: W&B, MLflow, trackio and TensorBoard.

Each trained or scored variant is a run of the tracker, a seed each, and one more run has the report. Exported again, a
run is updated and not doubled.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radpo.core.environment import environment
from radpo.core.errors import ConfigError, ServiceError
from radpo.core.files import replace_file
from radpo.core.messages import masked_address
from radpo.core.optional import need_package
from radpo.core.run import COMPARISONS, Run, load_run
from radpo.core.run_files import REPORT
from radpo.core.suggestions import did_you_mean
from radpo.export.card import results_table
from radpo.stats.quantities import measure, names_of, of

EXTRA = "radpo[trackers]"
TAG = "radpo.run"
"""MLflow's tag, and trackio's setting, by which an earlier export of the same run is found."""
CONNECT_SECONDS = 30
FILES = (REPORT, "results.parquet", COMPARISONS)
"""What the run of the report has besides."""


@dataclass(frozen=True)
class TrackedRun:
    """One variant with one seed, as a run of a tracker.

    Args:
        name: VARIANT/seed-N.
        key: the same for the same run, variant and seed, and for no other.
        config: its settings, nested ones by dotted names.
        curves: optimiser step -> TRL's figures of it, by `train/NAME`.
        figures: its results by BENCHMARK/PART/METRIC, the ends of their 95% intervals with `_low` and `_high`.
        table: the primary ones as a Markdown table.
    """

    name: str
    key: str
    config: Mapping[str, Any]
    curves: Mapping[int, Mapping[str, float]]
    figures: Mapping[str, float]
    table: str

    @property
    def last_step(self) -> int:
        """The optimiser step at which its results hold."""
        return max(self.curves, default=0)


@dataclass(frozen=True)
class _Export:
    """What goes to a tracker: its project, the runs, and the files of the run directory."""

    project: str
    runs: Sequence[TrackedRun]
    folder: Path
    key: str

    @property
    def files(self) -> list[Path]:
        return [self.folder / name for name in FILES if (self.folder / name).is_file()]


def export_to(run_dir: Path, tracker: str, *, project: str | None = None, out: Path | None = None) -> str:
    """Give a run's results, training curves and report to an experiment tracker.

    Args:
        run_dir: the run directory.
        tracker: one of `TRACKERS`. Servers, keys and offline modes are the tracker's own settings (WANDB_MODE,
            MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID, ...).
        project: the tracker's project or experiment. Default: the run's name.
        out: the folder that gets TensorBoard's files. Default: tensorboard in the run directory.

    Returns:
        Where it is now: a folder, a project or an address.

    Raises:
        ConfigError: there is no such tracker, its package or key is missing, or a folder cannot be written.
        DataError: the run directory cannot be read.
        ServiceError: the tracker's server cannot be reached, or refuses.
    """
    if tracker not in TRACKERS:
        raise ConfigError(f"--to {tracker!r}: must be one of {', '.join(TRACKERS)}{did_you_mean(tracker, TRACKERS)}")
    if tracker == "tensorboard" and project is not None:
        raise ConfigError("--project: TensorBoard has none; give a folder")
    if tracker != "tensorboard" and out is not None:
        raise ConfigError(f"{out}: {tracker} has a project and no folder; give --project")
    need_package(tracker, f"--to {tracker}", EXTRA)
    run = load_run(run_dir)
    key = str(run.manifest.get("key", run.title))
    export = _Export(_plain(project or run.title), [*tracked_runs(run, key)], run_dir, key)
    with redirect_stdout(sys.stderr):  # trackers greet
        return TRACKERS[tracker](export, out or run_dir / "tensorboard")


def tracked_runs(run: Run, key: str) -> Iterator[TrackedRun]:
    """A run's cells as a tracker has them."""
    for _, rows in run.results.groupby(["variant", "seed"], sort=False):
        variant, seed = str(rows["variant"].iloc[0]), int(rows["seed"].iloc[0])
        alone = run.of_seed(seed)
        figures: dict[str, float] = {}
        for name in names_of(rows[rows["value"].notna()]):
            found = measure(alone, variant, name)
            assert found is not None
            path = _plain("/".join(part for part in name if part != "all"))
            figures[path] = found.value
            if found.low != found.high:
                figures |= {f"{path}_low": found.low, f"{path}_high": found.high}
        curves: dict[int, dict[str, float]] = {}
        if run.training is not None:
            for row in of(run.training, variant=variant, seed=seed).to_dict("records"):
                curves.setdefault(int(row["step"]), {})[f"train/{_plain(row['metric'])}"] = float(row["value"])
        described = run.manifest["variants"].get(variant, {})
        config = {"variant": variant, "seed": seed, "models": ", ".join(run.manifest["models"]), TAG: key}
        config |= {"radpo": run.manifest["radpo"], "commit": run.manifest["git_commit"], **_dotted(described)}
        identity = hashlib.sha256(f"{key}/{variant}/{seed}".encode()).hexdigest()[:16]
        name_ = f"{variant}/seed-{seed}"
        yield TrackedRun(name_, identity, config, curves, figures, "\n".join(results_table(alone, variant)))


def _dotted(document: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            found |= _dotted(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def _plain(name: str) -> str:
    """A name that every tracker takes for a figure, a project or a folder."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)


def _wandb(export: _Export, _: Path) -> str:
    with environment({"WANDB_SILENT": "true"}, only_unset=True):
        import wandb
        from wandb.errors import CommError, Error, UsageError

        project = re.sub(r"[/\\#?%:]", "_", export.project)
        settings = wandb.Settings(init_timeout=CONNECT_SECONDS, console="off", disable_git=True, disable_code=True)

        def begin(name: str, key: str, config: Mapping[str, Any]) -> Any:
            return wandb.init(
                project=project, name=name, id=key, group=export.key[:16], resume="allow", config=dict(config),
                settings=settings, reinit="finish_previous",
            )  # fmt: skip

        try:
            for run in export.runs:
                theirs = begin(run.name, run.key, run.config)
                for step, values in sorted(run.curves.items()):
                    theirs.log(dict(values), step=step)
                theirs.summary.update(dict(run.figures))
                theirs.finish()
            theirs = begin("report", hashlib.sha256(export.key.encode()).hexdigest()[:16], {TAG: export.key})
            artifact = wandb.Artifact("report", type="report")
            for path in export.files:
                artifact.add_file(str(path))
            theirs.log_artifact(artifact)
            theirs.finish()
        except UsageError as error:
            raise ConfigError(
                f"--to wandb: {_first_line(error)} Or set WANDB_API_KEY, or WANDB_MODE=offline and `wandb sync` later"
            ) from error
        except (CommError, Error, OSError) as error:
            raise ServiceError(f"--to wandb: {_first_line(error)}") from error
        offline = theirs.settings.mode in ("offline", "dryrun")
        return f"wandb project {project}, {'offline: `wandb sync` sends what is in wandb/' if offline else 'online'}"


def _mlflow(export: _Export, _: Path) -> str:
    with environment({"GIT_PYTHON_REFRESH": "quiet"}, only_unset=True):
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            client = mlflow.MlflowClient()
            experiment = client.get_experiment_by_name(export.project)
            place = client.create_experiment(export.project) if experiment is None else experiment.experiment_id
            for run in export.runs:
                with _mlflow_run(client, place, run.name, run.key) as (identity, is_new):
                    if is_new:
                        for name, value in run.config.items():
                            client.log_param(identity, name, value)
                        for step, values in sorted(run.curves.items()):
                            for name, figure in values.items():
                                client.log_metric(identity, name, figure, step=step)
                        for name, figure in run.figures.items():
                            client.log_metric(identity, name, figure, step=run.last_step)
            with _mlflow_run(client, place, "report", export.key) as (identity, _is_new):
                for path in export.files:
                    client.log_artifact(identity, str(path))
        except MlflowException as error:
            # Its own scheme of addresses, or a folder without leave: the setting is wrong, and no service failed.
            kind = ServiceError if "API request" in str(error) else ConfigError
            raise kind(f"--to mlflow: MLFLOW_TRACKING_URI: {_first_line(error)}") from error
        return f"mlflow experiment {export.project} at {masked_address(mlflow.get_tracking_uri())}"


@contextmanager
def _mlflow_run(client: Any, experiment: str, name: str, key: str) -> Iterator[tuple[str, bool]]:
    """The run that an earlier export made, or a new one; finished at the end."""
    found = client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{key}'", max_results=1)
    run = found[0] if found else client.create_run(experiment, run_name=name, tags={TAG: key})
    yield run.info.run_id, not found
    client.set_terminated(run.info.run_id)


def _trackio(export: _Export, _: Path) -> str:
    import trackio

    project = export.project.replace("/", "_")
    quiet: Mapping[str, Any] = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    try:
        earlier = {run.name: run for run in trackio.Api().runs(project)}
    except ValueError:  # there is no such project yet
        earlier = {}
    try:
        for run in export.runs:
            before = earlier.get(run.name)
            if before is not None:
                if (before.config or {}).get(TAG) != export.key:
                    raise ConfigError(
                        f"--to trackio: project {project} has a run {run.name} of something else; give --project"
                    )
                before.delete()
            trackio.init(project=project, name=run.name, config=dict(run.config), **quiet)
            for step, values in sorted(run.curves.items()):
                trackio.log(dict(values), step=step)
            trackio.log({**run.figures, "results": trackio.Markdown(run.table)}, step=run.last_step)
            trackio.finish()
        for path in export.files:
            trackio.save(path, project=project)
    except OSError as error:
        raise ServiceError(f"--to trackio: {_first_line(error)}") from error
    return f"trackio project {project}; look at it with `trackio show --project {project!r}`"


def _tensorboard(export: _Export, out: Path) -> str:
    from torch.utils.tensorboard import SummaryWriter

    for run in export.runs:

        def write(partial: Path, run: TrackedRun = run) -> None:
            with SummaryWriter(str(partial)) as writer:
                for step, values in sorted(run.curves.items()):
                    for name, value in values.items():
                        writer.add_scalar(name, value, step)
                for name, value in run.figures.items():
                    writer.add_scalar(f"results/{name}", value, run.last_step)
                writer.add_text("results", run.table, run.last_step)
                settings = {name: value for name, value in run.config.items() if name != "seed"}
                writer.add_hparams(settings, dict(run.figures), run_name=".", global_step=run.last_step)

        folder = out / _plain(run.name)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            if folder.is_dir():
                shutil.rmtree(folder)
            replace_file(folder, write)
        except OSError as error:
            raise ConfigError(f"{out}: cannot be written: {error.strerror}; give another folder") from error
    return str(out)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


TRACKERS: Mapping[str, Callable[[_Export, Path], str]] = {
    "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio, "tensorboard": _tensorboard,
}  # fmt: skip
