"""The errors a user can meet, and the exit code each ends with.

    CotdistillError
    ├── ConfigError      2  the command line or the config is wrong
    ├── DataError        3  a file or a question is wrong
    ├── BudgetReached    4  a limit was reached; what is stored is usable
    └── BackendError     5  a model or its server did not do what was asked

A message has one to three lines: what happened, which value, what to do next.
"""

from __future__ import annotations


class CotdistillError(Exception):
    """Base of every error that is the user's to fix; `exit_code` is the process's."""

    exit_code = 1


class ConfigError(CotdistillError):
    """The command line or the config is wrong."""

    exit_code = 2


class DataError(CotdistillError):
    """A file, a question or a stored artefact is wrong."""

    exit_code = 3


class BudgetReached(CotdistillError):
    """A limit was reached; what is stored is usable, and running again resumes."""

    exit_code = 4


class BackendError(CotdistillError):
    """A model, or the server in front of it, did not do what was asked."""

    exit_code = 5


def missing_extra(package: str, extra: str) -> ConfigError:
    """The error for an optional `package` that is not installed, with the command that installs it."""
    return ConfigError(
        f"the package {package!r} is needed here and is not installed.\n"
        f"Install it with: pip install 'cotdistill[{extra}]'"
    )
