"""The stages that ask what training did to a checkpoint, beside how well it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo.engine.graph import Function, Task
from radpo.matrix.stages.common import NUMERICS, kept_between_tries, path_of, policy_folder

if TYPE_CHECKING:
    import pandas as pd

    from radpo.preferences.questions import Question


def _implicit_reward(task: Task) -> None:
    """Log-likelihoods under policy and reference -> results about the implicit reward."""
    from radpo.benchmarks.implicit_reward import summarise
    from radpo.core.results import write_scores

    write_scores(summarise(_joined(task), beta=task.stage.settings["beta"]), task.out)


def _ches(task: Task) -> None:
    """The model that training starts from and held-out pairs -> CHES scores (`ches.parquet`)."""
    from radpo.models.ches import write_ches
    from radpo.preferences.preferences import Reading
    from radpo.preferences.streamed import stream_pairs

    settings = task.stage.settings
    low, high = settings["scale"]
    pairs = stream_pairs(path_of(settings["pairs"]), Reading((low, high)), settings["limit"])
    with kept_between_tries(task, "ches.parquet") as out:
        write_ches(
            policy_folder(task),
            pairs,
            out,
            total=pairs.total,
            max_length=settings["max_length"],
            made_by=task.stage.key,
            progress=task.progress,
        )


def _displacement(task: Task) -> None:
    """Log-likelihoods under policy and reference, and CHES scores -> results about displacement."""
    import pandas as pd

    from radpo.benchmarks.displacement import summarise
    from radpo.core.results import write_scores

    write_scores(summarise(_joined(task), pd.read_parquet(task.inputs["ches"] / "ches.parquet")), task.out)


def _samples(task: Task) -> None:
    """A checkpoint and questions -> answers drawn at temperature 1 with their log-likelihoods (`samples.parquet`)."""
    from radpo.models.loading import resolve_model
    from radpo.models.samples import Drawing, write_samples

    settings = task.stage.settings
    reference = settings["reference"]
    drawing = Drawing(
        goals=tuple(settings["goals"]),
        per_prompt=settings["per_prompt"],
        max_new_tokens=settings["max_new_tokens"],
        seed=settings["seed"],
        batch_size=settings["batch_size"],
        scale=tuple(settings["scale"]),
    )
    with kept_between_tries(task, "samples.parquet") as out:
        write_samples(
            policy_folder(task),
            None if reference is None else resolve_model(reference.location),
            _questions(task),
            out,
            drawing,
            made_by=task.stage.key,
            progress=task.progress,
        )


def _reward_kl(task: Task) -> None:
    """Samples -> results about KL, entropy and score, and the scored samples as examples."""
    from radpo.benchmarks.reward_kl import summarise
    from radpo.core.results import write_scores

    write_scores(summarise(_scored(task)), task.out)


def _calibration(task: Task) -> None:
    """Samples with goals -> results about goal and score."""
    from radpo.benchmarks.calibration import summarise
    from radpo.core.results import write_scores

    write_scores(summarise(_scored(task), best_seen=task.stage.settings["best_seen"]), task.out)


def _style(task: Task) -> None:
    """The answers that AlpacaEval compared -> results about their length and style."""
    import pandas as pd

    from radpo.benchmarks.style import from_examples, summarise
    from radpo.core.results import write_scores

    judged = pd.read_parquet(task.inputs["judged"] / "examples.parquet")
    write_scores(summarise(from_examples(judged)), task.out)


def _joined(task: Task) -> pd.DataFrame:

    from radpo.models.heldout import side_by_side

    return side_by_side(
        policy=task.inputs["policy"] / "likelihoods.parquet",
        reference=task.inputs["reference"] / "likelihoods.parquet",
    )


def _questions(task: Task) -> list[Question]:
    from radpo.preferences.questions import load_questions

    return load_questions(path_of(task.stage.settings["questions"]))[: task.stage.settings["limit"]]


def _scored(task: Task) -> pd.DataFrame:
    import pandas as pd

    from radpo.judges.verifier import Verifier
    from radpo.models.samples import scored

    samples = pd.read_parquet(task.inputs["samples"] / "samples.parquet")
    return scored(samples, _questions(task), Verifier(), task.progress)


ANALYSIS = {
    "implicit-reward": Function(_implicit_reward, version=2, packages=("scipy",)),
    "ches": Function(_ches, version=2, packages=NUMERICS, resumable=True),
    "displacement": Function(_displacement, version=2, packages=("scipy",)),
    "samples": Function(_samples, version=2, packages=NUMERICS, resumable=True),
    "reward-kl": Function(_reward_kl, version=1, packages=("scipy",)),
    "calibration": Function(_calibration, version=1, packages=("scipy", "statsmodels")),
    "style": Function(_style, version=1, packages=("scipy",)),
}
