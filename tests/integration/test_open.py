"""The notebook that ``open`` makes runs, cell by cell, in the kernel of a busy step."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient

from kale_magic.api import Workflow
from kale_magic.client import Client
from tests.integration.test_cli import kale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOP = "from pathlib import Path\nimport time\nenergies = []\nwhile not Path('stop').exists():\n    energies.append(scale * len(energies) ** 2)\n    print('step', len(energies))\n    time.sleep(0.01)\n"


@pytest.fixture
def run(kale_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A run whose step md fills a list until there is a file named stop; first has handed it a value."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(kale_home / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(kale_home / "rt"))
    (kale_home / "rt").mkdir()
    workflow = Workflow("eos", folder=tmp_path)
    workflow.step("first", "x = 41", outputs=["x"])
    workflow.step("md", LOOP, inputs=["x"], params={"scale": 2}, description="Counts, $E = 2 n^2$.")
    with Client.connect() as client:
        yield workflow.submit(client=client)


def executed(path: Path, **options: Any) -> nbformat.NotebookNode:
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=60, **options).execute()
    return book


def text_of(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_all_cells_of_the_notebook_run_while_the_step_computes(run: Any, tmp_path: Path, until: Callable[..., Any]) -> None:
    made = json.loads(kale(tmp_path, "open", "md", "--json").stdout)
    assert made == {"name": f"kale-{run.name}-md", "path": str(tmp_path / "md.ipynb")}
    until(lambda: "step 20" in run["md"].logs(), "twenty steps")
    book = executed(tmp_path / "md.ipynb")
    given, log, plot = (next(cell for cell in book.cells if word in cell.source) for word in ("_short", "_log", "_rows"))
    assert text_of(given) == "scale = 2\nx = 41\n"
    assert text_of(log).splitlines()[-1].startswith("step ")
    assert len(text_of(log).splitlines()) <= 30
    picture = next(output for output in plot.outputs if output.output_type == "display_data")
    assert base64.b64decode(picture.data["image/png"]).startswith(b"\x89PNG")
    assert run["md"].state == "running"


def test_plot_without_rows_of_numbers_shows_what_the_step_uses(run: Any, tmp_path: Path, until: Callable[..., Any]) -> None:
    workflow = Workflow("other", folder=tmp_path)
    workflow.step("busy", "import time\nfrom pathlib import Path\nwhile not Path('stop').exists():\n    time.sleep(0.01)\n")
    other = workflow.submit()
    until(lambda: len(other["busy"].resources()) > 1, "two samples")
    kale(tmp_path, "open", f"{other.name}/busy", "-o", "look")
    book = executed(tmp_path / "look.ipynb")
    plot = next(cell for cell in book.cells if "_usage" in cell.source)
    assert any("image/png" in output.get("data", {}) for output in plot.outputs)
    assert "printed nothing yet" in text_of(next(cell for cell in book.cells if "_log" in cell.source))


def test_bare_python_kernel_of_another_environment_runs_the_template_too(run: Any, tmp_path: Path, kale_home: Path) -> None:
    """The cells need the standard library alone, apart from the plot."""
    folder = kale_home / "data/kernels/bare"
    folder.mkdir(parents=True)
    spec = {"argv": ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "bare", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    workflow = Workflow("other", folder=tmp_path)
    workflow.step("busy", LOOP, kernel="bare", params={"scale": 3})
    other = workflow.submit()
    kale(tmp_path, "open", f"{other.name}/busy", "--template", str(stdlib_template(tmp_path)))
    book = executed(tmp_path / "busy.ipynb")
    assert text_of(book.cells[0]).startswith("scale = 3")
    assert os.path.exists(tmp_path / "busy.ipynb")


def stdlib_template(tmp_path: Path) -> Path:
    """Kale's template with the cells that a step without matplotlib runs, and no kale_magic or kale_proxy to import."""
    from kale_magic.kernels.notebook import read_template

    book = read_template(None)
    block = "import sys\nsys.modules['kale_magic'] = sys.modules['kale_proxy'] = sys.modules['matplotlib'] = None\n"
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    cells[0]["source"] = ["".join(cells[0]["source"]) + "\n" + block]
    file = tmp_path / "template.ipynb"
    file.write_text(json.dumps(book | {"cells": cells}))
    return file
