"""Whatever a file holds, loading it gives checked pairs or a message: no other exception, and no hang.

RADPO_FUZZ_EXAMPLES sets how many inputs are tried (10000 for the long run).
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radpo.core.errors import RadpoError
from radpo.preferences.pairing import RULES
from radpo.preferences.preferences import PreferenceReader, Reading
from radpo.preferences.prompts import load_prompts
from radpo.preferences.rows import FALSE_TENS

EXAMPLES = int(os.environ.get("RADPO_FUZZ_EXAMPLES", "250"))
SECONDS = 20
"""No input here is longer than some kilobytes; what takes so long hangs."""

written_turns = st.sampled_from(
    [
        "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc",
        "\n\nHuman: a\n\nAssistant: b",
        "Human:",
        "User: a\nAssistant:",
    ]
)
text = (
    st.text(max_size=6)
    | written_turns
    | st.sampled_from(["", " ", "\ud800", "\x00", "\x1f", "\ufeff", "N/A", "4", "1e999", "💥", "a,b\n"])
)
number = st.integers(-3, 12) | st.floats() | st.sampled_from([10**400, 7.5, 8, 3, -0.0])
message = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "x"]), "content": text})
anything = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
conversation = st.lists(message, max_size=4)
scores = st.sampled_from([1, 2.5, 7, 8, 10])
rating = st.fixed_dictionaries({"Rating": st.sampled_from(["1", "5", "N/A", "", "x"]) | anything})
completion = st.fixed_dictionaries(
    {"response": text},
    optional={
        "overall_score": scores | anything,
        "annotations": st.dictionaries(st.sampled_from(["honesty", "helpfulness"]), rating) | anything,
        "score": scores,
    },
)
pair = st.fixed_dictionaries(
    {"chosen": text | conversation, "rejected": text | conversation, "score_chosen": scores, "score_rejected": scores},
    optional={
        "prompt": text | conversation,
        "id": text | number,
        "attributes_chosen": st.dictionaries(st.sampled_from(["a", "b"]), number | st.none()),
        "attributes_rejected": st.dictionaries(st.sampled_from(["a", "b"]), number | st.none()),
        **{f"{who}_logp_{side}": number for who in ("policy", "reference") for side in ("chosen", "rejected")},
    },
)
group = st.fixed_dictionaries(
    {"completions": st.lists(completion, max_size=4)}, optional={"instruction": text, "prompt": text}
)
single = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["p", "q"]), "response": text},
    optional={"helpfulness": number, "score": scores, "attributes": st.dictionaries(text, number, max_size=2)},
)
names = st.sampled_from(
    ["id", "prompt", "chosen", "rejected", "score_chosen", "score_rejected", "completions", "response"]
)
wild = st.dictionaries(names | text, anything, max_size=6)
row = st.one_of(pair, group, single, wild)
rows = (
    st.lists(row, max_size=6) | st.lists(pair, max_size=6) | st.lists(group, max_size=3) | st.lists(single, max_size=6)
)
line = row.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20) | st.just(b"[" * 5000)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes as they are, cut short, or with some of them changed."""
    how = draw(st.sampled_from(["whole", "whole", "cut", "changed"]))
    if how == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if how == "changed" and data:
        for _ in range(draw(st.integers(1, 4))):
            place = draw(st.integers(0, len(data) - 1))
            data = data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :]
    return data


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file's ending and its bytes."""
    ending = draw(st.sampled_from([".jsonl", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet", ".parquet", ""]))
    if ending.startswith(".jsonl"):
        given_rows = draw(rows)
        lines = [json.dumps(value).encode() for value in given_rows] + draw(st.lists(line, max_size=2))
        data = b"\n".join(draw(st.permutations(lines)))
    elif ending.startswith(".csv"):
        columns = draw(st.lists(names, max_size=6))
        stream = io.StringIO()
        csv.writer(stream).writerows([columns, *draw(st.lists(st.lists(text, max_size=6), max_size=4))])
        data = stream.getvalue().encode("utf-8", "surrogatepass")
    else:
        data = _parquet(draw(rows))
    if ending.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    return ending, draw(damaged(data))


def _parquet(values: list[dict[str, Any]]) -> bytes:
    """The rows as Parquet, or those of them that have one type together."""
    for count in range(len(values), 0, -1):
        try:
            stream = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(values[:count]), stream)
            return stream.getvalue()
        except (pa.ArrowException, ValueError, OverflowError, TypeError, UnicodeError):
            continue
    return b""


readings = st.builds(
    Reading,
    on_error=st.sampled_from(["raise", "skip"]),
    swap=st.booleans(),
    lenient=st.booleans(),
    pairing=st.sampled_from(RULES),
    false_tens=st.sampled_from(FALSE_TENS),
    columns=st.dictionaries(names, names, max_size=1),
)


@settings(max_examples=EXAMPLES, deadline=SECONDS * 1000, suppress_health_check=list(HealthCheck))
@given(files(), readings)
def test_no_input_gets_past_the_checks_or_fails_without_a_message(file: tuple[str, bytes], reading: Reading) -> None:
    ending, data = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"fuzz{ending}"
        path.write_bytes(data)
        with contextlib.suppress(RadpoError):
            load_prompts(path)
        reader = PreferenceReader(path, reading)
        try:
            table = pa.Table.from_batches(list(reader), schema=reader.schema)
            table.validate(full=True)
            _check(table.to_pylist(), reader, reading)
            told = ""
        except RadpoError as error:
            told = str(error)
        told.encode()  # can be printed
        assert told == "" or told.startswith(str(path)), "a message names the file"
        assert path.read_bytes() == data, "the input is never changed"


def _check(pairs: list[dict[str, Any]], reader: PreferenceReader, reading: Reading) -> None:
    """What every pair that was let through is."""
    assert len({pair["id"] for pair in pairs}) == len(pairs)
    if reading.on_error == "skip" and not pairs:
        assert reader.rows_read == 0 or reader.dropped, "what is left out is counted"
    for pair in pairs:
        assert 1 <= pair["score_chosen"] <= 10
        assert 1 <= pair["score_rejected"] <= 10
        assert pair["prompt"][-1]["role"] == "user"
        if not reading.lenient:
            assert pair["score_chosen"] >= pair["score_rejected"]
            assert pair["chosen"] != pair["rejected"]
            assert all(pair[side].strip() for side in ("chosen", "rejected"))
