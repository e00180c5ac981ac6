"""Which pairs are used, with which scores for goals, in which order.

A plan is made of a few numbers a pair, so that pairs too many for the memory can be planned together and then relabeled
batch by batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from radpo.core.errors import DataError
from radpo.preferences.goals import ATTRIBUTE_SCALE, Placement, Scale
from radpo.preferences.implicit import Rescale, implicit_reward, rescaled
from radpo.preferences.rows import LOG_LIKELIHOODS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Floats = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]

Kind = Literal["plain", "ra", "half-ra", "attributes", "ira"]
"""`plain`: every pair as it is, without a goal. `ra`: every pair twice, once for each response's score as the goal.
`half-ra`: the same for a random half of the prompts. `attributes`: every pair twice, the goals being each response's
scores by attribute. `ira`: every pair twice, the goals being implicit rewards."""
KINDS: tuple[Kind, ...] = ("plain", "ra", "half-ra", "attributes", "ira")

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Relabeling:
    """How scored pairs become training pairs; every setting is an argument of `radpo.preferences.relabel.relabel`."""

    kind: Kind
    placement: Placement = "system"
    template: str | None = None
    min_gap: float = 0.0
    shuffle: bool = False
    seed: int = 0
    rescale: Rescale = "rank"
    beta: float = 0.01
    scale: Scale = (1.0, 10.0)
    attribute_scale: Scale = ATTRIBUTE_SCALE

    @property
    def needs_all(self) -> bool:
        """Whether what becomes of a pair depends on the others."""
        return self.shuffle or self.kind in ("half-ra", "ira")


@dataclass(frozen=True)
class Counts:
    """What became of the scored pairs.

    Args:
        pairs: scored pairs that came in.
        used: those that training pairs were made of; all others are in one of the next four.
        ties_dropped: both responses have the same score (for `attributes`: in every attribute rated for both).
        unrated_dropped: no attribute is rated for both responses.
        gap_dropped: the scores are nearer to each other than `min_gap`.
        other_half: their prompts are in the half that `half-ra` does not take.
        same_goal: used pairs whose two goals read the same (7.001 and 7.002 are both asked for as 7), so that their two
            training pairs contradict each other; a `min_gap` of 0.01 leaves them out.
    """

    pairs: int = 0
    used: int = 0
    ties_dropped: int = 0
    unrated_dropped: int = 0
    gap_dropped: int = 0
    other_half: int = 0
    same_goal: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Counts)))


@dataclass(frozen=True)
class Measured:
    """The numbers of some pairs that a plan is made of, a row each.

    Args:
        scores: of chosen and rejected, (rows, 2).
        differ: whether the scores that become goals differ, (rows,).
        rated: whether an attribute is rated for both responses; True but for `attributes`, (rows,).
        implicit: implicit rewards of chosen and rejected for `ira`, else of no columns, (rows, 2 or 0).
        prompts: for `half-ra` a random number for every prompt, the same for the same prompt, else 0, (rows,).
    """

    scores: Floats
    differ: Mask
    rated: Mask
    implicit: Floats
    prompts: npt.NDArray[np.uint64]

    def part(self, rows: slice) -> Measured:
        """The numbers of some of the pairs."""
        return Measured(*(getattr(self, field.name)[rows] for field in fields(Measured)))


@dataclass(frozen=True)
class Plan:
    """What becomes of some pairs.

    Args:
        measured: their numbers; for `ira` the scores are the rescaled ones.
        used: the pairs that training pairs are made of, (rows,).
        counts: what becomes of how many, but for `same_goal`.
        places: where in the result the training pairs of the used pairs go, one after the other; None where they stay
            in order.
    """

    measured: Measured
    used: Mask
    counts: Counts
    places: npt.NDArray[np.int64] | None


def measure(batch: pa.RecordBatch, settings: Relabeling) -> Measured:
    """The numbers that the plan for a batch is made of.

    Raises:
        DataError: the pairs lack the columns that the kind needs, or an attribute's score is not on its scale.
    """
    import numpy as np

    rows = batch.num_rows
    scores = _numbers(batch, [f"score_{side}" for side in SIDES])
    differ: Mask = scores[:, 0] != scores[:, 1]
    rated: Mask = np.ones(rows, bool)
    implicit, prompts = np.zeros((rows, 0)), np.zeros(rows, np.uint64)
    if settings.kind == "attributes":
        goals = attribute_vectors(dict(zip(batch.schema.names, batch.columns, strict=True)), settings.attribute_scale)
        both = ~(np.isnan(goals[:, 0]) | np.isnan(goals[:, 1]))
        rated = np.logical_or.reduce(both, axis=-1)
        differ = np.logical_or.reduce(both & (goals[:, 0] != goals[:, 1]), axis=-1)
    elif settings.kind == "ira":
        if lacking := set(LOG_LIKELIHOODS) - set(batch.schema.names):
            fix = "log-likelihoods in nats, summed over the response's tokens"
            raise DataError(f"kind ira: the pairs lack {', '.join(sorted(lacking))}: {fix}")
        policy, reference = (
            _numbers(batch, [f"{who}_logp_{side}" for side in SIDES]) for who in ("policy", "reference")
        )
        implicit = implicit_reward(policy, reference, settings.beta)
        if not np.isfinite(implicit).all():
            raise DataError("kind ira: the log-likelihoods are so far apart that their difference is not finite")
    elif settings.kind == "half-ra":
        prompts = _prompt_numbers(batch, settings.seed)
    return Measured(scores, differ, rated, implicit, prompts)


def make_plan(parts: Sequence[Measured], settings: Relabeling) -> Plan:
    """What becomes of all pairs together.

    Args:
        parts: at least one.
    """
    import numpy as np

    measured = Measured(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Measured)))
    if settings.kind == "ira":
        scores = rescaled(measured.implicit, settings.rescale, settings.scale)
        measured = replace(measured, scores=scores, differ=scores[:, 0] != scores[:, 1])
    wide = np.abs(measured.scores[:, 0] - measured.scores[:, 1]) >= settings.min_gap
    fit = measured.rated & measured.differ & wide
    used = _half(measured.prompts, fit) if settings.kind == "half-ra" else fit
    counts = Counts(
        pairs=len(used),
        used=int(used.sum()),
        ties_dropped=int((measured.rated & ~measured.differ).sum()),
        unrated_dropped=int((~measured.rated).sum()),
        gap_dropped=int((measured.rated & measured.differ & ~wide).sum()),
        other_half=int((fit & ~used).sum()),
    )
    places = None
    if settings.shuffle:
        made = counts.used * (1 if settings.kind == "plain" else 2)
        places = np.random.default_rng(settings.seed).permutation(made)
    return Plan(measured, used, counts, places)


def attribute_vectors(columns: Mapping[str, Any], scale: tuple[float, float]) -> Floats:
    """Scores by attribute of chosen and rejected, nan where not rated, (rows, 2, attributes).

    Args:
        columns: by name; of them attributes_chosen and attributes_rejected are looked at.

    Raises:
        DataError: there are none, or one is not on the scale.
    """
    import numpy as np

    if "attributes_chosen" not in columns:
        raise DataError("kind attributes: the pairs lack attributes_chosen and attributes_rejected")
    sides = [columns[f"attributes_{side}"] for side in SIDES]
    names = [field.name for field in sides[0].type]
    vectors = np.stack([np.stack([_floats(side.field(name)) for name in names], axis=-1) for side in sides], axis=1)
    outside = vectors[(vectors < scale[0]) | (vectors > scale[1])]
    if len(outside):
        raise DataError(
            f"kind attributes: {outside[0]:g} is not on the attributes' scale {scale[0]:g}-{scale[1]:g}; "
            "state the scale (data.attribute_scale, --attribute-scale)"
        )
    return vectors


def _half(prompts: npt.NDArray[np.uint64], fit: Mask) -> Mask:
    """The pairs of a random half of the prompts: of so many that the pairs are nearest to half of those that fit."""
    import numpy as np

    _, which, sizes = np.unique(prompts[fit], return_inverse=True, return_counts=True)
    # The numbers are random, so their order is too; `pairs_with[k]` is how many pairs the first k prompts have.
    pairs_with = np.concatenate([[0], np.cumsum(sizes)])
    taken = int(np.argmin(np.abs(pairs_with - fit.sum() / 2)))
    used = fit.copy()
    used[fit] = which < taken
    return used


def _prompt_numbers(batch: pa.RecordBatch, seed: int) -> npt.NDArray[np.uint64]:
    """64 random bits of every prompt, which depend on it and the seed alone."""
    import numpy as np

    from radpo.preferences.columns import message_keys

    key = f"radpo half-ra {seed}".encode()[:64]
    digests = (
        hashlib.blake2b(text.encode(), digest_size=8, key=key).digest()
        for text in message_keys(batch.column("prompt")).to_pylist()
    )
    return np.frombuffer(b"".join(digests), np.uint64)


def _numbers(batch: pa.RecordBatch, columns: Sequence[str]) -> Floats:
    """Columns beside each other, (rows, columns)."""
    import numpy as np

    return np.stack([_floats(batch.column(column)) for column in columns], axis=-1)


def _floats(column: Any) -> Floats:
    """A column as floats, null as nan."""
    import numpy as np

    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
