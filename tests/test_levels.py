"""How much a command says on standard error."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from radpo.cli import main as command_line
from radpo.core.console import progress_bar
from radpo.core.say import VARIABLE, shows


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv(VARIABLE, "info")
    app = typer.Typer(cls=command_line.RootGroup)
    app.callback()(command_line._root)

    def go(words: list[str] | None = None) -> None:
        with progress_bar("work") as progress:
            progress(1, 1)
        print(words, [level for level in ("error", "warning", "info", "debug") if shows(level)])  # type: ignore[arg-type]

    app.command("go", context_settings={"allow_extra_args": True})(go)
    app.command("other")(lambda: None)
    return app


@pytest.mark.parametrize(
    ("words", "shown", "progress"),
    [
        (["go"], "['error', 'warning', 'info']", True),
        (["--quiet", "go"], "['error']", False),
        (["go", "--quiet"], "['error']", False),
        (["go", "--log-level", "warning"], "['error', 'warning']", False),
        (["go", "--log-level=debug"], "['error', 'warning', 'info', 'debug']", True),
    ],
)
def test_general_options_stand_anywhere_and_say_how_much_is_printed(
    app: typer.Typer, words: list[str], shown: str, progress: bool
) -> None:
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert shown in done.stdout
    assert ("work: 1/1" in done.stderr) is progress


def test_a_level_that_there_is_not_and_an_unknown_option_have_status_2(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(command_line.app, ["plan", "x.yaml", "--nosuch"]).exit_code == 2
    wrong = runner.invoke(command_line.app, ["schema", "--log-level", "loud"])
    assert "--log-level 'loud': must be one of error, warning, info, debug" in str(wrong.exception)
