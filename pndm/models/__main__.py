"""The command line of the weights.

python -m pndm.models list
python -m pndm.models fetch ddpm_cifar10
python -m pndm.models convert my.ckpt --architecture ddpm_cifar10
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pndm._files import cache_dir
from pndm.models.architectures import ARCHITECTURES
from pndm.models.download import fetch
from pndm.models.registry import WEIGHTS, CheckpointError, find


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or 1 after an error of one line."""
    parser = argparse.ArgumentParser(prog="python -m pndm.models", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the weights that are known by name, and which are here")
    command = commands.add_parser("fetch", help="download weights, going on where one broke off")
    command.add_argument("name", nargs="+", help="as `list` shows them")
    command = commands.add_parser("convert", help="write safetensors, a card and a hash")
    command.add_argument("file", nargs="+", help="a file, a folder of diffusers, hf://ID, a name")
    command.add_argument("--architecture", choices=ARCHITECTURES, metavar="NAME")
    command.add_argument("--format", default="auto", help="refuse the file if it is another")
    command.add_argument(
        "--last", action="store_true", help="the last weights, not their moving average"
    )
    command.add_argument("--output", type=Path, default=Path(), help="a folder; default: here")
    options = vars(parser.parse_args(arguments))
    try:
        COMMANDS[options.pop("command")](**options)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def show() -> None:
    """Print the weights that are known by name."""
    averaged = {True: "average", False: "last", None: "unknown"}
    rows = [("name", "schedule", "T", "weights", "MB", "here", "file")]
    for w in WEIGHTS.values():
        size, here = str(w.megabytes or "?"), "yes" if w.present else "-"
        rows.append((w.name, w.schedule, str(w.timesteps), averaged[w.ema], size, here, w.file))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print(f"fetched files lie under {cache_dir() / 'weights'} (set by PNDM_HOME)")


def get(name: list[str]) -> None:
    """Fetch weights and print where they are."""
    for one in [find(one) for one in name]:
        print(fetch(one))


def convert(
    file: list[str], architecture: str | None, format: str, last: bool, output: Path
) -> None:
    """Write weights of any format as ours and print where they are."""
    from pndm.models import checkpoints

    for one in file:
        unet = checkpoints.load(one, architecture, format, ema=not last)
        path = output / f"{unet.provenance['name']}.safetensors"
        checkpoints.save(unet, path)
        print(path)


COMMANDS: dict[str, Callable[..., None]] = {"list": show, "fetch": get, "convert": convert}

if __name__ == "__main__":
    sys.exit(main())
