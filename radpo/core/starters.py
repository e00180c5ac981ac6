"""What `radpo init` writes: matrix files with what they read, and packages to begin one's own with.

All of it is the repository's own benchmarks/ and examples/. A wheel has them as `radpo/bundled` (pyproject.toml maps
the folders), a source tree beside the package.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from radpo.core.errors import ConfigError
from radpo.core.files import replace_file
from radpo.core.plugins import is_own, package_of, plugin_entries
from radpo.core.suggestions import did_you_mean

PLUGIN_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
PACKAGES = {"variant": "variants", "benchmark": "benchmarks", "judge": "judges", "executor": "executors"}
"""The examples, and the entry point group of each after `radpo.`."""
PARTS = {
    "quickstart": ("quickstart.yaml", "data/*.jsonl", "data/README.md", "tasks/*.yaml", "tasks/*.jsonl"),
    "gate": ("gate.yaml", "gate/*.gz", "gate/model/*"),
    "accelerate": ("accelerate/*.yaml",),
}
"""The files of each starter that is copied as it is, as patterns below benchmarks/."""
RECIPES = ("paper", "judges")
"""The folders of recipes, each of which is a starter; all of them extend what is in paper/."""
RECIPE = ("paper/README.md", "paper/make_data.py")
"""What every recipe comes with, beside the files that it names."""


@dataclass(frozen=True)
class Starter:
    """What a starter writes: content by path below the folder, and what to type then."""

    files: dict[Path, bytes]
    then: tuple[str, ...]


def bundled(name: str) -> Path:
    """The folder `benchmarks` or `examples` of the repository, as this installation has it."""
    package = Path(__file__).parents[1]
    carried = package / "bundled" / name
    return carried if carried.is_dir() else package.parent / name


def starters() -> list[str]:
    """The names that `radpo init` takes."""
    return list(_makers())


def starter(what: str, name: str | None = None) -> Starter:
    """The files of a starter.

    Args:
        name: what a package's plug-in is to be called, `my-variant` unless given; of use to packages only.

    Raises:
        ConfigError: there is no such starter, or the name is no name for a plug-in or taken by one.
    """
    makers = _makers()
    if what not in makers:
        raise ConfigError(f"init {what!r}: must be one of {', '.join(makers)}{did_you_mean(what, makers)}")
    if what in PACKAGES:
        return _package(what, name or f"my-{what}")
    if name is not None:
        raise ConfigError(f"init {what} takes no name, got {name!r}; only {', '.join(PACKAGES)} do")
    return makers[what]()


def write(made: Starter, folder: Path, *, force: bool = False) -> list[Path]:
    """Write a starter's files below a folder; those that are there with this content stay.

    Raises:
        ConfigError: a file is there with other content (all such are named), and `force` is not set; nothing is
            written then; or a file cannot be written.
    """
    found = {folder / path: content for path, content in made.files.items()}
    changed = [path for path, content in found.items() if path.exists() and not _has(path, content)]
    if changed and not force:
        named = ", ".join(map(str, changed))
        raise ConfigError(f"{named}: there already, with other content; choose another folder (--out), or --force")
    try:
        for path, content in found.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda partial, content=content: partial.write_bytes(content))  # type: ignore[misc]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; choose another folder (--out)") from error
    return list(found)


def _makers() -> dict[str, Callable[[], Starter]]:
    root = bundled("benchmarks")
    files = [path for folder in RECIPES for path in sorted(root.glob(f"{folder}/*.yaml"))]
    recipes = [f"{path.parent.name}/{path.stem}" for path in files if path.name != "common.yaml"]
    return {
        "quickstart": partial(_copied, root, PARTS["quickstart"], "quickstart.yaml"),
        "gate": partial(_gate, root),
        **{name: partial(_recipe, root, name) for name in recipes},
        "accelerate": partial(_copied, root, PARTS["accelerate"]),
        **{what: partial(_package, what, f"my-{what}") for what in PACKAGES},
    }


def _copied(root: Path, patterns: tuple[str, ...], matrix: str | None = None) -> Starter:
    files = {path.relative_to(root): path.read_bytes() for path in _matching(root, patterns)}
    return Starter(files, (f"radpo plan {matrix}", f"radpo run {matrix}") if matrix else ())


def _gate(root: Path) -> Starter:
    made = _copied(root, PARTS["gate"])
    return Starter(made.files, ("radpo run gate.yaml -j 2", "radpo regress runs/gate --save gate"))


def _recipe(root: Path, name: str) -> Starter:
    matrix = f"{name}.yaml"
    made = _copied(root, (*_with_what_it_names(root, matrix), *RECIPE, f"{Path(name).parent}/README.md"))
    return Starter(made.files, ("see paper/README.md for the data", f"radpo plan {matrix} --machine 8xh100-sxm"))


def _with_what_it_names(root: Path, matrix: str) -> Iterator[str]:
    """A recipe, the recipes that it extends, and their published figures."""
    yield matrix
    text = (root / matrix).read_text(encoding="utf-8")
    for kind, name in re.findall(r"^(extends|published): (\S+)$", text, flags=re.MULTILINE):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(matrix), name))
        yield from _with_what_it_names(root, path) if kind == "extends" else [path]


def _matching(root: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(path for path in root.glob(pattern) if path.is_file())


def _package(what: str, name: str) -> Starter:
    """An example under a name of the user's own: its package, its module, and the plug-in."""
    if not PLUGIN_NAME.fullmatch(name):
        raise ConfigError(f"init {what} {name!r}: a name is lower-case letters, digits and single hyphens: my-{what}")
    package, module = f"radpo-{name}", f"radpo_{name.replace('-', '_')}"
    taken = plugin_entries(f"radpo.{PACKAGES[what]}").get(name)
    if taken is not None and (is_own(taken) or taken.value.partition(":")[0] != module):
        raise ConfigError(f"init {what} {name!r}: {package_of(taken)} has a {what} of that name; choose another")
    folder = bundled("examples") / what
    (source,) = folder.glob("*.py")
    project, code = (file.read_text(encoding="utf-8") for file in (folder / "pyproject.toml", source))
    entries = re.findall(r'^([\w-]+) = "\w+:\w+"$', project, flags=re.MULTILINE)
    for old in entries:  # the first is the plug-in, further ones are kept beside it
        new = name if old == entries[0] else f"{name}-{old}"
        project = re.sub(rf'^{old}(?= = "\w+:\w+"$)', new, project, flags=re.MULTILINE)
        code = re.sub(rf'(?<=["`]){old}(?=["`])|(?<=kind: ){old}\b|(?<=\b{what} ){old}\b', new, code)
        code = code.replace(f'"{old.capitalize()}"', f'"{new.replace("-", " ").capitalize()}"')
    project = project.replace(source.stem.replace("_", "-"), package).replace(source.stem, module)
    files = {Path("pyproject.toml"): project, Path(f"{module}.py"): code.replace(source.stem, module)}
    section = {"variant": f"`{name}:` under `variants`", "benchmark": f"a section `{name}` under `benchmarks`",
               "judge": f"`judge: {{kind: {name}, ...}}`", "executor": f"`executor: {name}`"}[what]  # fmt: skip
    return Starter(
        {Path(package) / path: text.encode() for path, text in files.items()},
        (f"pip install -e {package}", f"{section} in a matrix file; radpo doctor says whether it is found"),
    )


def _has(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
