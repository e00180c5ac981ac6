"""A change of what a stage runs is noticed until its version is raised or the change accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stage_fingerprints import PYTHON, RECORD, ROOT, fingerprints, radpo_stages, read_source, unaccepted

PROJECT = '[project]\nname = "toy"\n[project.entry-points."toy.judges"]\nstrict = "toy.judges:STRICT"\n'
FILES = {
    "__init__": "",
    "stages": (
        "from toy import shapes\nfrom toy.helpers import used\nLIMIT = 3\n\n\n"
        "def run(task):\n    '''What it does.'''\n    from toy.lookup import find\n"
        "    return used(LIMIT) + shapes.area(2) + find('strict') + len('page.txt')\n\n\n"
        "def other():\n    return 1\n"
    ),
    "helpers": "def used(number: int) -> int:\n    return inner(number)  # why\n\n\ndef inner(n):\n    return n\n",
    "shapes": "class Base:\n    sides = 4\n\n\nclass Square(Base):\n    pass\n\n\n"
    "def area(a):\n    return Square, a * a\n",
    "lookup": "from core import find_plugin\nGROUP = 'toy.judges'\n\n\n"
    "def find(name):\n    return find_plugin(GROUP, name)\n",
    "judges": "def grade():\n    return 1\n\n\nSTRICT = grade\n",
    "unrelated": "X = 1\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    for name, text in FILES.items():
        (tmp_path / "toy" / f"{name}.py").write_text(text)
    (tmp_path / "toy" / "page.txt").write_text("a page")
    return tmp_path


STAGES = {"stage": (("toy.stages", "run"), 1)}


def change(root: Path, file: str, before: str, after: str) -> None:
    path = root / "toy" / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("file", "before", "after", "told"),
    [
        ("stages.py", "used(LIMIT)", "used(LIMIT + 1)", "toy.stages:run"),
        ("stages.py", "LIMIT = 3", "LIMIT = 4", "toy.stages:LIMIT"),
        ("helpers.py", "return n\n", "return n + 1\n", "toy.helpers:inner"),
        ("shapes.py", "sides = 4", "sides = 5", "toy.shapes:Base"),
        ("judges.py", "return 1", "return 2", "toy.judges:grade"),
        ("page.txt", "a page", "another", "toy.stages:page.txt"),
    ],
)
def test_a_change_of_what_a_stage_reaches_is_noticed_until_it_is_accepted_or_the_version_raised(
    root: Path, file: str, before: str, after: str, told: str
) -> None:
    record = fingerprints(read_source(root, "toy"), STAGES)
    change(root, file, before, after)
    source = read_source(root, "toy")
    assert unaccepted(record, source, STAGES) == {"stage": f"changed: {told}"}
    assert unaccepted(record, source, {"stage": (("toy.stages", "run"), 2)}) == {}
    assert unaccepted(fingerprints(source, STAGES), source, STAGES) == {}


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("stages.py", "What it does.", "What else it does."),
        ("stages.py", "return 1", "return 2"),
        ("helpers.py", "# why", "# why not"),
        ("helpers.py", "number: int", "number: float"),
        ("unrelated.py", "X = 1", "X = 2"),
    ],
)
def test_comments_docstrings_annotations_and_what_is_not_reached_do_not_count(
    root: Path, file: str, before: str, after: str
) -> None:
    record = fingerprints(read_source(root, "toy"), STAGES)
    change(root, file, before, after)
    assert unaccepted(record, read_source(root, "toy"), STAGES) == {}


def test_a_new_stage_is_not_in_the_record(root: Path) -> None:
    source = read_source(root, "toy")
    record = fingerprints(source, STAGES)
    stages = {**STAGES, "second": (("toy.stages", "other"), 1)}
    assert unaccepted(record, source, stages) == {"second": "it is new: its source is not in the record"}


def test_no_stage_of_radpo_changed_without_a_word() -> None:
    """Raise the stage's version if it writes something else now; else accept the change, as the message says."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if record["python"] != PYTHON:
        pytest.skip(f"the record is of Python {record['python']}")
    changed = unaccepted(record, read_source(ROOT, "radpo"), radpo_stages())
    what = "".join(f"\n  {name}: {why}" for name, why in changed.items())
    accept = "python tests/stage_fingerprints.py --accept"
    assert not changed, f"raise the versions of the stages that write something else now, and {accept}:{what}"
