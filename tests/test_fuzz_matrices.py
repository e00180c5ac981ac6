"""Whatever a matrix file says, reading it gives a matrix or a message: no other exception, and no hang.

RADPO_FUZZ_EXAMPLES sets how many files are tried (20000 for the long run).
"""

from __future__ import annotations

import copy
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories import write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radpo.core.errors import ConfigError, RadpoError
from radpo.core.yaml_text import MAX_NODES
from radpo.matrix.expand import expand
from radpo.matrix.loading import check_matrix, load_matrix

EXAMPLES = int(os.environ.get("RADPO_FUZZ_EXAMPLES", "150"))
SECONDS = 2
"""Of this process's own time: what else the machine does is not counted."""

TEXT = """\
name: small
model: model
seeds: [0, 1]
variants:
  base:
  dpo: {training: {beta: 0.1}}
  ra-dpo:
    training:
      beta: [0.01, 0.1]
  ra-hot:
    extends: ra-dpo
    training: {learning_rate: 1.0e-4, lora: {r: 4}}
  given: {checkpoint: model, goal: 7}
data:
  train: {path: pairs.jsonl}
  heldout: {path: pairs.jsonl, limit: 2}
  scale: [1, 10]
training: {batch_size: 4, per_device_train_batch_size: 2}
include:
- {variant: '*'}
exclude:
- {variant: 'ra-*', seed: 1}
resources: {train: {cpus: 2}}
benchmarks:
  unlearning: {}
  alpaca-eval: {questions: {path: pairs.jsonl}, judge: {kind: verifier}}
  mt-bench: {questions: {path: pairs.jsonl}, judge: {kind: openai, model: m, base_url: http://127.0.0.1:1/v1}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("matrices")
    write_model(found / "model")
    (found / "pairs.jsonl").write_text("{}\n")
    return found


def written(folder: Path, text: str) -> Path:
    path = folder / "matrix.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


def text_of(folder: Path) -> str:
    return TEXT.replace("model: model", f"model: {folder / 'model'}").replace("t: model", f"t: {folder / 'model'}")


def outcome(read: Callable[[], Any]) -> str:
    """`read`, or what a person is told."""
    start = time.process_time()
    try:
        expand(read(), planning=True)
        told = "read"
    except RadpoError as error:
        told = str(error)
    assert time.process_time() - start < SECONDS
    assert told
    assert len(told) < 20_000
    return told


name = st.sampled_from(["1", "yes", "~", "dpo", "ra-dpo", "a/b", "..", "", " ", "\u202e", "variants", "x" * 300, "é"])
scalar = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.floats()
    | name
    | st.text(max_size=5)
    | st.sampled_from([2**31, 2**32, 2**63, 10**30, 1e308, 1e-320, "\x00", "\ud800", "~x", "/", "x" * 5000, "[", "{}"])
)
value = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(name | st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def locations(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, below in items:
        yield (*at, key)
        yield from locations(below, (*at, key))


def changed(document: Any, place: int, how: str, key: str, new: Any) -> Any:
    """The document with one thing replaced, left out, added or renamed."""
    document = copy.deepcopy(document)
    there = list(locations(document))
    if not there:
        return document
    *folders, last = there[place % len(there)]
    section = document
    for part in folders:
        section = section[part]
    if how == "leave out":
        del section[last]
    elif how == "replace":
        section[last] = new
    elif isinstance(section, list):
        section.append(new)
    else:
        section[key] = section.pop(last) if how == "rename" else new
    return document


change = st.tuples(st.integers(0, 200), st.sampled_from(["replace", "leave out", "add", "rename"]), name, value)
SNIPPETS = [
    ".inf", ".nan", "-.inf", "1e999", "9" * 5000, "0x" + "f" * 50, "1:1:1", "2024-01-02", "2024-99-99", "yes", "~", "1",
    "? [a]\n: 1\n", "? {a: 1}\n: 1\n", "!!set {a}", "!!int x", "!!float x", "!!timestamp x", "!!python/name:os.system",
    "!!binary x", "!x y", "&a [*a]", "*a", "&a 1", "<<: *a", "<<: 1", "<<: [1]", "[" * 3000, "{" * 500, "- " * 200,
    "|", ">", "'", '"', "\t", "\x00", "\ufeff", "---", "...", "%YAML 9.9", "#", ":", ": ", "\n", "\n  ", "x" * 5000,
    "extends: matrix.yaml\n", "extends: /\n", '"\\ud800"', '"\\0"', "=", "max_cells: 1\n", "models: [a, b]\n",
]  # fmt: skip
edit = st.tuples(st.integers(0, 2000), st.integers(0, 40), st.sampled_from(["", *SNIPPETS]) | st.text(max_size=4))


@given(changes=st.lists(change, min_size=1, max_size=4))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_document_is_read_or_refused_in_a_message(folder: Path, changes: list[Any]) -> None:
    document = yaml.safe_load(text_of(folder))
    for one in changes:
        document = changed(document, *one)
    outcome(lambda: load_matrix(written(folder, yaml.safe_dump(document, sort_keys=False)), planning=True))
    outcome(lambda: check_matrix(document))


@given(edits=st.lists(edit, min_size=1, max_size=4))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_is_read_or_refused_in_a_message(folder: Path, edits: list[tuple[int, int, str]]) -> None:
    text = text_of(folder)
    for start, length, new in edits:
        text = text[: start % len(text)] + new + text[start % len(text) + length :] if text else new
    outcome(lambda: load_matrix(written(folder, text), planning=True))


NO_NAMES = [
    "x" * 300, "x" * 5000, "é" * 300, "a/" * 3000, "a\0b", "\ud800", "~" * 300, "http://[", f"hub:{'x' * 5000}:a",
    "{seed}" * 500, "*" * 500, f"{'x' * 300}.yaml", f"{'x' * 300}.gguf", 10**4000, {"x" * 5000: "é" * 5000},
]  # fmt: skip
"""What no file can be called, and what fills a screen."""


def test_what_no_file_can_be_called_is_one_message_wherever_a_matrix_says_it(folder: Path) -> None:
    document = yaml.safe_load(text_of(folder))
    document["benchmarks"]["academic"] = {"tasks": ["arc_easy@5", "t.yaml"], "include": "tasks"}
    (folder / "tasks").mkdir()
    (folder / "t.yaml").write_text("task: t\n")
    load_matrix(written(folder, yaml.safe_dump(document, sort_keys=False)), planning=True)
    for place, new in itertools.product(range(len(list(locations(document)))), NO_NAMES):
        text = yaml.safe_dump(changed(document, place, "replace", "", new), sort_keys=False)
        told = outcome(lambda text=text: load_matrix(written(folder, text), planning=True))  # type: ignore[misc]
        assert max(map(len, told.split())) < 1500


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 'x'}]\n" for n in range(12))
MERGED = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10) if n else '{x: 1}'}]}}\n" for n in range(12))
RATES = ", ".join(f"0.{n}" for n in range(1, 200))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  dpo:", "  1:", r"6: 1: YAML reads this key as a number; put it in quotes: \"1\""),
        ("  dpo:", "  yes:", r"6: yes: YAML reads this key as true or false; put it in quotes"),
        ("  dpo:", "  ~:", r"6: ~: YAML reads this key as nothing; put it in quotes"),
        ("  dpo:", "  2024-01-02:", r"6: 2024-01-02: YAML reads this key as a date; put it in quotes"),
        ("name: small", "name: 2024-01-02", r"1: name: .*put it in quotes"),
        ("name: small", "name: 2024-02-31", r"1: 2024-02-31: cannot be read as a date; put it in quotes"),
        ("beta: 0.1", "beta: .inf", r"6: variants.dpo.training.beta: inf: must be a finite number"),
        ("beta: 0.1", "beta: .nan", r"6: variants.dpo.training.beta: nan: must be a finite number"),
        ("scale: [1, 10]", "scale: [1, .inf]", r"17: data.scale.1: inf: must be a finite number"),
        ("seeds: [0, 1]", "? [a]\n: 1", r"3: a key must be a text, and here is a list or a mapping"),
        ("seeds: [0, 1]", f"seeds: [{'9' * 5000}]", r"3: 9{20}...: a number of 5000 characters"),
        ("seeds: [0, 1]", f"seeds: [{2**64}]", r"3: seeds.0: must be a whole number below 2\^63"),
        ("seeds: [0, 1]", f"seeds: [{2**32}]", r"3: seeds.0: 4294967296: Input should be less than 4294967296"),
        ("seeds: [0, 1]", f"seeds: {'[' * 3000}{']' * 3000}", r"3: more than 100 brackets or levels are open"),
        ("seeds: [0, 1]", f"seeds: {'[' * 10**6}", r"3: more than 100 brackets or levels are open"),
        ("pairs.jsonl", "x" * 5000, r"15: data.train.path: 'xxx.*\.\.\. does not exist"),
        ("seeds: [0, 1]", "extends: " + "x" * 5000, r"xxx\.\.\.: no such file"),
        ("name: small", BOMB + "name: small", r"6: its aliases stand for more than \d+ values"),
        ("name: small", MERGED + "name: small", r"6: its aliases stand for more than \d+ values"),
        ("name: small", "x: &x [*x]", r"1: a value with an alias of itself in it"),
        ("beta: 0.1", f"beta: [{RATES}], learning_rate: [{RATES}]", r"6: variants.dpo: with it the matrix has 39,602"),
        ("seeds: [0, 1]", f"seeds: [{', '.join(map(str, range(10001)))}]", r"3: seeds: 10,001 cells of each variant"),
        ("seeds: [0, 1]", f"seeds: [{'1, ' * MAX_NODES}]", rf"3: more than {MAX_NODES} values"),
        ("name: small", "name: 'sm\\0all'".replace("'", '"'), r"1: name: 'sm\\x00all': a text with characters that no"),
    ],
)  # fmt: skip
def test_what_no_matrix_means_is_one_message_at_once(folder: Path, old: str, new: str, told: str) -> None:
    assert old in TEXT
    path = written(folder, text_of(folder).replace(old, new, 1))
    message = outcome(lambda: load_matrix(path))
    assert re.search(rf"(matrix\.yaml:)?{told}", message), message
    assert len(message.splitlines()) <= 2, "of two files that are not there"


def test_a_matrix_may_allow_more_cells_and_a_variant_called_1_in_quotes_is_one(folder: Path) -> None:
    text = text_of(folder).replace("beta: 0.1}", f"beta: [{RATES}], learning_rate: [{RATES}]}}")
    allowed = text.replace("  dpo:", '  "1": {method: dpo}\n  dpo:') + "max_cells: 90000\n"
    assert outcome(lambda: load_matrix(written(folder, allowed.replace(RATES, "0.1, 0.2")))) == "read"
    with pytest.raises(ConfigError, match=r"with it the matrix has 39,6.* more than the 10000 cells"):
        load_matrix(written(folder, text))


def test_what_a_message_lists_ends_somewhere(folder: Path) -> None:
    text = text_of(folder) + "".join(f"key{n}: 1\n" for n in range(2000))
    told = outcome(lambda: load_matrix(written(folder, text))).splitlines()
    assert len(told) == 21
    assert told[-1] == "and more"
