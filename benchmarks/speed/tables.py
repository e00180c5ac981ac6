"""What the speed benchmarks found: each writes its rows as JSON, and this makes one page of a folder of them.

Run from the repository's root: python benchmarks/speed/tables.py reports/speed
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from radpo.core.machine import describe_machine
from radpo.core.optional import package_version

PACKAGES = ("torch", "transformers", "trl", "lm-eval")
INTRODUCTION = """# How fast radpo is

Made by `tox run -e bench` (or each script of benchmarks/speed with `--json`). A ratio above 1 means that radpo is
faster, or where memory or seconds are compared, that it takes more; medians of rounds, with the lowest and the highest
of them. The share of the limit is how long the model's matrix products take at this machine's best, for tokens that
have to be read, over what was taken (benchmarks/speed/limit.py). Quote ratios, not seconds: the machines are shared.
"""


def write(path: Path | None, name: str, rows: list[dict[str, Any]]) -> None:
    """Write rows with the machine that they were measured on; nothing where no file is asked for."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "machine": describe_machine(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load": round(os.getloadavg()[2], 1),
        "versions": {package: package_version(package) for package in PACKAGES},
        "rows": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def page(documents: dict[str, dict[str, Any]]) -> str:
    """A page in Markdown with a table for every file, by its name."""
    parts = [INTRODUCTION]
    for title, document in documents.items():
        machine, versions = document["machine"], document["versions"]
        threads = "" if document["threads"] is None else f", OMP_NUM_THREADS={document['threads']}"
        lines = [
            f"## {title}",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, GPU: {machine['gpu']}{threads}; "
            f"load average {document['load']}; " + ", ".join(f"{name} {number}" for name, number in versions.items()),
            "",
            "| what | ours | peer | unit | ratio | spread | goal | share of the limit |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in document["rows"]:
            share = row.get("share_of_limit")
            goal = f" (goal {row['share_goal']})" if "share_goal" in row else ""
            cells = [row["what"], row["ours"], row["peer"], row["unit"], row["ratio"], row["spread"], row["goal"]]
            lines.append("| " + " | ".join([*map(_cell, cells), "" if share is None else f"{share}{goal}"]) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of JSON files; gets README.md")
    folder = parser.parse_args().folder
    documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    (folder / "README.md").write_text(page(documents), encoding="utf-8")


if __name__ == "__main__":
    main()
