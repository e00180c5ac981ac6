"""Published questions, judge prompts, reference answers and baselines by name, fetched once and checked by hash.

A file is kept in one folder under its name and ending (`RADPO_DATA`, else `data` in radpo's cache). Where no network is
to be had it is put there by hand; what it is known by, in keys too, is its content alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import URLError
from urllib.request import urlopen

from radpo.core.cache import cache_folder
from radpo.core.errors import ConfigError, DataError, ServiceError
from radpo.core.files import replace_file, sha256
from radpo.core.suggestions import did_you_mean

TIMEOUT = 30.0
"""Seconds without an answer after which an address counts as one that cannot be reached."""


@dataclass(frozen=True)
class NamedFile:
    """One published file.

    Args:
        about: what it is, for a list.
        address: where it is published, at one commit.
        size, sha256: of its bytes, as seen in a clone of that repository at that commit.
        licence: as its publishers state it.
        citation: the paper to cite.
        hub: data set and file name of the same bytes on the Hub, whose cache is looked at first.
    """

    about: str
    address: str
    size: int
    sha256: str
    licence: str
    citation: str
    hub: tuple[str, str] | None = None


_FASTCHAT = (
    "https://raw.githubusercontent.com/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data"
)
_ARENA = "https://raw.githubusercontent.com/lmarena/arena-hard-auto"
_ARENA_DATA = f"{_ARENA}/196f6b826783b3da7310e361a805fa36f0be83f3/data"
_ALPACA = "https://raw.githubusercontent.com/tatsu-lab/alpaca_eval/cd543a149df89434d8a54582c0151c0b945c3d20"
_APACHE = "Apache-2.0"
_MT_BENCH_PAPER, _ARENA_PAPER, _ALPACA_PAPER = "arXiv:2306.05685", "arXiv:2406.11939", "arXiv:2404.04475"

NAMED: Mapping[str, NamedFile] = {
    "alpaca-eval": NamedFile(
        "AlpacaEval 2: the 805 instructions, with the answers of gpt4_1106_preview, its baseline",
        f"{_ALPACA}/results/gpt4_1106_preview/model_outputs.json", 1_899_765,
        "83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4", "CC-BY-NC-4.0", _ALPACA_PAPER,
        ("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json"),
    ),
    "mt-bench": NamedFile(
        "MT-Bench: the 80 questions of two turns",
        f"{_FASTCHAT}/mt_bench/question.jsonl", 48_929,
        "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7", _APACHE, _MT_BENCH_PAPER,
    ),
    "mt-bench-prompts": NamedFile(
        "MT-Bench: FastChat's judge prompts, single and pairwise",
        f"{_FASTCHAT}/judge_prompts.jsonl", 10_449,
        "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6", _APACHE, _MT_BENCH_PAPER,
    ),
    "mt-bench-gpt-4": NamedFile(
        "MT-Bench: GPT-4's reference answers for math, reasoning and coding",
        f"{_FASTCHAT}/mt_bench/reference_answer/gpt-4.jsonl", 51_109,
        "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f", _APACHE, _MT_BENCH_PAPER,
    ),
    "vicuna-bench": NamedFile(
        "Vicuna's 80 questions of one turn",
        f"{_FASTCHAT}/vicuna_bench/question.jsonl", 13_125,
        "c248c5c98ba45bb0c2aadae2f270e643bd32679c6c306a3b2a503ac4254cdaa5", _APACHE, _MT_BENCH_PAPER,
    ),
    "arena-hard-v0.1": NamedFile(
        "Arena-Hard v0.1: the 500 questions",
        f"{_ARENA_DATA}/arena-hard-v0.1/question.jsonl", 272_075,
        "2650242d2883f22b2abd498f273b6a7e02253cce533f5c91a858e1d44aa3002f", _APACHE, _ARENA_PAPER,
    ),
    "arena-hard-v0.1-gpt-4-0314": NamedFile(
        "Arena-Hard v0.1: the answers of gpt-4-0314, its baseline",
        f"{_ARENA_DATA}/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl", 1_270_631,
        "0f6abc84de4600fde987d9db70f838f4ecdbd27a2f1f4058c12aa322a6f791b2", _APACHE, _ARENA_PAPER,
    ),
    "arena-hard-v0.1-judge": NamedFile(
        "Arena-Hard v0.1: the judge's configuration and prompt",
        f"{_ARENA}/9a6791abc5c218c57f079fd1132c367bca8a57a1/config/judge_config.yaml", 2_400,
        "6e001736bacacdb1591ffca7eec953a7089f8f5604872d1ca4f9a6f9de1ee451", _APACHE, _ARENA_PAPER,
    ),
    "arena-hard-v2.0": NamedFile(
        "Arena-Hard v2.0: the 750 questions",
        f"{_ARENA_DATA}/arena-hard-v2.0/question.jsonl", 947_596,
        "a75cef6623db6b27aec810497b059f0659705d7ff48dcbccc5bd5b130728ac73", _APACHE, _ARENA_PAPER,
    ),
    "arena-hard-v2.0-o3-mini": NamedFile(
        "Arena-Hard v2.0: the answers of o3-mini-2025-01-31, the baseline of hard prompts, coding and math",
        f"{_ARENA_DATA}/arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl", 4_184_593,
        "c23a7c255eead99f7f86ad48aa1d8ccdb5b3334f2097e0e1e09184df87265e03", _APACHE, _ARENA_PAPER,
    ),
}  # fmt: skip
"""Every published file that is known by name."""


def data_folder() -> Path:
    """Where named files are: `RADPO_DATA`, else `data` in radpo's cache."""
    given = os.environ.get("RADPO_DATA")
    return Path(given).expanduser() if given else cache_folder() / "data"


