"""Every command line of README and docs: run in a folder with tiny inputs where that is cheap, else parsed.

Run: what reads the documented files (pairs.jsonl, heldout.jsonl, mine.yaml) or the committed reports. Only parsed, by
the command line itself, so that options and arguments exist and required ones are there: what needs a network, money, a
GPU, a cluster or minutes of computing, and what names files of the reader's own.
"""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from cheap_stages import InlinePool
from factories import write_model
from typer.testing import CliRunner

from radpo.cli.main import app
from radpo.engine import local

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CHEAP = (
    "data validate", "data stats", "data clean", "data relabel", "plan mine.yaml", "run mine.yaml", "schema", "doctor",
    "store list", "store gc", "store verify", "report", "regress", "analyze compare", "analyze power", "init",
)  # fmt: skip
WRITTEN = {"--out", "--html", "--junit", "--markdown"}
"""Options whose value a command makes."""


def command_lines(text: str) -> Iterator[str]:
    """The lines of radpo commands in a page's blocks of code, continued lines joined."""
    fenced = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    blocks = [found[2] for found in fenced if found[1] in ("", "bash", "console", "sh")]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    blocks += [found[0] for found in re.finditer(r"(?:^    .*\n)+", outside, re.M)]
    for block in blocks:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if (line := line.strip().removeprefix("$ ")).startswith("radpo "):
                yield line


def words_of(line: str) -> list[str]:
    """A command's words after `radpo`, without comments and what a shell does with its output."""
    words = shlex.split(line, comments=True)[1:]
    ends = [words.index(sign) for sign in ("|", ">", "&&", "||", "&") if sign in words]
    return words[: min(ends, default=len(words))]


def parse(words: list[str]) -> None:
    """Raise what the command line raises on these words, without doing anything."""
    command: Any = typer.main.get_command(app)
    name, context = "radpo", None
    while True:
        context = command.make_context(name, list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader's: pairs, the README's matrix file on a tiny model, and the committed reports."""
    folder = tmp_path_factory.mktemp("reader")
    for name, source in (("pairs.jsonl", "train_pairs.jsonl"), ("heldout.jsonl", "heldout_pairs.jsonl")):
        lines = (ROOT / "benchmarks" / "data" / source).read_text(encoding="utf-8").splitlines()[:4]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_model(folder / "model", texts=(folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines())
    (block,) = re.findall(r"```yaml\n(name: mine\n.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    matrix = yaml.safe_load(block)
    assert list(matrix["benchmarks"]) == ["unlearning", "alpaca-eval"]
    del matrix["benchmarks"]["alpaca-eval"]  # its judge costs money
    small = {"batch_size": 4, "per_device_train_batch_size": 2, "max_length": 512}
    matrix |= {"model": "model", "seeds": [0], "training": matrix["training"] | small}
    (folder / "mine.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False), encoding="utf-8")
    for name in ("reports/quickstart", "reports/baselines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.html", "*.jpg"))
    return folder


def is_cheap(words: list[str], folder: Path) -> bool:
    """Whether a command is run: it is of a cheap kind, and what it reads is there."""
    if not any(words[: len(kind.split())] == kind.split() for kind in CHEAP):
        return False
    if "=" in dict(pairwise(words)).get("--against", ""):
        return False  # it names a variant of the reader's own
    read = [word for before, word in zip(["", *words], words, strict=False) if before not in WRITTEN]
    named = [word for word in read if not word.startswith("-") and ("/" in word or "." in word or word.isupper())]
    return all((folder / word).exists() or re.fullmatch(r"[\d.]+", word) for word in named) and "..." not in words


def test_every_command_line_of_the_docs_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RADPO_CACHE", str(folder / "cache"))
    monkeypatch.delenv("RADPO_STORE", raising=False)
    # Stages are computed in this process: one that loads torch anew would take longer than all of them.
    inline = replace(local.EXECUTOR, make=lambda store, jobs, settings: InlinePool(store))
    monkeypatch.setattr(local, "EXECUTOR", inline)
    ran, parsed, wrong = [], [], []
    seen: set[str] = set()
    for page in PAGES:
        for line in command_lines(page.read_text(encoding="utf-8")):
            words = words_of(line)
            if (said := shlex.join(words)) in seen:
                continue
            seen.add(said)
            if is_cheap(words, folder):
                start = time.monotonic()
                done = CliRunner().invoke(app, words)
                print(f"{time.monotonic() - start:6.1f} s  {said}")
                if done.exit_code != 0 and not isinstance(done.exception, SystemExit | type(None)):
                    wrong.append(f"{page.name}: {line}\n    {done.exception!r}"[:600])
                elif done.exit_code != 0 and (words[0], done.exit_code) != ("regress", 4):
                    wrong.append(f"{page.name}: {line}\n    exit status {done.exit_code}: {done.output[-400:]}")
                ran.append(said)
                continue
            try:
                parse(words)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the command line says of it
                wrong.append(f"{page.name}: {line}\n    {error!r} {getattr(error, 'message', '')}")
            parsed.append(said)
    assert not wrong, "\n".join(wrong)
    print(f"run: {len(ran)}\n  " + "\n  ".join(ran) + f"\nonly parsed: {len(parsed)}\n  " + "\n  ".join(parsed))
    assert len(ran) >= 18
    assert (folder / "runs" / "mine" / "report.html").is_file(), "the README's run"


@pytest.mark.parametrize(
    "words",
    [["run"], ["run", "m.yaml", "--no-such-option"], ["eval", "no-such-benchmark"], ["analyze", "power"]],
)
def test_a_command_that_does_not_exist_is_found(words: list[str]) -> None:
    from typer._click.exceptions import UsageError

    with pytest.raises(UsageError):
        parse(words)
