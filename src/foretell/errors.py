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
