"""Errors that a user can act on: each message says what was expected, what came, and where."""


class ForetellError(Exception):
    """A mistake outside the program; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 2


class SpecError(ForetellError, ValueError):
    """Data, actions or settings do not fit the spec they are used with."""


class DataError(ForetellError, ValueError):
    """A file or folder is missing, unreadable, damaged or holds values that cannot be used."""


class CheckpointError(ForetellError, ValueError):
    """A run folder is damaged, foreign, or written by a newer version."""


class TrainingError(ForetellError, RuntimeError):
    """Training cannot go on: a loss that is not finite, or collapsed latents."""

    exit_code = 3


def require_whole(where: str, owner: object, least: int, *names: str) -> None:
    """Raise SpecError, naming the attribute, unless these of `owner` are whole numbers of at least `least`."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, int) or value < least:
            raise SpecError(f"{where}: {name} must be a whole number of at least {least}, got {value!r}")
