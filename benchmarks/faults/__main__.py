"""All of this folder, one after the other, in under 15 minutes on two cores: python benchmarks/faults

The quickstart is run on a small random model and killed less often than by itself.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))


def main() -> None:
    """Run each and print what it took; exit status 1 where one failed."""
    from factories import write_model

    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        options = {"quickstart.py": ["--kills", "4", "--model", folder], "training.py": ["--kills", "5"]}
        failed = 0
        for script in sorted(HERE.glob("[!_]*.py")):
            start = time.monotonic()
            done = subprocess.run([sys.executable, str(script), *options.get(script.name, [])], check=False)
            failed += done.returncode != 0
            what = "passed" if done.returncode == 0 else f"FAILED with exit status {done.returncode}"
            print(f"=== {script.name}: {what} after {time.monotonic() - start:.0f} s", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
