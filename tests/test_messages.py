"""No message shows a secret or moves a terminal, wherever it was made."""

from __future__ import annotations

import json
import pickle

import pandas as pd
import pytest
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.cli.options import show, show_table
from radpo.core.errors import ConfigError, DataError, RadpoError, ServiceError
from radpo.core.messages import clean_message, hide_secrets, masked_address
from radpo.core.say import say
from radpo.preferences.sources import shown

KEY = "sk-proj-AbCdEf1234567890abcd"


@pytest.mark.parametrize("kind", [RadpoError, ConfigError, DataError, ServiceError])
def test_every_error_of_the_family_takes_secrets_out_of_its_message(kind, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcd efgh-ijkl")
    error = kind(f"{KEY} at s3://me:hidden@bucket/x?token=hidden&n=1: abcd efgh-ijkl \x1b[2J\u202e")
    assert str(error) == "*** at s3://***@bucket/x?token=***&n=1: *** \\x1b[2J\\u202e"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    "text",
    [
        "data.jsonl, line 3: a question needs turns\n\tand more",
        "no setting 'key_2'; allowed: api_key_env",
        "https://host/v1/models?page=2",
        "s3://bucket/some@place/x",
        "stage 0123456789abcdef0123456789abcdef is missing",
        "sklearn-1.9.1 and hf_hub are installed",
        "Ünïcode “quotes” 🙂",
    ],
)
def test_ordinary_messages_stay_as_they_are(text):
    assert clean_message(text) == text


@pytest.mark.parametrize(
    "given",
    [
        {"api_key_env": KEY},
        {"api_key_env": "AKIAIOSFODNN7EXAMPLE"},
        {"api_key": KEY},
        {"api_key_env": [KEY]},
        {"base_url": f"https://me:{KEY}@host/v1"},
        {"base_url": f"https://host/v1?key={KEY}"},
        {"kind": KEY},
        {"model": {"key": KEY}},
    ],
)
@pytest.mark.parametrize("place", ["judge", "endpoint"])
def test_a_secret_in_a_matrix_where_it_does_not_belong_is_refused_and_neither_shown_nor_written(tmp_path, given, place):
    endpoint = {"model": "m", **given}
    judge = {"kind": "openai", **endpoint} if place == "judge" else "verifier"
    variant = {"answers": "a.jsonl"} if place == "judge" else {"endpoint": endpoint}
    (tmp_path / "a.jsonl").write_text(json.dumps({"question_id": "q", "turns": ["Say it."]}))
    section = {"questions": {"path": "a.jsonl"}, "judge": judge}
    document = {"name": "m", "variants": {"v": variant}, "baseline": "v", "benchmarks": {"mt-bench": section}}
    (tmp_path / "m.yaml").write_text(json.dumps(document))
    secret = "AKIAIOSFODNN7EXAMPLE" if "AKIA" in str(given) else KEY
    for words in (["plan"], ["run"]):
        done = CliRunner().invoke(app, [*words, str(tmp_path / "m.yaml"), "--out", str(tmp_path / "run")])
        assert isinstance(done.exception, ConfigError), done.output
        assert secret not in f"{done.exception}{done.exception!r}{done.output}{done.stderr}"
    assert {path.name for path in tmp_path.rglob("*")} == {"a.jsonl", "m.yaml"}


ODD = "a\x1b[2J\x9b31m\u202eb\r"


def test_what_commands_print_moves_no_terminal_and_json_stays_json(capsys):
    show({"note": ODD, "notes": [ODD], "inner": {ODD: ODD}}, as_json=False)
    show_table(pd.DataFrame({"x": [ODD]}), as_json=False)
    say(ODD)
    document = {"note": ODD, "notes": [ODD, "é\n\t"]}
    text = capsys.readouterr().out
    show(document, as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == document
    assert "é" in printed
    for shown_text in (text, printed):
        assert not any(character in shown_text for character in ODD[1:] if not character.isalnum() and character != "[")


def test_tables_for_spreadsheets_hold_no_formulas_and_numbers_stay_numbers(tmp_path):
    frame = pd.DataFrame(
        {
            "=name": ["=1+1", "+x", "-x", "@x", "\tx", "x=1"],
            "text": ["-1", "+1.5e3", "-", None, "a", "'"],
            "n": [-1.5, 2, 3, 4, 5, 6],
        }
    )
    show_table(frame, as_json=False, out=tmp_path / "t.csv")
    found = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert list(found.columns) == ["'=name", "text", "n"]
    assert list(found["'=name"]) == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", "x=1"]
    assert list(found["text"]) == ["-1", "+1.5e3", "'-", "", "a", "'"]
    assert list(found["n"]) == [-1.5, 2, 3, 4, 5, 6]


def test_values_of_ordinary_variables_are_no_secrets(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "certainly-not-a-secret")
    monkeypatch.setenv("A_KEY", "EMPTY")
    assert hide_secrets("certainly-not-a-secret EMPTY") == "certainly-not-a-secret EMPTY"


@pytest.mark.parametrize("secret", ["user:pw@", "token@", ""])
def test_addresses_are_masked_alike_in_data_messages(secret):
    for place in (masked_address, shown):
        assert place(f"s3://{secret}bucket/x.jsonl?sig=abc#frag") == "s3://bucket/x.jsonl"
    assert masked_address("https://[broken") == "https://***"
    assert masked_address("some/path?x") == "some/path?x"


@pytest.mark.parametrize(
    "words",
    [
        ["--judge-set", KEY],
        ["--judge-set", f"api_key_env={KEY}"],
        ["--judge-set", f"api_key={KEY}"],
        ["--judge-set", f"base_url=https://u:{KEY}@h/v1"],
        ["--judge-set", f"price_in={KEY}"],
        ["--judge-set", f"{KEY}=1"],
        ["--judge", KEY],
        ["--endpoint", KEY],
        ["--endpoint", "model=m", "--endpoint", f"api_key_env={KEY}"],
        ["--endpoint", "model=m", "--endpoint", f"{KEY}=1"],
    ],
)
def test_a_key_on_the_command_line_where_it_does_not_belong_is_not_printed_or_written(tmp_path, words):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question_id": 1, "turns": ["Q"]}\n')
    command = ["eval", "mt-bench", "--out", str(tmp_path / "o"), "--questions", str(questions), *words]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ConfigError)
    assert KEY not in str(done.exception) + done.output
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_a_key_in_a_matrix_file_is_refused_without_being_printed(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "turns": ["Q"]}\n')
    (tmp_path / "p.jsonl").write_text("")
    for judge in (f"api_key_env: {KEY}", f"api_key: {KEY}", f"base_url: 'https://u:{KEY}@h/v1'", f"{KEY}: 1"):
        matrix = tmp_path / "m.yaml"
        matrix.write_text(
            "name: x\nmodel: smollm2-135m-instruct\nvariants: {base: null}\ndata: {train: {path: p.jsonl}, heldout: "
            "{path: p.jsonl}}\nbenchmarks:\n  mt-bench:\n    questions: {path: q.jsonl}\n    judge: "
            f"{{kind: openai, model: m, {judge}}}\n"
        )
        done = CliRunner().invoke(app, ["run", str(matrix), "--out", str(tmp_path / "out")])
        assert isinstance(done.exception, ConfigError)
        assert "judge openai" in str(done.exception)
        assert KEY not in str(done.exception) + done.output
        assert not (tmp_path / "out").exists()
