"""The command line of the weights.

python -m pndm.models list
python -m pndm.models fetch ddpm_cifar10
python -m pndm.models convert my.ckpt --architecture ddpm_cifar10
"""

import sys
from collections.abc import Callable
from pathlib import Path

from pndm._errors import CONTINUES, Parser, PndmError, prepare_console
from pndm._files import cache_dir, expand_user
from pndm.models import cards, locations
from pndm.models.architectures import ARCHITECTURES
from pndm.models.download import fetch
from pndm.models.registry import WEIGHTS, CheckpointError, find


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, or 1 after an error of one line."""
    prepare_console()
    parser = Parser(prog="python -m pndm.models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the registered weights, and which are downloaded")
    command = commands.add_parser("fetch", help="download weights, resuming interrupted downloads")
    command.add_argument("name", nargs="+", help="as `list` shows them")
    command = commands.add_parser("convert", help="write safetensors, a card and a hash")
    command.add_argument("file", nargs="+", help="a file, a folder of diffusers, hf://ID, a name")
    command.add_argument("--architecture", choices=ARCHITECTURES, metavar="NAME")
    command.add_argument("--format", default="auto", help="reject the file if its format differs")
    command.add_argument("--last", action="store_true", help="the last weights, not their EMA")
    command.add_argument(
        "--output", type=expand_user, default=Path(), help="a folder; default: here"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace existing files, but never an input"
    )
    options = vars(parser.parse_args(arguments))
    try:
        COMMANDS[options.pop("command")](**options)
    except (PndmError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: {CONTINUES}", file=sys.stderr)
        return 130
    return 0


def show() -> None:
    """Print the registered weights."""
    averaged = {True: "EMA", False: "last", None: "unknown"}
    rows = [("name", "schedule", "T", "weights", "MB", "here", "file")]
    for w in WEIGHTS.values():
        size, here = str(w.megabytes or "?"), "yes" if w.present else "-"
        rows.append((w.name, w.schedule, str(w.timesteps), averaged[w.ema], size, here, w.file))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print(f"fetched files are in {cache_dir() / 'weights'} (set by PNDM_HOME)")


def get(name: list[str]) -> None:
    """Fetch weights and print their paths."""
    for one in [find(one) for one in name]:
        print(fetch(one))


def convert(
    file: list[str],
    architecture: str | None,
    format: str,
    last: bool,
    output: Path,
    overwrite: bool,
) -> None:
    """Convert weights of any format to ours and print their paths.

    CheckpointError, before anything is written, if a file would be overwritten.
    """
    from pndm.models import checkpoints

    if output.suffix == ".safetensors" or (output.exists() and not output.is_dir()):
        raise CheckpointError(f"--output {output} must be a folder, not a file")
    targets = [target(one, output, last) for one in file]
    refuse_losses(file, targets, last, overwrite)
    networks = [checkpoints.load(one, architecture, format, ema=not last) for one in file]
    for unet, path in zip(networks, targets, strict=True):
        checkpoints.save(unet, path)
        print(path)


def target(weights: str, output: Path, last: bool) -> Path:
    """The output file of weights, named as in the registry or the card."""
    path = source(weights, last)
    name = weights if weights in WEIGHTS else cards.read(path).get("name")
    return output / f"{name or locations.name_of(weights, path)}.safetensors"


def source(weights: str, last: bool) -> Path:
    """The input file of weights."""
    if weights in WEIGHTS:
        return find(weights).require()
    return locations.locate(weights, ema=not last)


def refuse_losses(file: list[str], targets: list[Path], last: bool, overwrite: bool) -> None:
    """Raise CheckpointError for two inputs of one name, and for existing output files."""
    names = [str(path.resolve()).casefold() for path in targets]
    inputs = {part.resolve() for one in file for part in locations.parts(source(one, last))}
    inputs |= {path.with_suffix(".json") for path in inputs}
    for i, (weights, path) in enumerate(zip(file, targets, strict=True)):
        first = names.index(names[i])
        if first != i:
            raise CheckpointError(
                f"{file[first]} and {weights} would both be written to {path}: convert one at a "
                "time, each with its own --output"
            )
        for file_path in (path, path.with_suffix(".json")):
            if any(
                file_path.exists() and file_path.samefile(one) for one in inputs if one.exists()
            ):
                raise CheckpointError(
                    f"{file_path} belongs to the input {weights}: give another folder as --output"
                )
            if (file_path.exists() or file_path.is_symlink()) and not overwrite:
                raise CheckpointError(
                    f"{file_path} exists already: give another folder as --output, or --overwrite"
                )


COMMANDS: dict[str, Callable[..., None]] = {"list": show, "fetch": get, "convert": convert}

if __name__ == "__main__":
    sys.exit(main())
