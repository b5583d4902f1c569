"""Errors that a user can fix: shown in one line, without a traceback.

Every command shows a `PndmError` in one line. Any other exception is a bug: it keeps its
traceback, on the terminal and in a run's `status.json`.
"""

import argparse
import contextlib
import difflib
import io
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

Value = TypeVar("Value")

CONTINUES = "the same command continues where it stopped"


class PndmError(Exception):
    """An error that a user can fix; the message says what is wrong and what to do."""


class InputError(PndmError, ValueError):
    """An invalid value: an argument, a setting, the content of a file."""


class FileError(PndmError, OSError):
    """A file or folder that cannot be read or written: full disk, missing rights, a lost mount."""


class MissingFile(PndmError, FileNotFoundError):
    """A required file that does not exist; the message says where to get it."""


class NonFiniteError(PndmError, FloatingPointError):
    """NaN or infinity where a network or an integration must return numbers."""


class MemoryLimit(PndmError, MemoryError):
    """One image does not fit into the memory of its device."""


class DeviceError(PndmError, RuntimeError):
    """A GPU that is gone, or that others keep to themselves."""


def one_line(error: BaseException) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def file_errors() -> Iterator[None]:
    """Re-raise an OSError of the block as `FileError`, which is shown in one line.

    FileNotFoundError passes through: callers that expect a missing file handle it themselves.
    """
    try:
        yield
    except (PndmError, FileNotFoundError):
        raise
    except OSError as error:
        raise FileError(one_line(error)) from error


@contextlib.contextmanager
def one_line_exit(interrupted: str = CONTINUES) -> Iterator[None]:
    """End a command with one line: status 1 for a `PndmError`, 130 for Ctrl-C.

    `interrupted` says how to go on.
    """
    try:
        yield
    except PndmError as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        sys.exit(130)


class Parser(argparse.ArgumentParser):
    """A parser of a command line whose errors are one line, and whose help keeps its lines."""

    def __init__(self, prog: str | None = None, **kwargs: Any) -> None:
        super().__init__(prog, **kwargs)
        self.formatter_class = argparse.RawDescriptionHelpFormatter

    def error(self, message: str) -> NoReturn:
        """Exit with the message."""
        sys.exit(f"error: {message} (--help shows the options)")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean …?" if a known name is close, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def lookup(table: Mapping[str, Value], name: str, what: str) -> Value:
    """Return an entry by name; InputError with the closest known name otherwise."""
    if name in table:
        return table[name]
    hint = did_you_mean(str(name), table)
    raise InputError(f"no {what} {name!r}{hint}; there are {', '.join(table)}")


_usual_format = warnings.formatwarning


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A UserWarning in one line; others as Python shows them."""
    if category is not UserWarning:
        return _usual_format(message, category, filename, lineno, line)
    return f"warning: {' '.join(str(message).split())}\n"


def prepare_console() -> None:
    """Print what a console cannot show as `?`, and a UserWarning without where it was raised."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    warnings.formatwarning = _format_warning
