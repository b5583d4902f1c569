"""Words of a command line as people type them, made readable for Hydra.

Hydra reads a grammar in which `=`, `(`, quotes and letters of most alphabets must be quoted. Where
a word has one meaning only, it is quoted here; where it has two, the error says what to write.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence

from pndm._errors import PndmError
from pndm._files import expand_user
from pndm.config.schema import ConfigError

PATHS = ("outputs", "output", "model.checkpoint", "dataset.root", "plan")
"""Settings that are paths: ~ is the user's home in them."""

TEXTS = (*PATHS, "wandb.project", "wandb.entity")
"""Settings whose value is text, also where it looks like a number."""


def readable(word: str, needs_quotes: Callable[[str, bool], bool]) -> str:
    """The same setting as Hydra reads it.

    `needs_quotes(word, text)` says whether Hydra cannot read a word, or, where the setting is
    text, reads something else in it. ConfigError where a value may be one or several.
    """
    key, equals, value = word.partition("=")
    if not equals:
        return word
    if key in PATHS and (home := re.match("(['\"]?)(~.*)", value, re.DOTALL)):
        try:
            value = home[1] + str(expand_user(home[2]))
        except PndmError as error:
            raise ConfigError(f"{word}: {error}") from None
    if not needs_quotes(f"{key}={value}", key in TEXTS):
        return f"{key}={value}"
    if "," in value and value[:1] not in "[{":
        raise ConfigError(
            f"{word}: this may be one value or several: put each in quotes, as in "
            f"\"{key}='a=1, b'\" for one and \"{key}='a=1','b'\" for two"
        )
    return f"{key}={quoted(value)}"


def as_list(key: str, word: str) -> str:
    """The same setting with its value as a list, if it is the setting `key`: learn=[a,b]."""
    name, equals, value = word.partition("=")
    return f"{key}=[{value}]" if equals and name == key and value[:1] != "[" else word


def quoted(value: str) -> str:
    """Text in Hydra's single quotes, which mean what they hold but for \\' and \\\\ before one."""
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + r"\'", value)
    end = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{end * chr(92)}'"


def last_of_each(words: Iterable[str]) -> list[str]:
    """The words, without those that a later one of the same key replaces; one warning for each."""
    kept: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.partition("=")
        name = key.strip() if equals else word
        if kept.get(name, word) != word:
            warnings.warn(
                f"{name} is given twice, the last one counts: {word}, not {kept[name]}",
                stacklevel=2,
            )
        kept.pop(name, None)
        kept[name] = word
    return list(kept.values())


def require_steps_of_grid(keys: Sequence[str], grid: object, steps: int) -> None:
    """ConfigError where a list of times and `steps`, both given, disagree."""
    if "steps" in keys and isinstance(grid, list) and len(grid) - 1 != steps:
        raise ConfigError(
            f"grid={grid} has {len(grid) - 1} steps, not steps={steps}: leave steps out"
        )


def require_no_method(keys: Sequence[str], plan: str | None) -> None:
    """ConfigError where a learned plan and what it takes the place of are both given."""
    given = [key for key in keys if key.split(".")[0] in ("solver", "steps", "grid")]
    if plan is not None and given:
        raise ConfigError(
            f"plan={plan} takes the place of solver, steps and grid: leave {given[0]} out"
        )
