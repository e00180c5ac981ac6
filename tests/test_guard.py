"""Whatever escapes a command is one message with the log's place and exit status 70, never 1, which is a verdict."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import typer
import warm_commands
from factories import write_model

from radpo.cli import guard
from radpo.cli import main as command_line
from radpo.cli.guard import without_secrets


def call(monkeypatch: pytest.MonkeyPatch, command: object, words: tuple[str, ...] = ("go",)) -> int | str | None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("go")(command)  # type: ignore[type-var]
    app.command("other")(lambda: None)
    monkeypatch.setattr(command_line, "app", app)
    monkeypatch.setattr(sys, "argv", ["radpo", *words])
    with pytest.raises(SystemExit) as end:
        guard.main()
    return end.value.code


@pytest.mark.parametrize("error", [ValueError("one\ntwo"), MemoryError(), KeyError("x"), RecursionError(), OSError(5)])
def test_an_error_nobody_foresaw_ends_in_status_70_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setenv("RADPO_CACHE", str(tmp_path))

    def fails() -> None:
        raise error

    assert call(monkeypatch, fails) == 70
    told = capsys.readouterr().err
    (log,) = (tmp_path / "logs").iterdir()
    assert told.startswith(f"radpo: unexpected {type(error).__name__}")
    assert told.strip().endswith(f"its traceback is in {log}")
    assert len(told.strip().splitlines()) == 1
    assert "in fails" in log.read_text()
    assert "radpo go" in log.read_text()


def test_a_verdict_keeps_its_status_and_nothing_else_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def verdict() -> None:
        raise typer.Exit(1)

    def aborted() -> None:
        raise typer.Abort

    def broken_pipe() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    def library() -> None:
        sys.exit(1)

    assert call(monkeypatch, verdict) == 1
    for command in (aborted, broken_pipe, library):
        assert call(monkeypatch, command) == 2, command.__name__
    assert call(monkeypatch, verdict, ("nosuch",)) == 2


def test_where_no_log_can_be_written_the_error_is_still_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RADPO_CACHE", "/proc/nowhere")
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/proc/nowhere")

    def fails() -> None:
        raise ValueError("no luck")

    assert call(monkeypatch, fails) == 70
    assert "unexpected ValueError: no luck; no log of it could be written" in capsys.readouterr().err


def test_secrets_in_the_command_are_not_in_the_log() -> None:
    words = ["eval", "--api-key", "sk-1", "--judge-set", "api_key=sk-2", "--model=m", "--token=sk-3", "file"]
    shown = without_secrets(words)
    assert "sk-" not in " ".join(shown)
    assert shown[-1] == "file"


def test_a_pointer_in_a_matrix_is_one_message_and_status_2(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 99\n")
    pairs = '{"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 9, "score_rejected": 2}\n'
    (tmp_path / "pairs.jsonl").write_text(pairs)
    (tmp_path / "m.yaml").write_text(
        f"name: m\nmodel: {model}\nvariants: {{base: , dpo: }}\n"
        "data: {train: {path: pairs.jsonl}, heldout: {path: pairs.jsonl}}\nbenchmarks: {unlearning: {}}\n"
    )
    for words in (["run", "m.yaml"], ["plan", "m.yaml"], ["train", "pairs.jsonl", "--out", "o", "--model", str(model)]):
        environment = {**os.environ, "RADPO_CACHE": str(tmp_path / "cache")}
        done = warm_commands.run(["-m", "radpo", *words], cwd=tmp_path, env=environment)
        assert done.returncode == 2, done.stderr
        assert "model.safetensors: is a Git LFS pointer" in done.stderr
        assert "Traceback" not in done.stderr
