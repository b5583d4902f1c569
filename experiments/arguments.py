"""Arguments of experiments: their own key=value words, and run.py's."""

import sys
from collections.abc import Callable, Sequence

from pndm._errors import PndmError, one_line, prepare_console


def split(words: Sequence[str], own: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Our own words, with these defaults, and the others, which are run.py's."""
    values, others = dict(own), []
    for word in words:
        key, equals, value = word.partition("=")
        if key in own and equals:
            values[key] = value
        else:
            others.append(word)
    return values, others


def command(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
    """A command whose errors of the user are one line, and which an interrupt loses nothing of.

    `--help` prints the description of its module.
    """

    def guarded(words: Sequence[str]) -> None:
        prepare_console()
        if {"-h", "--help"} & set(words):
            return print(sys.modules[main.__module__].__doc__)
        try:
            main(words)
        except PndmError as error:
            sys.exit(f"error: {one_line(error)}")
        except KeyboardInterrupt:
            print("interrupted: the same command continues where it stopped", file=sys.stderr)
            sys.exit(130)

    guarded.__doc__ = main.__doc__
    return guarded
