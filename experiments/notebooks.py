"""Execute the notebooks and save their outputs.

python -m experiments.notebooks              # all of notebooks/
python -m experiments.notebooks --check      # say whether their values would change
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from pndm._errors import Parser, prepare_console

FOLDER = Path(__file__).parent.parent / "notebooks"
SECONDS = 300


def executed(path: Path) -> NotebookNode:
    """Execute a notebook in a fresh kernel, started in the repository's folder."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    where = {"metadata": {"path": str(FOLDER.parent)}}
    # a cell's printed output may arrive in any number of parts
    settings = {"timeout": SECONDS, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources=where, **settings).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    return notebook


def values(notebook: NotebookNode) -> list[tuple[str, list[str]]]:
    """Each cell's source and its outputs as text; of a picture only that it exists."""
    return [
        (cell.source, [as_text(output) for output in cell.get("outputs", [])])
        for cell in notebook.cells
    ]


def as_text(output: NotebookNode) -> str:
    """An output as text, without the parts that vary between runs."""
    text = output.get("text") or output.get("data", {}).get("text/plain", output.output_type)
    return re.sub(r"0x[0-9a-f]+", "0x…", text)


def changed(path: Path) -> list[int]:
    """The cells whose outputs differ from the committed ones."""
    old, new = values(nbformat.read(path, as_version=4)), values(executed(path))
    return [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]


def main() -> None:
    """Execute all notebooks; with --check, SystemExit that names the cells that differ."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args().check
    different = {}
    for path in sorted(FOLDER.glob("*.ipynb")):
        if check:
            different |= {path.name: cells} if (cells := changed(path)) else {}
        else:
            nbformat.write(executed(path), path)
            print(path)
    if different:
        sys.exit(f"other values than committed, by cell: {different}")


if __name__ == "__main__":
    prepare_console()
    main()
