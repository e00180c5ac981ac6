"""Plan every recipe for eight H100s: writes plans/NAME.txt and the table of costs in README.md.

Run from the repository's root where neither models nor data/ are, so that all sizes are as hinted:

    python benchmarks/paper/plans.py          # write
    python benchmarks/paper/plans.py --check  # say what is out of date, exit status 1 if anything is
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from radpo.engine.store import Store
from radpo.matrix.estimate import Estimate, estimate
from radpo.matrix.expand import Plan, expand
from radpo.matrix.loading import load_matrix
from radpo.matrix.machines import find_machine
from radpo.matrix.plan_text import plan_text

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
MACHINE = "8xh100-sxm"
BEGIN, END = "<!-- costs -->", "<!-- end of costs -->"


def recipes() -> list[Path]:
    """The matrix files of this folder, but for what they have in common."""
    return sorted(path for path in FOLDER.glob("*.yaml") if path.name != "common.yaml")


def planned(recipe: Path) -> tuple[Plan, Estimate]:
    """A recipe's plan, and what it takes with nothing in the store."""
    plan = expand(load_matrix(recipe, planning=True), planning=True)
    machine = find_machine(MACHINE, 1)
    with tempfile.TemporaryDirectory() as empty:
        return plan, estimate(plan.stages, Store(Path(empty)), machine, machine.gpus, plan.matrix.size_hints)


def documents() -> dict[Path, str]:
    """Everything that this script writes."""
    found: dict[Path, str] = {}
    lines = [
        "| recipe | variants | GPU hours (training / the rest) | hours | judge calls | judges, US$ | disk, GiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for recipe in recipes():
        plan, expected = planned(recipe)
        text = plan_text(plan.matrix.name, expected, Path(), plan.absent)
        found[FOLDER / "plans" / f"{recipe.stem}.txt"] = (
            f"$ radpo plan benchmarks/paper/{recipe.name} --machine {MACHINE}\n{text}\n"
        )
        works = [item.work for item in expected.stages if item.work is not None]
        hours = expected.gpu_hours or 0.0
        trains = ("train", "reference", "implicit")
        training = sum((i.seconds or 0.0) * i.gpus for i in expected.stages if i.stage.function_name in trains) / 3600
        dollars = sum(work.judge_dollars or 0.0 for work in works)
        lines.append(
            f"| [{recipe.stem}]({recipe.name}) | {len(plan.matrix.variants)} | {hours:.1f} ({training:.1f} / "
            f"{hours - training:.1f}) | {expected.wall_seconds / 3600:.1f} "
            f"| {sum(work.judge_calls for work in works):,} | {dollars:,.0f} "
            f"| {sum(work.disk_bytes for work in works) / 2**30:.0f} |"
        )
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    found[README] = "\n".join([f"{before}{BEGIN}", *lines, f"{END}{rest.split(END)[1]}"])
    return found


def main() -> int:
    """Write, or with --check compare; 1 where something is out of date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as empty:
        os.environ |= {"RADPO_DATA": empty, "HF_HUB_OFFLINE": "1"}  # published data is sized as hinted, too
        texts = documents()
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(texts[path], encoding="utf-8")
        print(f"{'out of date' if check else 'written'}: {path.relative_to(FOLDER)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
