"""Arguments of experiments: their own key=value options, and those of run.py."""

import sys
from collections.abc import Callable, Sequence

from pndm._errors import one_line_exit, prepare_console


def split(words: Sequence[str], own: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Split the words into own options, with defaults, and the rest, which belongs to run.py."""
    values, others = dict(own), []
    for word in words:
        key, equals, value = word.partition("=")
        if key in own and equals:
            values[key] = value
        else:
            others.append(word)
    return values, others


def command(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
    """Wrap a command: user errors are one line, and interrupts leave finished work intact.

    `--help` prints the docstring of its module.
    """

    def guarded(words: Sequence[str]) -> None:
        prepare_console()
        if {"-h", "--help"} & set(words):
            return print(sys.modules[main.__module__].__doc__)
        with one_line_exit():
            main(words)

    guarded.__doc__ = main.__doc__
    return guarded
