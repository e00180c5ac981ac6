"""A trained checkpoint of a run, copied out of the store with its model card, and pushed to the Hub where one asks."""

from __future__ import annotations

import shutil
from pathlib import Path

from radpo.core.errors import ConfigError, DataError, ServiceError
from radpo.core.files import check_room, check_writable, files_in, replace_file
from radpo.core.run import Run, load_run
from radpo.core.run_files import CHECKPOINTS, read_checkpoints
from radpo.core.suggestions import did_you_mean
from radpo.engine.shared import open_store
from radpo.export.card import model_card

CARD = "README.md"


def export_checkpoint(
    run_dir: Path, variant: str, out: Path, *, seed: int | None = None, store: str | None = None
) -> list[Path]:
    """Write a trained checkpoint of a run into a folder: an ordinary Hugging Face folder with a model card.

    Args:
        run_dir: the run directory that trained it.
        variant: which of its variants.
        out: the folder, which must be empty, or not there yet.
        seed: which of its seeds; may be left out where there is one.
        store: where the run's stages are, if they were moved since.

    Returns:
        The files written.

    Raises:
        ConfigError: the run has trained no such checkpoint, or the folder cannot be written or has files.
        DataError: the run directory cannot be read, or the checkpoint is not in the store, or not whole.
    """
    run = load_run(run_dir)
    place, found = read_checkpoints(run_dir)
    trained = {(str(one["variant"]), int(one["seed"])): str(one["stage"]) for one in found}
    chosen = _choose(run_dir, run, trained, variant, seed)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is not empty; give a folder that is, or that is yet to be made")
    check_writable(out, "another DIR")
    kept = open_store(store or place)
    key = trained[chosen]
    what = kept.supply(key)
    if what is not None:
        raise DataError(
            f"{kept.root}: the checkpoint of {variant}, stage {key}, is not there whole ({what}); "
            "if the store was moved, give it with --store, else run the matrix again"
        )
    folder = kept.root / "stages" / key / "policy"
    check_room(out, sum(path.stat().st_size for path in files_in(folder).values()), "another DIR")
    card = str(model_card(run.of_seed(chosen[1]), *chosen, folder))

    def write(partial: Path) -> None:
        shutil.copytree(folder, partial)
        (partial / CARD).write_text(card, encoding="utf-8")

    try:
        replace_file(out, write)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}; give another DIR") from error
    return list(files_in(out).values())


def push(folder: Path, repo: str, *, public: bool = False) -> str:
    """Upload an exported folder to the Hub, into a repository that is made where it is new; returns its address.

    Args:
        folder: what `export_checkpoint` wrote. Its card's metadata are validated by the Hub first.
        repo: USER/NAME.
        public: make a new repository public; it is private otherwise.

    Raises:
        ConfigError: the Hub finds the card's metadata wrong.
        ServiceError: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi, ModelCard
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        ModelCard.load(folder / CARD).validate()
        address = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repo, commit_message="Exported by radpo")
    except ValueError as error:
        raise ConfigError(f"--push {repo}: {error}") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise ServiceError(f"--push {repo}: {str(error).splitlines()[0]}; what was exported is in {folder}") from error
    return str(address)


def _choose(
    run_dir: Path, run: Run, trained: dict[tuple[str, int], str], variant: str, seed: int | None
) -> tuple[str, int]:
    names = list(dict.fromkeys(name for name, _ in trained))
    if variant not in names:
        known = f"trained are {', '.join(names)}" if names else "it has trained none"
        why = "is scored as it is, and not trained" if variant in run.variants else "is none of its variants"
        raise ConfigError(f"{run_dir}: {variant!r} {why}; {known}{did_you_mean(variant, names)}")
    seeds = [one for name, one in trained if name == variant]
    if seed is None and len(seeds) > 1:
        raise ConfigError(f"{variant} has the seeds {', '.join(map(str, seeds))}: choose one with --seed")
    if seed is not None and seed not in seeds:
        raise ConfigError(f"--seed {seed}: {variant} has the seeds {', '.join(map(str, seeds))}")
    return variant, seeds[0] if seed is None else seed


def find_run(variant: str, runs: Path = Path("runs")) -> Path:
    """The one run directory below a folder that has trained a variant.

    Raises:
        ConfigError: there is none, or there are several.
    """
    found = []
    for file in sorted((*runs.glob(f"*/{CHECKPOINTS}"), *runs.glob(f"*/*/{CHECKPOINTS}"))):
        if any(str(one["variant"]) == variant for one in read_checkpoints(file.parent)[1]):
            found.append(file.parent)
    if len(found) != 1:
        which = f"several below {runs} did: {', '.join(map(str, found))}" if found else f"none below {runs} did"
        raise ConfigError(f"give the run that trained {variant!r} with --run; {which}")
    return found[0]
