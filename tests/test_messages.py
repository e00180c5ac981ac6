"""No message shows a secret or moves a terminal, wherever it was made."""

from __future__ import annotations

import pickle

import pytest
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.core.errors import ConfigError, DataError, RadpoError, ServiceError
from radpo.core.messages import clean_message, hide_secrets, masked_address
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
