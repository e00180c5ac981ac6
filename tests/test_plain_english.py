"""What users read and call has none of the words that plainer ones replaced."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_factory import ALL, write_run

from radpo.core.run import load_run
from radpo.report.build import render

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "radpo").rglob("*.py"))
WORDS = re.compile(
    r"""\b(
        mend(s|ed|ing)? | (un)?seal(s|ed|ing)? | hurts? | upkeep | take_part | run_on_several | written\ tokens
        | write\ steps | processors? | stated: | why_not | told | spoken | turned\ back | picked | sank | lies
        | (not\ )?to\ be\ had | could\ not\ be\ had | goes\ on | lest | chance\ begins\ with
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)
"""In texts; fix, checksums, corrupt, garbage, generated tokens, CPU, size_hints, unavailable, resumes stand instead."""
NAMES = {
    "mend", "mended", "seal", "sealed", "hurt", "upkeep", "waste", "take_part", "run_on_several", "alone", "several",
    "perform", "why_not", "told", "spoken", "look", "picked", "apart", "drawing", "answering", "processor",
    "written_tokens", "write_steps", "sank",
}  # fmt: skip
"""As names; single, distributed, execute, table row, variant style, sampling, generation stand instead."""


def strings(tree: ast.Module) -> Iterator[str]:
    """Texts in the code that are not documentation: help, messages, notes, captions, labels."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def public_names(tree: ast.Module) -> Iterator[str]:
    """Public functions, classes, methods and their parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name.lower()
            if isinstance(node, ast.FunctionDef):
                yield from (each.arg for each in (*node.args.args, *node.args.kwonlyargs))


@pytest.mark.parametrize("text", ["the stage is sealed", "It is not to be had.", "on a processor", "mended", "is told"])
def test_a_replaced_word_is_found(text: str) -> None:
    assert WORDS.search(text)


def test_no_text_of_the_code_has_a_replaced_word() -> None:
    found = []
    for path in PACKAGE:
        for text in strings(ast.parse(path.read_text(encoding="utf-8"))):
            # A single word is a key: old files and transformers' own names have some of them.
            if " " in text and (word := WORDS.search(text)):
                found.append(f"{path.relative_to(ROOT)}: {word[0]!r} in {text[:100]!r}")
    assert not found, "\n".join(found)


def test_no_public_name_is_a_replaced_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in PACKAGE
        for name in public_names(ast.parse(path.read_text(encoding="utf-8")))
        if name in NAMES
    ]
    assert not found, "\n".join(found)


def test_no_page_has_a_replaced_word() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    found = {page.name: word[0] for page in pages if (word := WORDS.search(page.read_text(encoding="utf-8")))}
    assert not found


def test_help_and_report_have_no_replaced_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    import reference

    page = re.sub(r"<(script|style).*?</\1>", "", render(load_run(write_run(tmp_path / "run", only=ALL))), flags=re.S)
    for name, text in (("commands", reference.commands()), ("matrix", reference.matrix()), ("report", page)):
        words = {found[0] for found in WORDS.finditer(re.sub(r"<[^>]+>", " ", text))}
        assert not words, (name, words)
    sys.modules.pop("reference")
