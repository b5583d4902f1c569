"""The command line of the datasets.

python -m pndm.data list
python -m pndm.data fetch cifar10
"""

from pndm._errors import Parser, one_line_exit, prepare_console
from pndm.data.download import LICENCES, PUBLISHED, fetch, pieces


def main(words: list[str] | None = None) -> None:
    """Run one command; SystemExit with one line if it cannot."""
    prepare_console()
    parser = Parser(prog="python -m pndm.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the published datasets, and which are here")
    command = commands.add_parser("fetch", help="download and unpack a dataset, of any size")
    command.add_argument("dataset", nargs="+", choices=PUBLISHED)
    options = parser.parse_args(words)
    with one_line_exit("the same command goes on with the download"):
        if options.command == "list":
            return show()
        for dataset in options.dataset:
            print(fetch(dataset))


def show() -> None:
    """Print the published datasets."""
    for dataset in PUBLISHED:
        for piece in pieces(dataset):
            here = "here" if piece.present else "-"
            size = f"{(piece.remote.size or 0) / 1e6:,.0f} MB"
            print(f"{dataset:14} {size:>10}  {here:4}  {piece.remote.url}  ({LICENCES[dataset]})")


if __name__ == "__main__":
    main()
