"""Training pairs and their log-likelihoods under the reference come in; the trainer's data set goes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from radpo.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")


def training_dataset(pairs: pa.Table, reference: pa.Table) -> Dataset:
    """id, token ids and reference log-likelihoods of every pair, as TRL's `DPOTrainer` names them.

    Args:
        pairs: a relabeled table (`radpo.preferences.relabel`).
        reference: `radpo.training.reference.reference_log_likelihoods` of the same pairs, row for row.

    Raises:
        DataError: the two are not of the same pairs.
    """
    from datasets import Dataset

    if not pairs["id"].combine_chunks().equals(reference["id"].combine_chunks()):
        raise DataError(
            "the reference log-likelihoods belong to other pairs: their ids differ from the training pairs'"
        )
    return Dataset(reference.select(["id", *COLUMNS]))
