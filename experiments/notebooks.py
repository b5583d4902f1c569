"""Run the notebooks anew and keep what they show.

python -m experiments.notebooks              # all of notebooks/
python -m experiments.notebooks --check      # say whether their values would change
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from pndm._errors import prepare_console

FOLDER = Path(__file__).parent.parent / "notebooks"
SECONDS = 300


def executed(path: Path) -> NotebookNode:
    """A notebook with the outputs of a fresh kernel, started in the repository's folder."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    where = {"metadata": {"path": str(FOLDER.parent)}}
    # what a cell prints may come in any number of parts
    settings = {"timeout": SECONDS, "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources=where, **settings).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    return notebook


def values(notebook: NotebookNode) -> list[tuple[str, list[str]]]:
    """Each cell's source and what it shows as text; pictures count as being there."""
    return [
        (cell.source, [shown(output) for output in cell.get("outputs", [])])
        for cell in notebook.cells
    ]


def shown(output: NotebookNode) -> str:
    """An output as text, without what changes from run to run."""
    text = output.get("text") or output.get("data", {}).get("text/plain", output.output_type)
    return re.sub(r"0x[0-9a-f]+", "0x…", text)


def changed(path: Path) -> list[int]:
    """The cells whose values are not what is committed."""
    old, new = values(nbformat.read(path, as_version=4)), values(executed(path))
    return [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]


def main() -> None:
    """Execute all; SystemExit naming the cells that differ with --check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
