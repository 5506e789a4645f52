"""The demo notebook as it is in the repository: what it declares, and that it holds no outputs."""

import ast
from pathlib import Path

import nbformat
import pytest

from kale_magic.dsl.notebook import read_notebook
from kale_magic.model.dataflow import resolve

DEMO = Path(__file__).parents[2] / "demo_notebooks" / "01_equation_of_state.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(DEMO, as_version=4)


STEERING = [DEMO.with_name("02_supernova_blast.ipynb"), DEMO.with_name("04_live_hyperparameters.ipynb")]
ALL = sorted(DEMO.parent.glob("*.ipynb"))


@pytest.mark.parametrize("path", STEERING, ids=lambda path: path.stem)
def test_demos_of_steering_declare_one_step(path):
    assert len(resolve(read_notebook(path)).steps) == 1


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_demos_keep_no_outputs_and_their_cells_have_ids_of_their_own(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert notebook.metadata.kernelspec.name == "python3"


def test_demo_declares_the_four_steps_and_their_edges_come_from_names():
    plan = resolve(read_notebook(DEMO))
    assert {name: set(step.parents) for name, step in plan.steps.items()} == {
        "curve": set(),
        "fit": {"curve"},
        "expansion": {"fit"},
        "compare": {"fit", "expansion"},
    }
    assert plan.steps["curve"].point_count == 7


def test_the_demo_with_a_gate_declares_its_steps_and_their_edges_come_from_names():
    workflow = read_notebook(DEMO.with_name("03_mass_spec_imaging.ipynb"))
    plan = resolve(workflow)
    assert {name: set(step.parents) for name, step in plan.steps.items()} == {
        "acquire": set(),
        "pick": {"acquire"},
        "images": {"acquire", "pick"},
        "region": {"images", "pick"},
        "segment": {"region"},
        "compare": {"acquire", "pick", "region", "segment"},
    }
    assert [name for name, step in workflow.steps.items() if step.is_gate] == ["region"]


def test_demo_needs_only_what_its_extra_installs(notebook):
    roots = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        lines = [line for line in cell.source.split("\n") if not line.startswith("%")]
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add(node.module.partition(".")[0])
    assert roots <= {"ase", "matplotlib", "numpy", "scipy", "IPython", "contextlib", "time"}
