"""Reference statistics on the command line.

python -m pndm.evaluation reference cifar10 --workers 8
python -m pndm.evaluation import cifar10 --source edm --file cifar10-32x32.npz --n 50000
python -m pndm.evaluation floor fashion_mnist
"""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pndm._devices import check_device, resolve_device
from pndm._download import Unavailable, download
from pndm._errors import (
    InputError,
    MissingFile,
    Parser,
    PndmError,
    one_line_exit,
    prepare_console,
)
from pndm._files import cache_dir, expand_user
from pndm.data import datasets
from pndm.data.download import fetch_unasked
from pndm.evaluation import classifier, statistics
from pndm.evaluation.features import (
    EXTRACTORS,
    LABELS,
    Extractor,
    MissingReference,
    extract_features,
    inception_file,
    inception_remote,
    load_extractor,
)
from pndm.evaluation.metrics import distance, fid, split_half_fid
from pndm.evaluation.reference import (
    PUBLISHED,
    SHIPPED,
    Reference,
    compute_reference,
    features_path,
    import_reference,
    load_reference,
    reference_path,
)

FLOORS = {recipe.dataset: name for name, recipe in classifier.RECIPES.items()}
"""The datasets that have a classifier of their own, and its features."""


def compute(
    dataset: str,
    extractor: str,
    root: Path | None,
    weights: Path | None,
    any_weights: bool,
    batch_size: int,
    workers: int,
    device: str,
    output: Path | None,
    keep_features: bool,
    part: datasets.Part,
) -> None:
    """Compute and save the reference statistics of a dataset, and optionally the features.

    Shipped statistics are not overwritten, unless --output names them.
    """
    check_device(device)
    if keep_features and part != "all":
        raise InputError("--keep-features is for --part all, which samples are compared with")
    if extractor == "inception" and weights is None:
        with missing("no Inception weights"):
            get_inception()
    if root is None:
        with missing(f"{dataset} is missing"):
            fetch_unasked(dataset)
    network = load_extractor(extractor, torch.device(resolve_device(device)), weights, any_weights)
    features = features_path(dataset, network.name, root) if keep_features else None
    reference = compute_reference(
        dataset, network, root, batch_size, workers, True, features, part
    )
    path = reference_path(dataset, network.name, root, part)
    if path.parent == SHIPPED and output is None:
        return print(f"{reference.label}\nreference: {path}, shipped with the package")
    save(reference, output or path)


def import_published(dataset: str, file: Path, source: str, n: int, output: Path | None) -> None:
    """Save published statistics, labelled with their source.

    run.py does not use them: pass path= and override=True to `reference.load_reference`.
    """
    reference = import_reference(file, dataset, source, n)
    save(reference, output or cache_dir() / "references" / f"{dataset}_{source}.npz")


def floor(dataset: str, root: Path | None, seeds: int) -> None:
    """Print what real images score: random halves of the digits, or the test images of clothes."""
    extractor = load_extractor(FLOORS[dataset])
    if dataset == "digits":
        features = torch.cat(list(extract_features(datasets.digits(), extractor)))
        numbers = split_half_fid(features, range(seeds))
    else:
        numbers = fid_of_test_images(dataset, extractor, root)
    print(json.dumps({"metric": LABELS[extractor.name], **numbers}, indent=2))


def fid_of_test_images(dataset: str, extractor: Extractor, root: Path | None) -> dict[str, Any]:
    """The FID of a dataset's test images; of their statistics in the package where none are here.

    MissingData where a root was given that does not have them.
    """
    reference = load_reference(dataset, extractor, root=root)
    try:
        data = datasets.source(dataset)("test", root)
    except datasets.MissingData:
        if root is not None:
            raise
        test = Reference.load(reference_path(dataset, extractor.name, root, "test"))
        return {"value": distance(test, reference), "n": test.n}
    return fid(statistics.blocks(torch.cat(list(extract_features(data, extractor)))), reference)


@contextlib.contextmanager
def missing(what: str) -> Iterator[None]:
    """Say first what is missing where its publisher does not answer."""
    try:
        yield
    except Unavailable as error:
        raise MissingFile(f"{what}: {error}") from None


def get_inception() -> None:
    """Download Inception where it is not here."""
    try:
        inception_file()
    except MissingReference:
        download(inception_remote())


def save(reference: Reference, path: Path) -> None:
    """Save a reference and print its path."""
    reference.save(path)
    print(f"{reference.label}\nreference: {path}")


def at_least(least: int) -> Callable[[str], int]:
    """Return a parser of integers from `least`."""

    def parse(text: str) -> int:
        number = int(text) if text.removeprefix("-").isdecimal() else None
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return number

    return parse


def user_path(text: str) -> Path:
    """A path as a person gives it, which the shell may have left with its ~."""
    try:
        return expand_user(text)
    except PndmError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def output_path(text: str) -> Path:
    """The path of a file to write, which a folder is not."""
    path = user_path(text)
    if os.path.isdir(path):  # raises nothing, unlike path.is_dir
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file in it")
    return path


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(prog="python -m pndm.evaluation", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[..., None]) -> Parser:
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        return command

    command = add("reference", compute)
    command.add_argument("dataset", choices=datasets.DATASETS, metavar="DATASET")
    command.add_argument("--extractor", choices=EXTRACTORS, default="inception")
    command.add_argument("--root", type=user_path, help="the folder of the dataset")
    command.add_argument("--weights", type=user_path, help="another Inception weight file")
    command.add_argument("--any-weights", action="store_true", help="accept any hash")
    command.add_argument("--batch-size", type=at_least(1), default=64)
    command.add_argument("--workers", type=at_least(0), default=0, help="loader processes")
    command.add_argument("--device", default="auto")
    command.add_argument("--output", type=output_path, help="default: in PNDM_HOME/references")
    command.add_argument("--keep-features", action="store_true", help="for kid and prc")
    command.add_argument("--part", choices=("all", "test"), default="all", help="of the dataset")
    command = add("import", import_published)
    command.add_argument("dataset", choices=datasets.DATASETS, metavar="DATASET")
    command.add_argument(
        "--file", type=user_path, required=True, help="an .npz with mu and sigma, or features"
    )
    command.add_argument("--source", choices=PUBLISHED, required=True, help="who published it")
    command.add_argument("--n", type=at_least(2), required=True, help="number of images behind it")
    command.add_argument("--output", type=output_path, help="default: in PNDM_HOME/references")
    command = add("floor", floor)
    command.add_argument("dataset", nargs="?", choices=FLOORS, default="digits", metavar="DATASET")
    command.add_argument("--root", type=user_path, help="the folder of the dataset")
    command.add_argument("--seeds", type=at_least(1), default=10, help="random halvings")
    return top


def main(words: Sequence[str] | None = None) -> None:
    """Run one command; SystemExit with one line if it cannot."""
    prepare_console()
    options = vars(parser().parse_args(words))
    with one_line_exit("the same command begins again"):
        options.pop("run")(**options)


if __name__ == "__main__":
    main()
