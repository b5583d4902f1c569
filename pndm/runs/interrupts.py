"""Ctrl-C and SIGTERM end a run, even if Python loses the exception that they raise.

A signal's exception is raised wherever the program happens to be. In a finalizer (`__del__`)
Python drops it; in a library's clean-up another exception may replace it. So signals are recorded
here, and checked when work continues and when it has failed.
"""

import signal
import sys
import threading

received: list[int] = []
"""The signals received since `listen`."""


def listen() -> None:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM, and record them.

    In a thread of another program nothing is done: signals are the main thread's.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _unraisable


def check() -> None:
    """Raise KeyboardInterrupt if a signal was received."""
    if received:
        raise KeyboardInterrupt


def as_interrupt(error: BaseException) -> BaseException:
    """Return KeyboardInterrupt if a signal was received, else `error`."""
    return KeyboardInterrupt() if received else error


def _interrupt(number: int, _: object) -> None:
    received.append(number)
    raise KeyboardInterrupt


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
