"""Commands of tests that are forked are what fresh ones would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import warm_commands
from factories import scored_pairs, write_model

MODULE = """
import json, os, sys
import radpo
told = [sys.argv, os.getcwd(), os.environ["RADPO_TOLD"], __name__, radpo.__file__, "torch" in sys.modules, sys.path]
print(json.dumps(told))
print("and this", file=sys.stderr)
sys.exit(3)
"""


def test_a_forked_command_is_what_a_fresh_one_is_but_for_what_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "site" / "radpo").mkdir(parents=True)
    (tmp_path / "site" / "radpo" / "__init__.py").touch()
    (tmp_path / "site" / "mine.py").write_text(MODULE)
    given = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "RADPO_TOLD": "so"}
    words = ["-m", "mine", "one", "--two"]
    fresh = subprocess.run([sys.executable, *words], cwd=tmp_path, env=given, capture_output=True, text=True)
    forked = warm_commands.run(words, cwd=tmp_path, env=given)
    with warm_commands.program(tmp_path / "program", "-m", "mine"):
        asked = subprocess.run(["./program", *words[2:]], cwd=tmp_path, env=given, capture_output=True, text=True)
    other = warm_commands.run(words, cwd=tmp_path, env={**given, "HF_HOME": "elsewhere"})
    assert {(done.returncode, done.stderr) for done in (fresh, forked, asked, other)} == {(3, "and this\n")}
    *told, loaded, path = json.loads(fresh.stdout)
    assert not loaded
    assert told[-1] == str(tmp_path / "site" / "radpo" / "__init__.py"), "of its own path, not this checkout's"
    for done in (forked, asked):
        assert json.loads(done.stdout) == [*told, True, [*path, str(Path(__file__).parent)]]
    assert other.stdout == fresh.stdout, "what libraries read while they are loaded is another's"


def test_a_forked_commands_workers_are_forked_as_well(tmp_path: Path) -> None:
    from radpo.preferences.writing import write_preferences

    write_model(tmp_path / "model")
    write_preferences(scored_pairs([(9, 3), (7, 6)]), tmp_path / "pairs.jsonl")
    (tmp_path / "m.yaml").write_text(
        "{name: m, model: model, variants: {base: }, data: {heldout: {path: pairs.jsonl}},"
        " benchmarks: {unlearning: {}}}"
    )
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "torch.py").write_text("raise ImportError('a fresh process loads torch')")
    given = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = warm_commands.run(["-m", "radpo", "run", "m.yaml"], cwd=tmp_path, env=given)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "m" / "report.html").is_file()
