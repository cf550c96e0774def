"""What can go wrong, in words for the person who can mend it.

Every message names the value that was met, the limit it broke and what to do next. The exit codes are those of the
backtest pods: a Job's `podFailurePolicy` reads them, so they are part of the interface.
"""


class SqueezeError(Exception):
    """Anything we refuse or fail at on purpose; `exit_code` is what the command ends with."""

    exit_code = 1


class UsageError(SqueezeError):
    """The command or request was wrong: an unknown asset, a broken file, a value of the wrong type."""

    exit_code = 2


class DataHoleError(SqueezeError):
    """Rows that should be there are missing; the day cannot be scanned until they are."""

    exit_code = 42


class SpecError(SqueezeError):
    """A backtest spec or parameter set that can never run, on any day."""

    exit_code = 43


class ParseError(ValueError):
    """Bytes from a venue that are not what the venue documents; the only exception a parser may raise."""
