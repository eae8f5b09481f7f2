"""Runs what a command does with a client: signals, what it tells meanwhile, and the exit code for what it ends with."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from broker.commands.output import write_error
from common.client import BrokerError, ClientError, ClientEvent, Connected, ConnectFailing, Disconnected
from common.exitcodes import ExitCode

__all__ = ["CommandFailed", "Notices", "one_line", "run_command"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CommandFailed(Exception):
    """The command ends here, with `code`; the text is for the user."""

    def __init__(self, text: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(text)
        self.code = code


def run_command(work: Coroutine[Any, Any, int], *, endless: bool = False) -> int:
    """Run `work` and return its exit code. SIGINT and SIGTERM cancel it, and a second one ends the process at once.

    One that is `endless` has done all it was asked to when it is stopped.
    """
    try:
        return asyncio.run(_until_signal(work))
    except _Signalled as stopped:
        return ExitCode.OK if endless else ExitCode(128 + stopped.number)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except CommandFailed as error:
        write_error(one_line(error))
        return error.code
    except ClientError as error:
        write_error(one_line(error))
        return ExitCode.FAILED


class _Signalled(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        task.cancel()

    for each in _SIGNALS:
        loop.add_signal_handler(each, stop, each)
    await asyncio.wait([task])
    if came and task.cancelled():
        raise _Signalled(came[0])
    return task.result()


class Notices:
    """Tells on standard error what becomes of the connection, of connections and successes only if `verbose`.

    `unknown` counts the messages sent without a receipt that may be lost, `why` says what happened. `leaving` is set
    when the command is about to close the connection: that it is lost then is no news.
    """

    def __init__(self, verbose: bool) -> None:
        self.unknown = 0
        self.why = ""
        self.leaving = False
        self._verbose = verbose
        self._lost = False
        self._refusal = ""
        self._failing = ""

    def on_event(self, event: ClientEvent) -> None:
        """What `Client` takes as `on_event`."""
        match event:
            case Connected():
                self._tell_refusal()
                if self._lost:
                    write_error(f"connected again, to {event.address}")
                else:
                    self.tell(f"connected to {event.address} ({event.server or 'no name'}, STOMP {event.version})")
                self._lost = False
                self._failing = ""
            case Disconnected():
                self._lost = True
                why = one_line(event.error)
                if event.unknown:
                    self.unknown += event.unknown
                    self.why = why
                if self.leaving:
                    return
                text = f"the connection is lost, connecting again: {why}"
                if isinstance(event.error, BrokerError):
                    # It may be the end of the command, which has it as its own error then.
                    self._refusal = text
                else:
                    write_error(text)
            case ConnectFailing():
                self._tell_refusal()
                # The rounds go on and on; what is new is worth a line.
                if (failing := one_line(event.error)) != self._failing:
                    self._failing = failing
                    write_error(f"still trying: {failing}")

    def _tell_refusal(self) -> None:
        if self._refusal:
            write_error(self._refusal)
            self._refusal = ""

    def tell(self, text: str) -> None:
        """Tell what somebody wants to know who asked for it."""
        if self._verbose:
            write_error(text)


def one_line(error: Exception) -> str:
    """The text of `error` in one line. What a broker wrote may hold anything, control characters for a terminal too."""
    text = " ".join(str(error).split())
    if isinstance(error, BrokerError) and error.code is not None:
        text = f"{text} ({error.code})"
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
