"""The notebooks: committed executed, and still showing the same values."""

import nbformat
import pytest

from experiments import notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_committed_executed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.output_type == "error"]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert path.stat().st_size < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_values_are_those_committed(path):
    """Executed again: the same sources show the same text; pictures are there or not."""
    assert notebooks.changed(path) == []


def test_a_changed_value_is_seen(tmp_path, monkeypatch):
    """One cell's committed value altered is the one that is named."""
    result = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(f"print({i})") for i in range(3)]
    )
    path = tmp_path / "made.ipynb"
    nbformat.write(result, path)
    nbformat.write(notebooks.executed(path), path)
    assert notebooks.changed(path) == []
    altered = path.read_text().replace('"1\\n"', '"one\\n"')
    path.write_text(altered)
    assert notebooks.changed(path) == [1]
