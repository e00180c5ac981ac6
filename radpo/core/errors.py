"""The one exception family: raised where the cause is known, made one line and an exit status by the command line."""

from __future__ import annotations


class RadpoError(Exception):
    """Something that the user can mend. The message names the thing and the mend; `exit_status` is the process's."""

    exit_status = 2


class ConfigError(RadpoError):
    """A matrix file or an option is wrong."""


class DataError(RadpoError):
    """A data file is wrong: the message names file, line, column and mend."""


class ModelError(RadpoError):
    """A model cannot be found, loaded, or used for what was asked."""


class ServiceError(RadpoError):
    """An outside service failed after its retries."""

    exit_status = 3
