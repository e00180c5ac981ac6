"""Data sets of the Hub by name: `hub:NAME[@CONFIG]:SPLIT[#REVISION]`, and `stream:` for one that is read as it comes.

A revision is a branch, a tag or a commit; without one it is what `main` leads to. `pinned` gives the commit that a name
leads to now, so that what is read under it stays the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from radpo.core.errors import DataError, ServiceError
from radpo.core.files import is_there

WRITTEN = "hub:NAME[@CONFIG]:SPLIT[#REVISION]"
_NAME = re.compile(
    r"(?P<how>hub|stream):(?P<name>[^@:#]+)(@(?P<config>[^:#]+))?(:(?P<split>[^#]+))?(#(?P<revision>[^#]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """A data set of the Hub, or a folder in its place.

    Args:
        how: `hub`, downloaded and cached, or `stream`, read as it comes.
        name: organisation/name, or a folder.
        revision: None for what `main` leads to; a folder has none.
    """

    how: str
    name: str
    config: str | None
    split: str | None
    revision: str | None

    @property
    def commit(self) -> str | None:
        """The revision, where it is one that always leads to the same."""
        return self.revision if self.revision is not None and _COMMIT.fullmatch(self.revision) else None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder here, which `datasets` reads in the same way."""
        return is_there(Path(self.name))

    def __str__(self) -> str:
        parts = (("@", self.config), (":", self.split), ("#", self.revision))
        return f"{self.how}:{self.name}" + "".join(f"{mark}{part}" for mark, part in parts if part is not None)


def parse_hub(source: str | Path) -> HubName | None:
    """The data set that a source names; None for other sources."""
    found = _NAME.fullmatch(str(source))
    return None if found is None else HubName(**found.groupdict())


def pinned(hub: HubName) -> HubName:
    """The same at the commit that it is at now, as the Hub says, or where that is not to be asked, its cache.

    Raises:
        DataError: there is no such data set or revision.
        ServiceError: the Hub cannot be reached, and its cache does not know the revision.
    """
    if hub.is_folder or hub.commit is not None:
        return hub
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(hub.name)
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE says that there is no network")
        commit = HfApi().dataset_info(hub.name, revision=hub.revision, timeout=30).sha
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise DataError(f"{hub}: no such data set of the Hub ({str(error).splitlines()[0]})") from error
    except Exception as error:  # each of the clients beneath has errors of its own
        commit = _commit_in_cache(hub)
        if commit is None:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ServiceError(
                f"{hub}: the Hub cannot be reached ({reason}), and its cache does not know which commit this is; name "
                "the commit, as hub:NAME:SPLIT#COMMIT"
            ) from error
    return replace(hub, revision=commit)


def _commit_in_cache(hub: HubName) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub.name, repo_type="dataset")
    reference = folder / "refs" / (hub.revision or constants.DEFAULT_REVISION)
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None
