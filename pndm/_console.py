"""The console: commands print on any, whatever letters it has, and warn in one line."""

import io
import sys
import warnings


def prepare_console() -> None:
    """Print what a console cannot show as `?`, and a UserWarning without where it was raised."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    shown = warnings.formatwarning

    def one_line(message, category, filename, lineno, line=None):  # type: ignore[no-untyped-def]
        if category is not UserWarning:
            return shown(message, category, filename, lineno, line)
        return f"warning: {' '.join(str(message).split())}\n"

    warnings.formatwarning = one_line
