"""Ctrl-C and SIGTERM end a run, also where Python loses the exception that they raise.

A signal's exception appears wherever the program happens to be. In a finalizer (`__del__`) Python
drops it; in a library's clean-up another exception may take its place. So a signal is remembered,
and asked for where work goes on and where it has failed.
"""

import signal
import sys
import threading

received: list[int] = []
"""The signals that have come since `listen`."""


def listen() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, and be remembered.

    In a thread of another program nothing is done: signals are the main thread's.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _unraisable


def check() -> None:
    """KeyboardInterrupt where a signal has come."""
    if received:
        raise KeyboardInterrupt


def as_interrupt(error: BaseException) -> BaseException:
    """KeyboardInterrupt where a signal has come, whatever it became on its way; else `error`."""
    return KeyboardInterrupt() if received else error


def _interrupt(number: int, _: object) -> None:
    received.append(number)
    raise KeyboardInterrupt


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
