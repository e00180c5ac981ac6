"""What the site has beyond its pages: the README as home page, the repository's files, references, equations.

Pages link to each other and to files of the repository by relative paths, so that they can also be read in the
repository. What they link to outside docs/ becomes part of the site, under files/; a dead link fails the build.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\(|(?:src|href)=\")(?![a-z]+:|#|/)([^)\s\"#]+)")
MATH = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"<!-- generated: (\w+) -->")
_sources: dict[str, str] = {}
"""The address in the site's sources of each page whose links are rewritten, and where it is in the repository."""


def on_config(config: Any) -> Any:
    """Let the hooks import their neighbour."""
    if (folder := str(Path(__file__).parent)) not in sys.path:
        sys.path.insert(0, folder)
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the README as the home page, and every file of the repository that a page links to."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    _sources.clear()
    _sources.update({file.src_uri: f"docs/{file.src_uri}" for file in files.documentation_pages()})
    _sources["index.md"] = "README.md"
    waiting = list(_sources.values())
    while waiting:
        page = waiting.pop()
        for target in _linked(page):
            address = _address(target)
            if files.get_file_from_path(address) is not None or not (ROOT / target).exists():
                continue
            if (ROOT / target).is_dir():
                listing = _listing(ROOT / target)
                files.append(File.generated(config, address, content=listing))
                continue
            files.append(File.generated(config, address, abs_src_path=str(ROOT / target)))
            if target.endswith(".md"):
                _sources[address] = target
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: Any, files: Files) -> str:
    """Point links at the site's own files, and put generated parts in place."""
    import reference

    uri = page.file.src_uri
    source = _sources.get(uri)
    if source is not None:

        def moved(match: re.Match[str]) -> str:
            address = _address(_target(source, match[2]))
            return match[1] + relpath(address, str(PurePosixPath(uri).parent))

        markdown = LINK.sub(moved, markdown)
    # MathML, which browsers show without a script; the repository's own viewer shows the fenced blocks as they are.
    markdown = MATH.sub(lambda match: f"<div>{convert(match[1], display='block')}</div>", markdown)
    return GENERATED.sub(lambda match: getattr(reference, match[1])(), markdown)


def _linked(page: str) -> list[str]:
    """What a page links to, as paths from the repository's root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return list(dict.fromkeys(_target(page, match[2]) for match in LINK.finditer(text)))


def _target(page: str, link: str) -> str:
    """A relative link's target, as a path from the repository's root; of a folder with a README, the README."""
    path = normpath(str(PurePosixPath(page).parent / link))
    return f"{path}/README.md" if (ROOT / path / "README.md").is_file() else path


def _address(target: str) -> str:
    """Where a file of the repository is among the site's sources."""
    if target == "README.md":
        return "index.md"
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"files/{target}/index.md" if (ROOT / target).is_dir() else f"files/{target}"


def _listing(folder: Path) -> str:
    """A page that names a folder's files."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return f"# {folder.relative_to(ROOT)}\n\nA folder of the repository:\n\n" + "".join(
        f"- `{name}`\n" for name in names
    )
