"""The trackers that a training is reported to while it runs, through transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from radpo.core.environment import environment
from radpo.core.errors import ConfigError
from radpo.core.optional import need_package


@dataclass(frozen=True)
class Reporting:
    """Where a training is reported to.

    Args:
        trackers: transformers' names of them: tensorboard, wandb, mlflow, trackio.
        project: the project, or experiment, there.
        run_name: what the training is called in it.
    """

    trackers: tuple[str, ...] = ()
    project: str = "radpo"
    run_name: str | None = None

    @contextmanager
    def begun(self) -> Iterator[None]:
        """While it lasts, transformers' callbacks report to the project; then the training's run is at its end.

        Without that, the next training of the same process would continue in this one's run.
        """
        project = {"WANDB_PROJECT": self.project, "MLFLOW_EXPERIMENT_NAME": self.project, "WANDB_SILENT": "true"}
        with environment(project if self.trackers else {}, only_unset=True):
            try:
                yield
            finally:
                if "wandb" in self.trackers:
                    import wandb

                    wandb.finish()
                if "mlflow" in self.trackers:
                    import mlflow

                    mlflow.end_run()


NOWHERE = Reporting()


def check_trackers(trackers: tuple[str, ...]) -> None:
    """Raise unless a training can be reported there.

    Raises:
        ConfigError: a tracker's package is not installed, or it needs a key and has none.
    """
    for tracker in trackers:
        need_package(tracker, "report_to", "radpo[trackers]")
    if "wandb" in trackers:
        with environment({"WANDB_SILENT": "true"}, only_unset=True):
            import wandb

            if wandb.Settings().mode == "online" and not wandb.login(prompt=False):
                raise ConfigError(
                    "report_to: wandb needs a key: set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline"
                )