def place_of(name: str) -> Path:
    """Where a named file is, or will be.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in NAMED:
        raise ConfigError(f"{name}: no such data; there are {', '.join(NAMED)}{did_you_mean(name, NAMED)}")
    return data_folder() / f"{name}{PurePosixPath(NAMED[name].address).suffix}"


def name_of(path: Path) -> str | None:
    """The name of a file that `find_named` gave; None for others."""
    names = (name for name in NAMED if path.name.startswith(name) and path == place_of(name))
    return next(names, None)


def find_named(name: str, *, absent_ok: bool = False) -> Path:
    """A named file on this machine, its content checked; fetched where it is not here yet.

    Args:
        absent_ok: where it cannot be fetched, give the path at which it will be.

    Raises:
        ConfigError: there is none of that name.
        DataError: what is there has other content, or the folder cannot be written.
        ServiceError: it is not here and cannot be fetched; the message says what to put where.
    """
    path, known = place_of(name), NAMED.get(name)
    assert known is not None
    if path.is_file():
        if (found := sha256(path)) != known.sha256:
            raise DataError(
                f"{path}: is not {name}: its sha256 is {found[:12]}…, and that of {known.address} is {known.sha256}; "
                "remove the file, and it is fetched anew"
            )
        return path
    content = _from_hub_cache(known)
    try:
        content = _download(known) if content is None else content
    except (OSError, ValueError) as error:
        if absent_ok:
            return path
        reason = str(error.reason if isinstance(error, URLError) else error) or type(error).__name__
        raise ServiceError(
            f"{name}: cannot be fetched ({reason}). Put {known.address} (sha256 {known.sha256}) at {path}, or set "
            "RADPO_DATA to a folder that has it"
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda partial: partial.write_bytes(content))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); set RADPO_DATA to another folder") from error
    return path


def _from_hub_cache(known: NamedFile) -> bytes | None:
    """The file's content where the Hub's cache (`HF_HOME`) has it."""
    if known.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(*known.hub, repo_type="dataset")
    if not isinstance(found, str):
        return None
    content = Path(found).read_bytes()
    return content if hashlib.sha256(content).hexdigest() == known.sha256 else None


def _download(known: NamedFile) -> bytes:
    """Raises OSError where it cannot be reached, ValueError where it is something else."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise ValueError("HF_HUB_OFFLINE says that there is no network")
    with urlopen(known.address, timeout=TIMEOUT) as answer:
        content: bytes = answer.read(known.size + 1)
    if (found := hashlib.sha256(content).hexdigest()) != known.sha256:
        raise ValueError(f"what is at its address has the sha256 {found[:12]}…")
    return content
