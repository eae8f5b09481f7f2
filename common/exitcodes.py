"""The exit codes of `stampede`: a contract with service managers and scripts, so codes are added, never
changed."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """What the exit status of the process says."""

    OK = 0
    """Did what was asked; for `serve`: drained and stopped in order."""
    FAILED = 1
    """An internal fault, or a stop forced by a second signal before the drain was over; for `store`: something is wrong
    with what is stored, or with what was to be imported; for `send` and `subscribe`: the broker cannot be reached, or
    refused something."""
    USAGE = 2
    """A mistake on the command line or in the configuration. Trying again without a change will not help."""
    CANNOT_START = 3
    """The configuration is sound but the machine refused: a port is taken, a directory cannot be written."""
    TIMED_OUT = 4
    """For `send`: no answer, or no reply, within --timeout. For `subscribe`: fewer than --count messages came."""
    INTERRUPTED = 130
    """Ended by SIGINT before it had done what was asked, as shells number it."""
    TERMINATED = 143
    """The same by SIGTERM."""
