"""Tokenised pairs, kept in memory for the next checkpoint that this process measures on them.

Checkpoints of one model have one tokenizer and one chat template, so what they are asked is the same tokens. A process
that works on several stages tokenises them once; one checkpoint after another is often another process' on clusters,
where nothing is gained.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable
from dataclasses import astuple
from itertools import chain, islice
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from radpo.models.likelihood import TokenizedPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_BYTES = 64 * 2**20
"""Some 15,000 pairs asked with four goals; what comes after them is tokenised each time."""
_KEPT: dict[str, tuple[array[int], array[int]]] = {}
"""By what was asked: the lengths of all prompts and responses, and their tokens one after the other."""
_IDENTITIES: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()


def tokenised_once(
    tokenizer: PreTrainedTokenizerBase, asked: Any, tokenise: Callable[[], list[TokenizedPair]]
) -> list[TokenizedPair]:
    """What `tokenise` gives, of the last time that it was asked with a like tokenizer.

    Args:
        asked: all that the result depends on besides the tokenizer, as JSON has it.
        tokenise: called where it is not known.
    """
    identity = _identity(tokenizer)
    if identity is None:
        return tokenise()
    key = hashlib.sha256(json.dumps([identity, asked], sort_keys=True).encode()).hexdigest()
    packed = _KEPT.get(key)
    if packed is None:
        packed = _packed(tokenise())
        if sum(_size(*one) for one in (packed, *_KEPT.values())) <= MOST_BYTES:
            _KEPT[key] = packed
    return _unpacked(*packed)


def _packed(pairs: list[TokenizedPair]) -> tuple[array[int], array[int]]:
    parts = [part for pair in pairs for part in astuple(pair)]
    return array("l", map(len, parts)), array("l", chain.from_iterable(parts))


def _unpacked(lengths: array[int], tokens: array[int]) -> list[TokenizedPair]:
    """The pairs; parts that are alike, as a response is whatever goal is asked for, are held once."""
    left, like = iter(tokens), dict[tuple[int, ...], tuple[int, ...]]()
    parts = (tuple(islice(left, length)) for length in lengths)
    once = (like.setdefault(part, part) for part in parts)
    return [TokenizedPair(*three) for three in zip(once, once, once, strict=True)]


def _size(lengths: array[int], tokens: array[int]) -> int:
    return lengths.itemsize * (len(lengths) + len(tokens))


def _identity(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What tokenizers have in common that give the same tokens; None where that is not known of one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    template = tokenizer.chat_template
    known = _IDENTITIES.get(tokenizer)
    if known is None or known[0] != template:
        parts = [type(tokenizer).__name__, backend.to_str(), template, tokenizer.special_tokens_map]
        content = json.dumps(parts, sort_keys=True, default=str).encode()
        known = _IDENTITIES[tokenizer] = (template, hashlib.sha256(content).hexdigest())
    return known[1]
