"""Held-out log-likelihoods along training: the rows of a trajectory.

The model is the one in training, in its place, so nothing is loaded a second time. Each step's rows are a file of their
own until training is done, so that what an interruption cuts off is measured again and nothing twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.files import has_named_checksum, write_with_checksum
from radpo.models.chat_template import placement_of
from radpo.models.heldout import asked_with_goals
from radpo.models.likelihood import TokenizedResponse, log_likelihoods, responses
from radpo.preferences.goals import Scale

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase, TrainerCallback

COLUMNS = ("step", "id", "side", "goal", "logp", "tokens")


def tracked_responses(
    tokenizer: PreTrainedTokenizerBase, scored: pa.Table, *, scale: Scale, wording: str | None = None, max_length: int
) -> tuple[pd.DataFrame, list[TokenizedResponse]]:
    """What is measured at every step: both responses of every scored pair, asked with every goal.

    The goals are those of `radpo.models.heldout.GOALS`.

    Returns:
        id, side (chosen or rejected), goal and tokens of every response, and the responses, row for row.
    """
    import pandas as pd

    rows, pairs = asked_with_goals(scored.to_pylist(), tokenizer, placement_of(tokenizer), scale, wording)
    items = list(responses(pairs, max_length))
    named = pd.DataFrame(rows).rename(columns={"pair_id": "id", "response": "side"})
    return named[["id", "side", "goal"]].assign(tokens=[len(item.response_ids) for item in items]), items


def tracker(
    asked: tuple[pd.DataFrame, list[TokenizedResponse]], every: int, folder: Path, *, autocast: bool
) -> TrainerCallback:
    """A callback that measures before the first step, every so many steps, and after the last."""
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 0:
                self._measure(state, model)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step % every == 0 or state.global_step == state.max_steps:
                self._measure(state, model)

        def _measure(self, state: Any, model: Any) -> None:
            if not state.is_world_process_zero:
                return
            bare = getattr(model, "module", model)
            training = bare.training
            bare.eval()
            try:
                found = log_likelihoods(bare, asked[1], autocast=autocast)
            finally:
                bare.train(training)
            frame = asked[0].assign(step=state.global_step, logp=[item.logp for item in found])
            folder.mkdir(parents=True, exist_ok=True)
            for earlier in folder.glob(f"{state.global_step:09d}-*.parquet"):
                earlier.unlink()
            rows = frame[list(COLUMNS)]
            write_with_checksum(
                folder, f"{state.global_step:09d}", ".parquet", lambda path: rows.to_parquet(path, index=False)
            )

    return Tracker()


def is_measured(folder: Path, every: int, until: int) -> bool:
    """Whether every step's rows up to a step are there, each file with the content that its name's checksum says.

    What is not can only be had by training from the start: the policies of those steps are gone.
    """
    whole = {int(path.stem.partition("-")[0]) for path in folder.glob("*-*.parquet") if has_named_checksum(path)}
    return set(range(0, until + 1, every)) <= whole


def trajectory(folder: Path) -> pd.DataFrame:
    """All steps' rows: step, id, side, goal, logp (nats, summed over the response's tokens), tokens."""
    import pandas as pd

    return pd.concat([pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))], ignore_index=True)
