"""The documentation: it builds without a dead link."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `tox run -e docs` builds it."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    assert not warned
    return folder


def test_the_site_builds_without_a_dead_link_and_asks_no_other_server(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {"index.html", "commands.html", "extending.html"} <= pages.keys()
    own = [text for name, text in pages.items() if not name.startswith("files/reports/")]
    marks = ('<script src="http', '<link rel="stylesheet" href="http', "//fonts.", "unpkg.com", '<img src="http')
    for mark in marks:
        assert not any(mark in text for text in own), mark


def test_the_site_lists_every_command_with_its_options(site: Path) -> None:
    text = (site / "commands.html").read_text(encoding="utf-8")
    for command in ("radpo eval arena-hard", "radpo data score", "radpo analyze power", "radpo regress"):
        assert f"<code>{command}</code>" in text, command
    assert "--executor-set" in text
