"""Tokenised pairs, kept in memory for the next checkpoint that this process measures on them.

Checkpoints of one model have one tokenizer and one chat template, so what they are asked is the same tokens. A process
that works on several stages tokenises them once; one checkpoint after another is often another process' on clusters,
where nothing is gained.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Found = TypeVar("Found")
MOST_BYTES = 64 * 2**20
"""Some 15,000 pairs asked with four goals; what comes after them is tokenised each time."""
_KEPT: dict[str, bytes] = {}
_IDENTITIES: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()


def tokenised_once(tokenizer: PreTrainedTokenizerBase, asked: Any, tokenise: Callable[[], Found]) -> Found:
    """What `tokenise` gives, of the last time that it was asked with a like tokenizer.

    Args:
        asked: all that the result depends on besides the tokenizer, as JSON has it.
        tokenise: called where it is not known; the result is pickled.
    """
    identity = _identity(tokenizer)
    if identity is None:
        return tokenise()
    key = hashlib.sha256(json.dumps([identity, asked], sort_keys=True).encode()).hexdigest()
    if key in _KEPT:
        kept: Found = pickle.loads(_KEPT[key])  # noqa: S301 - this process wrote it
        return kept
    found = tokenise()
    content = pickle.dumps(found, pickle.HIGHEST_PROTOCOL)
    if len(content) + sum(map(len, _KEPT.values())) <= MOST_BYTES:
        _KEPT[key] = content
    return found


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
