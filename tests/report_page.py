"""What the report's tests share: its HTML taken apart, its packed texts inflated, and a browser that watches it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Cell:
    """A table's cell: its table's class, its column's heading, what it says it comes from, and its text."""

    table: str
    column: int
    attributes: dict[str, str | None]
    text: str = ""

    @property
    def rows(self) -> list[tuple[int, int]]:
        """(run directory, row of its results.parquet) that the cell says it comes from."""
        return [(int(run), int(row)) for run, row in re.findall(r"(\d+)/(\d+)", self.attributes.get("data-rows") or "")]


@dataclass
class Page(HTMLParser):
    """What a report's HTML holds: table cells, the addresses it names, its scripts, styles and text."""

    html: str
    cells: list[Cell] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)
    scripts: list[tuple[dict[str, str | None], str]] = field(default_factory=list)
    styled: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._in: list[str] = []
        self._table = ""
        self._column = 0
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._in.append(tag)
        self.addresses += [str(found[key]) for key in ("src", "href", "srcset", "action", "data") if key in found]
        self.handlers += [key for key in found if key.startswith("on")]
        self.styled += [tag] if "style" in found else []
        if tag == "table":
            self._table = str(found.get("class") or "")
        if tag == "tr":
            self._column = -1
        if tag in ("td", "th"):
            self._column += 1
        if tag == "td":
            self.cells.append(Cell(self._table, self._column, found))
        if tag == "script":
            self.scripts.append((found, ""))

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if "script" in self._in:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif "style" not in self._in:
            self.text += data
            if "td" in self._in and self.cells:
                self.cells[-1].text += data

    def running(self) -> list[str]:
        """The scripts that a browser would run."""
        kinds = ("application/json", "text/plain")
        return [text for found, text in self.scripts if found.get("type") not in kinds]

    def packed(self, name: str) -> Any:
        """A packed document by the id of its element."""
        return json.loads(inflated(next(text for found, text in self.scripts if found.get("id") == name)))

    def blocks(self) -> list[Any]:
        """The example browser's blocks of texts."""
        names = [str(found.get("id")) for found, _ in self.scripts]
        return [self.packed(name) for name in names if name.startswith("block-")]

    def figures(self, anchor: str) -> list[dict[str, Any]]:
        """The figures of a section."""
        section = self.html[self.html.index(f'<section id="{anchor}"') :]
        section = section[: section.index("</section>")]
        return [json.loads(text) for text in re.findall(r'class="figure">(.*?)</script>', section, flags=re.DOTALL)]


def inflated(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode("utf-8")


class Watched:
    """A page in a headless browser, with all that went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.trouble: list[str] = []
        page.on("console", lambda m: self.trouble.append(f"console {m.type}: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: self.trouble.append(f"page error: {error}"))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else self.trouble.append(r.url))
        page.on("dialog", lambda dialog: (self.trouble.append("dialog"), dialog.dismiss()))

    def open(self, path: Path, fragment: str = "", *, examples: bool = True, drawn: bool = False) -> Any:
        """Open a report and wait for its examples, or for all of its figures, which a look at each draws."""
        self.page.goto(path.as_uri() + fragment)
        if examples:
            self.page.evaluate("document.getElementById('examples').scrollIntoView()")
            self.page.wait_for_selector("html[data-examples]", state="attached", timeout=60_000)
        if drawn:
            for plot in self.page.locator(".plot").all():
                plot.scroll_into_view_if_needed()
                plot.locator(".main-svg").first.wait_for(state="attached", timeout=60_000)
            self.page.evaluate("scrollTo(0, 0)")
        return self.page


def wait_until(page: Any, expression: str, seconds: float = 60.0) -> None:
    """Wait until an expression holds; playwright's own wait evaluates text in the page, which its policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression} does not hold after {seconds:g} seconds"
        page.wait_for_timeout(50)


def comes_to(page: Any, found: Callable[[], Any], wanted: Any, seconds: float = 60.0) -> None:
    """Wait until what is found is what is wanted: pages answer keys and clicks in their own time."""
    end = time.monotonic() + seconds
    while (last := found()) != wanted:
        assert time.monotonic() < end, f"{last!r} is not {wanted!r} after {seconds:g} seconds"
        page.wait_for_timeout(50)


@contextmanager
def chromium() -> Iterator[Any]:
    """Chromium, or the test is skipped with the reason."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()
