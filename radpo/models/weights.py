"""The weight files of a model folder: which of its files they are, whether they are whole, what they hold.

Only headers are read here, so that a pointer, a missing shard or a torn file is one message before anything is loaded.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from radpo.core.errors import ModelError

_NOT_READ = (
    "README*", "LICENSE*", "NOTICE*", "USE_POLICY*", "*.md", "*.pdf", "*.png", "*.jpg", "*.jpeg", "*.svg", "*.webp",
    "trainer_state.json", "optimizer*", "scheduler*", "events.out.*", "all_results.json", "*_results.json",
    "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot",
)  # fmt: skip
"""Names of files in a model's folder that are no part of the model."""
POINTER = b"version https://git-lfs"
"""What a file begins with that Git LFS left in another's place."""
_SMALL = 1024
"""A pointer is shorter than this, in bytes."""
_READ = (".safetensors", ".bin", ".json", ".model", ".jinja", ".txt")
_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names of a model's weights, in the order in which transformers looks for them; shards have an index beside them."""
OTHER_FORMATS = ("consolidated*.safetensors", "consolidated*.pth", "original/*")
"""The same weights again, in their makers' own format, which transformers does not read."""


def weight_files(folder: Path) -> list[Path]:
    """The files that a model's weights are read from; the same weights in another format are none of them.

    Raises:
        ModelError: there are none, or a shard is missing.
    """
    for name in _NAMES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    others = [path.name for pattern in OTHER_FORMATS for path in sorted(folder.glob(pattern))]
    hint = f"; {others[0]} has them in a format that transformers does not read" if others else ""
    raise ModelError(f"model {folder}: has no weights (model.safetensors, or shards with their index){hint}")


def model_files(folder: Path) -> list[Path]:
    """All files that may be read of a model: its weights, configuration, tokenizer, chat templates and code of its own.

    Not counted: hidden files and folders (`.git`, what download tools note), the same weights in other formats, what
    trainers leave beside a checkpoint, and pages for people.

    Raises:
        ModelError: there are no weights, or a shard is missing.
    """
    weights = weight_files(folder)
    top = [
        path
        for path in folder.iterdir()
        if path.is_file() and (path.suffix not in (".safetensors", ".bin") or path in weights)
    ]
    others = [*folder.glob("additional_chat_templates/*.jinja"), *folder.rglob("*.py")]
    named = {path.relative_to(folder): path for path in (*top, *others)}
    return [
        path
        for name, path in sorted(named.items())
        if not any(part.startswith(".") for part in name.parts) and not any(map(name.match, _NOT_READ))
    ]


def _shards(index: Path) -> list[Path]:
    document = read_json(index)
    names = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index}: names no shards; download the model again")
    shards = [index.parent / str(name) for name in sorted(set(names.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelError(
            f"model {index.parent}: {len(missing)} of {len(shards)} weight files that its index names are missing "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); download them"
        )
    return shards


def check_files(folder: Path) -> None:
    """See that a model is read from its own files, none of which is a Git LFS pointer.

    Raises:
        ModelError: it is not.
    """
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model {folder}: holds an adapter (adapter_config.json), with which transformers reads the weights of "
            "another folder than this; merge the adapter and give the merged model, or remove the adapter's files"
        )
    for path in sorted(folder.iterdir()):
        other = any(path.match(pattern) for pattern in OTHER_FORMATS)
        if path.suffix in _READ and path.is_file() and not other:
            check_pointer(path)


def check_own_code(folder: Path) -> None:
    """See that a model whose code is to be run brings it in its own folder, as a part of what it is known by.

    Raises:
        ModelError: its code is in another repository, which may change.
    """
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        document = read_json(path) if path.is_file() else {}
        named = document.get("auto_map") if isinstance(document, dict) else None
        for place in _texts(named):
            if "--" in place:
                raise ModelError(
                    f"{path}, auto_map: its code is in another repository ({place.partition('--')[0]}), which may "
                    f"change; put its files into {folder} and name them without the repository"
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def check_pointer(path: Path) -> None:
    """See that a file is not a Git LFS pointer.

    Raises:
        ModelError: it is one.
    """
    if is_pointer(path):
        raise ModelError(
            f"{path}: is a Git LFS pointer and not the file itself; run `git lfs pull` in {path.parent}, or download it"
        )


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in the place of one that was not downloaded."""
    if path.stat().st_size > _SMALL:
        return False
    with path.open("rb") as stream:
        return stream.read(len(POINTER)) == POINTER


def check_weights(folder: Path) -> None:
    """See that a model's weight files are there and whole, as far as their headers tell.

    Raises:
        ModelError: they are not; the message names the file.
    """
    check_files(folder)
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            safetensors_header(path)
        else:
            _check_pickle(path)


def parameter_count(folder: Path) -> int:
    """The numbers in a model's weights, each counted once.

    Raises:
        ModelError: the files are not there or not whole.
    """
    check_files(folder)
    return sum(math.prod(shape) for path in weight_files(folder) for shape in _shapes(path))


def _shapes(path: Path) -> Iterator[Sequence[int]]:
    if path.suffix == ".safetensors":
        yield from (tensor["shape"] for tensor in safetensors_header(path).values())
        return
    import torch

    _check_pickle(path)
    tensors = torch.load(path, map_location="meta", weights_only=True)
    yield from (tensor.shape for tensor in tensors.values())


def safetensors_header(path: Path) -> dict[str, Any]:
    """Every tensor of a safetensors file: name -> dtype, shape and data_offsets.

    The format: 8 bytes with the header's length, the header as JSON, and the data up to the file's end.

    Raises:
        ModelError: the file is no safetensors file, or is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise ModelError(f"{path}: is cut off, or no safetensors file ({size} bytes); download it again")
        try:
            header = json.loads(stream.read(length))
            tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
            end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ModelError(f"{path}: its header is damaged; download it again") from error
    if end != size:
        raise ModelError(f"{path}: has {size} bytes where its header says {end}; download it again")
    return tensors


def _check_pickle(path: Path) -> None:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if path.stat().st_size == 0 or (zipped and not zipfile.is_zipfile(path)):
        raise ModelError(f"{path}: is cut off; download it again")


def read_json(path: Path) -> Any:
    """A JSON file of a model folder.

    Raises:
        ModelError: it is a pointer, or no JSON.
    """
    check_pointer(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}); download it again") from error


def load_weights(auto_class: Any, folder: Path, **options: Any) -> Any:
    """`auto_class.from_pretrained(folder)`, or one message.

    transformers gives weights that it does not find random values and continues.

    Raises:
        ModelError: a file is missing or damaged, weights are missing, or the architecture is unknown.
    """
    check_weights(folder)
    try:
        model, found = auto_class.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:
        # Of a damaged file or an unknown architecture, each library raises a kind of its own.
        raise ModelError(f"model {folder}: cannot be loaded ({_first_line(error)})") from error
    missing = sorted(map(str, _missing(found)))
    if missing:
        raise ModelError(
            f"model {folder}: {len(missing)} of its weights are in none of its files and would be random "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); download the model again, or give one "
            f"that was saved as {type(model).__name__}"
        )
    return model


def _missing(found: Mapping[str, Any]) -> Iterator[Any]:
    yield from found.get("missing_keys", ())


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
