"""`radpo store`: list, verify and clean a store, and export and import its stages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radpo.cli.options import Json, print_json
from radpo.core.say import say

if TYPE_CHECKING:
    from radpo.engine.graph import Stage
    from radpo.engine.store import Store

store_app = typer.Typer(
    help="List, verify, clean, export and import the store of finished stages.", no_args_is_help=True
)

Place = Annotated[
    str | None, typer.Option("--store", help="A folder or an fsspec URL. Default: RADPO_STORE, else runs/store.")
]
Matrices = Annotated[list[Path] | None, typer.Argument(metavar="[MATRIX.yaml]...", help="Matrix files.")]


@store_app.command("list")
def list_(store: Place = None, as_json: Json = False) -> None:
    """List finished stages: key, date, size, seconds, name."""
    from radpo.engine.gc import entries

    found = entries(_open(store))
    if as_json:
        print_json([entry.to_json() for entry in found])
        return
    for entry in found:
        seconds = "" if entry.seconds is None else f"{entry.seconds:.1f} s"
        say(f"{entry.key}  {entry.started or '':19.19}  {entry.bytes / 2**20:9.1f} MiB  {seconds:>10}  {entry.name}")
    say(f"{len(found)} stages, {sum(entry.bytes for entry in found) / 2**20:.1f} MiB")


@store_app.command()
def verify(store: Place = None, as_json: Json = False) -> None:
    """Compute every checksum anew and name each damaged stage; exit status 2 if there is one.

    The next run of a matrix that needs a damaged stage computes it again.
    """
    from radpo.core.console import progress_bar
    from radpo.engine.gc import damaged

    kept = _open(store)
    with progress_bar("verify") as progress:
        found = damaged(kept, progress)
    if as_json:
        print_json({"stages": len(kept.finished()), "damaged": found})
    else:
        for key, what in found.items():
            say(f"{key}: {what}")
        say(f"{len(kept.finished())} stages, {len(found)} damaged")
    raise typer.Exit(2 if found else 0)


@store_app.command()
def gc(
    matrices: Matrices = None,
    store: Place = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what interrupted tries left, and damaged stages; with matrix files, also every stage that none needs.

    What runs, imports and exports use now stays; those that begin meanwhile wait until this is done.
    """
    from radpo.engine.gc import collect

    kept = _open(store)
    garbage = collect(kept, _stages(matrices, kept) if matrices else None, dry_run=dry_run)
    if as_json:
        print_json([{"path": str(item.path), "bytes": item.bytes, "why": item.why} for item in garbage])
        return
    for item in garbage:
        say(f"{item.bytes / 2**20:9.1f} MiB  {item.path.name}  {item.why}")
    total = sum(item.bytes for item in garbage) / 2**20
    say(f"{len(garbage)} {'would go' if dry_run else 'removed'}, {total:.1f} MiB")


@store_app.command("export")
def export_(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="A new .tar or .tar.gz file.")],
    matrices: Matrices = None,
    store: Place = None,
) -> None:
    """Write finished stages to one file: those of the matrix files, else all. Each is checked on the way."""
    from radpo.engine.carry import export_stages

    kept = _open(store)
    keys = [stage.key for stage in _stages(matrices, kept)] if matrices else kept.finished()
    say(f"{export_stages(kept, keys, file)} stages written to {file}")


@store_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="A file that `radpo store export` wrote.")],
    store: Place = None,
    max_gib: Annotated[
        float | None,
        typer.Option(
            help="The most that the file may unpack to. Default: what is free on the disk, and at most 200 times "
            "its size."
        ),
    ] = None,
) -> None:
    """Take stages from an exported file into the store: all of them, or none where one is not as it says.

    Of each its checksums, its record and its key must be right. Those that another run is computing now are named.
    """
    from radpo.engine.carry import import_stages

    limit = None if max_gib is None else int(max_gib * 2**30)
    taken, there = import_stages(_open(store), file, limit)
    say(f"{taken} stages imported, {there} were there already")


def _open(place: str | None) -> Store:
    from radpo.core.errors import ConfigError
    from radpo.engine.shared import open_store

    where = place or os.environ.get("RADPO_STORE") or "runs/store"
    if "://" not in where and not Path(where).is_dir():
        raise ConfigError(f"--store {where}: no such folder")
    return open_store(where)


def _stages(matrices: list[Path], store: Store) -> list[Stage]:
    from radpo.matrix.choosing import settle
    from radpo.matrix.expand import expand
    from radpo.matrix.loading import load_matrix

    plans = (settle(expand(load_matrix(matrix)), store)[0] for matrix in matrices)
    return [stage for plan in plans for stage in plan.stages]
