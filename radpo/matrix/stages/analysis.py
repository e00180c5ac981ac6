"""The stages that ask what training did to a checkpoint, beside how well it answers."""

from __future__ import annotations

from radpo.matrix.graph import Function, Task


def _implicit_reward(task: Task) -> None:
    """Log-likelihoods under policy and reference -> results about the implicit reward."""
    import pandas as pd

    from radpo.analysis.implicit_reward import summarise
    from radpo.models.heldout import side_by_side
    from radpo.results import write_scores

    joined = side_by_side(
        policy=pd.read_parquet(task.inputs["policy"] / "likelihoods.parquet"),
        reference=pd.read_parquet(task.inputs["reference"] / "likelihoods.parquet"),
    )
    write_scores(summarise(joined, beta=task.stage.settings["beta"]), task.out)


ANALYSIS = {
    "implicit-reward": Function(_implicit_reward, version=1, packages=("scipy",)),
}
