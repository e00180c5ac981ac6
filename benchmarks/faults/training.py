"""Training killed at random moments and resumed: does it end in the weights of a run that was never interrupted?

Run from the repository's root: python benchmarks/faults/training.py [--kills 10] [--seed 0]

A small random Llama is trained by `radpo train` in a process of its own, which is killed (SIGKILL) at random moments,
wherever it is, and started again until it was killed as often as asked; then it may finish.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

PAIRS, EPOCHS = 48, 4
STEPS = 2 * PAIRS * EPOCHS // 4  # two training pairs of each scored one, four a step


def main() -> None:
    """Kill, resume, compare; exit status 1 where a weight differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        subprocess.run(command(folder, "whole"), check=True, capture_output=True)
        for number, step in enumerate(sorted(chance.sample(range(1, STEPS - 4), arguments.kills)), start=1):
            process = subprocess.Popen(command(folder, "torn"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and last_step(folder) < step:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))  # in the middle of a step, or of writing a checkpoint
            process.kill()
            killed = process.wait() == -9
            print(f"{number}: {'killed' if killed else 'had finished'}, checkpoints {steps(folder)}", flush=True)
        subprocess.run(command(folder, "torn"), check=True, capture_output=True)
        differing = compare(folder / "whole" / "policy", folder / "torn" / "policy")
    print(f"weights that differ: {differing or 'none'}")
    sys.exit(1 if differing else 0)


def steps(folder: Path) -> list[int]:
    """The steps of the interrupted run's checkpoints, whole or torn."""
    return sorted(
        int(path.name.split("-")[1]) for path in (folder / "store-torn" / "partial").glob("*/work/checkpoint-*")
    )


def last_step(folder: Path) -> int:
    """The newest of them, 0 where there is none."""
    return max(steps(folder), default=0)


def prepare(folder: Path) -> None:
    """A model and scored pairs."""
    from factories import scored_pairs, write_model

    from radpo.preferences.writing import write_preferences

    write_model(folder / "model")
    scores = [(9.0 - n % 4, 4.0 - n % 3) for n in range(PAIRS)]
    write_preferences(scored_pairs(scores), folder / "pairs.parquet")


def command(folder: Path, out: str) -> list[str]:
    """The training run as a person would start it."""
    settings = {
        "batch_size": 4, "per_device_train_batch_size": 2, "max_length": 400, "precision": "float32",
        "learning_rate": 1e-3, "beta": 0.3, "num_train_epochs": EPOCHS,
    }  # fmt: skip
    asked = [f"--set={key}={value}" for key, value in settings.items()]
    place = [str(folder / "pairs.parquet"), "--out", str(folder / out), "--model", str(folder / "model")]
    place += ["--store", str(folder / f"store-{out}")]
    return [sys.executable, "-m", "radpo", "train", *place, *asked, "--save-every", "2"]


def compare(one: Path, other: Path) -> list[str]:
    """The names of the weights that are not equal, bit by bit."""
    from radpo.models.loading import load_model

    left, right = load_model(one).state_dict(), load_model(other).state_dict()
    return [name for name in left if not bool((left[name] == right[name]).all())]


if __name__ == "__main__":
    main()
