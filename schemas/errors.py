"""The errors that leave clipmill, and the exit code of each.

A user's mistake is a `UserError`: one sentence that names the file, field or row, and a hint that says the fix.
All of them pickle, because they cross from a Ray actor to the driver.
"""

EXIT_OK = 0
EXIT_OTHER = 1
EXIT_USER = 2
EXIT_UNITS_FAILED = 3  # finished, but something is missing or wrong, and named
EXIT_GATE_REFUSED = 4
EXIT_LATER = 5


class ClipmillError(Exception):
    """Base of everything clipmill raises on purpose. `hint` may be empty."""

    exit_code = EXIT_OTHER

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Both: in a notebook or a log this text is all that is seen."""
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class UserError(ClipmillError):
    """Bad input: a job file, a URI, a model name, a filter. Nearly always found before anything is written; what a run
    had committed by then stays, and the hint says how much that was."""

    exit_code = EXIT_USER


class EmptySource(UserError):
    """The listing of a source shows nothing where something is asked for: a wrong address, or a bucket that lost it."""


class BeingMade(UserError):
    """There is no table yet, and a run that makes it is under way."""


class DamagedIndex(ClipmillError):
    """A file of an index cannot be read or is gone; the rows are another thing."""


class VersionGone(ClipmillError):
    """Files of the version that is open are gone, while it was read."""


class UnitsFailed(ClipmillError):
    """The run finished, but some units failed; the message names them."""

    exit_code = EXIT_UNITS_FAILED


class GateRefused(ClipmillError):
    """A gate (coverage, accuracy, overlap) refused to publish."""

    exit_code = EXIT_GATE_REFUSED


class LeaseHeld(ClipmillError):
    """Another run holds the table's lease: later."""

    exit_code = EXIT_LATER


class NoWorkers(ClipmillError):
    """The cluster gave no workers in time: later."""

    exit_code = EXIT_LATER


class LeaseLost(ClipmillError):
    """This run's lease was taken over while it slept; nothing of it can land any more."""


class SourceChanged(ClipmillError):
    """The object's etag at opening is not the one that was planned."""


class WrongFormat(ClipmillError):
    """An object of the source is not what its name or the job file says. It costs its own unit, not the run."""
