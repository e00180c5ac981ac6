"""The one exception family: raised where the cause is known, made one line and an exit status by the command line."""

from __future__ import annotations

from radpo.core.messages import clean_message


class RadpoError(Exception):
    """Something that the user can fix. The message names the thing and the fix; `exit_status` is the process's.

    Secrets are taken out of the message, wherever it was made of them (`radpo.core.messages`).
    """

    exit_status = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(clean_message(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigError(RadpoError):
    """A matrix file or an option is wrong."""


class DataError(RadpoError):
    """A data file is wrong: the message names file, line, column and fix."""


class ModelError(RadpoError):
    """A model cannot be found, loaded, or used for what was asked."""


class ServiceError(RadpoError):
    """An outside service failed after its retries."""

    exit_status = 3
