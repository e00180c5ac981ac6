"""Checkpoints: the finished Hugging Face folder of a policy, and where an interrupted training run can go on."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from radpo.core.errors import ModelError
from radpo.core.files import checksums, replace_json, verify_checksums
from radpo.models.decoding import token_ids_only
from radpo.models.loading import without_adapters

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

COMPLETE = "complete"
"""Name of the file that marks a resumable checkpoint as written to its end; it holds its files' checksums."""


GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class Companions:
    """What a policy's folder has beside weights and config, settled before training.

    The generation config is the base model's to the letter: transformers refuses to save one that it finds
    inconsistent (a temperature without do_sample, as many published models have it) once anything in it was touched,
    and trainers touch it.

    Args:
        base: the folder of the model that training starts from.
        generation: its generation config as loaded, for folders that have it in config.json.
        tokenizer: the policy's.
        chat_template: the policy's.
    """

    base: Path
    generation: GenerationConfig
    tokenizer: PreTrainedTokenizerBase
    chat_template: str

    def save(self, folder: Path) -> None:
        """Write them into a folder that the model was saved to."""
        if (self.base / GENERATION_CONFIG).is_file():
            shutil.copyfile(self.base / GENERATION_CONFIG, folder / GENERATION_CONFIG)
        else:
            self.generation.to_json_file(folder / GENERATION_CONFIG, use_diff=True)
        rendering = self.tokenizer.chat_template
        self.tokenizer.chat_template = self.chat_template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = rendering


def companions(model: Any, tokenizer: PreTrainedTokenizerBase, chat_template: str, base: Path) -> Companions:
    """What the policy's folder will have beside weights; the model in training keeps only its token ids of it."""
    own = model.generation_config
    model.generation_config = token_ids_only(own, tokenizer)
    return Companions(base, own, tokenizer, chat_template)


def check_saving(model: Any, beside: Companions, out: Path) -> None:
    """Write all of a policy but its weights, and remove it again: what cannot be saved is known before training.

    Raises:
        ModelError: a file cannot be written, or the disk has no room for the weights.
    """
    bare = without_adapters(model)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".saving-") as scratch:
        try:
            bare.config.save_pretrained(scratch)
            bare.generation_config.save_pretrained(scratch)
            beside.save(Path(scratch))
        except Exception as error:  # whatever transformers refuses
            cause = " ".join(str(error).split())[:400]
            raise ModelError(
                f"model {beside.base}: a policy trained from it could not be saved ({type(error).__name__}: {cause}); "
                "fix its config.json, generation_config.json or tokenizer_config.json"
            ) from error
    needed, free = sum(weight.nbytes for weight in bare.parameters()), shutil.disk_usage(out).free
    if free < needed:
        raise ModelError(
            f"{out}: the policy's weights take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; make room, or "
            "give another folder"
        )


def save_policy(trainer: Any, beside: Companions, folder: Path, adapter: Path) -> None:
    """Write a trainer's policy as an ordinary Hugging Face folder (safetensors), usable by any tool without radpo.

    Every process calls it, as the parts of a sharded model are gathered; the first one writes. LoRA adapters are
    written to `adapter` as peft does, and merged into the policy's weights.
    """
    accelerator = trainer.accelerator
    state = accelerator.get_state_dict(trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model)
    if not accelerator.is_main_process:
        return
    model = accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(adapter, state_dict=state)
        untie_adapted(model)
        model, state = model.merge_and_unload(), None
    model.save_pretrained(folder, state_dict=state)
    beside.save(folder)


def untie_adapted(model: Any) -> None:
    """Part the output head from the input embeddings where an adapter changes the latter, which alone it is for.

    With tied weights, merging the adapter would change the head along with them, and the merged model would not be the
    one that was trained. The configuration then says that they are not tied.

    Args:
        model: a model with adapters (peft's).
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    embeddings, head = base.get_input_embeddings(), base.get_output_embeddings()
    if not isinstance(embeddings, BaseTunerLayer) or head is None:
        return
    if head.weight.data_ptr() != embeddings.get_base_layer().weight.data_ptr():
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (base.config, base.config.get_text_config()):
        config.tie_word_embeddings = False


def mark_complete(folder: Path) -> None:
    """Note that a resumable checkpoint was written to its end, and what its files then were."""
    replace_json(folder / COMPLETE, checksums(folder))


def last_complete(folder: Path) -> Path | None:
    """The newest whole resumable checkpoint under `folder`; a torn one has no mark, a corrupt one other content.

    Resuming from a corrupt one would give another policy than an uninterrupted run, and nothing would show it.
    """
    found = {}
    for mark in folder.glob(f"checkpoint-*/{COMPLETE}"):
        step = re.fullmatch(r"checkpoint-(\d+)", mark.parent.name)
        if step and _is_whole(mark):
            found[int(step[1])] = mark.parent
    return found[max(found)] if found else None


def _is_whole(mark: Path) -> bool:
    try:
        recorded = json.loads(mark.read_text(encoding="utf-8"))
        return verify_checksums(mark.parent, recorded, leave_out=frozenset({COMPLETE})) is None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
