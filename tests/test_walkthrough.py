"""The notebook runs from its first cell to its last, and shows plans, results and comparisons as tables."""

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
NOTEBOOK = EXPERIMENTS / "walkthrough.ipynb"


def shown(notebook: Any) -> dict[str, str]:
    """What each cell of code shows as HTML."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return {cell.source: "".join(one.get("data", {}).get("text/html", "") for one in cell.outputs) for cell in cells}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Proactor event loop")
def test_the_notebook_runs_and_shows_what_it_showed(tmp_path: Path) -> None:
    shutil.copy(NOTEBOOK, tmp_path)
    shutil.copytree(EXPERIMENTS / "data", tmp_path / "data")
    notebook = nbformat.read(tmp_path / NOTEBOOK.name, 4)
    kept = shown(notebook)
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    for source, html in shown(notebook).items():
        assert html.count("<tr>") == kept[source].count("<tr>"), source
    tables = "".join(shown(notebook).values())
    for part in ("heads", "category", "95 % interval", "settings that differ", "<td"):
        assert part in tables


def test_the_notebook_has_no_paths_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert '"/' not in text.replace('"/",', "")
    assert "sqlite:///" not in text
