"""The same cells in IPython and in a notebook file give the same YAML, byte for byte."""

import pytest

from kale_magic.dsl.notebook import declarations_of
from kale_magic.formats import native, to_notebook
from tests.unit.magics_shell import Notebook
from tests.unit.workflows import full_workflow, random_workflow

LOAD = "%load_ext kale_magic\n"  # the fixture has loaded it


@pytest.mark.parametrize("seed", [None, *range(12)])
def test_ipython_and_the_reader_agree(tmp_path, seed):
    workflow = full_workflow() if seed is None else random_workflow(seed)
    made = to_notebook(workflow)
    cells = [cell["source"].removeprefix(LOAD) for cell in made["cells"] if cell["id"] != "show"]
    notebook = Notebook(tmp_path)
    for cell in cells:
        notebook.run(f"# above\n\n{cell}" if cell.startswith("%%") else cell)
    text = native.dump(notebook.session.declarations.workflow)
    assert text == native.dump(declarations_of(made).workflow)
    assert text == native.dump(workflow)


@pytest.mark.parametrize(
    "cell",
    [
        "%%kale_step a --outputs x\n\n\n'''text $\\nu$'''\n\n\nx = 1\n\n\n",
        "\n\n  # why\n%%kale step a --params n=10 m=['Al', 'Cu']  # note\nprint(n)   \n",
        "%%kale_step a\nx = 1 # ends with a question?",
        "%%kale_step a\n%time x = 1\n!echo 'x'\ny = !ls\n",
        "%%kale_step a --shell\n'''Doc'''\ncat <<'X'\n  a\n\nX\n",
        "    %%kale_step a\n    x = 1\n    if x:\n        y = 2",
        "%%kale_step a --setup 'echo $HOME {x}'\ndef f():\n    \"\"\"Doc.\n\n    >>> f()\n    \"\"\"\n",
        "%%kale_step a --notebook x/y.ipynb --params n=2",
        "%%kale_step a --notebook y.ipynb\n'''What it does.'''\n",
        "%%kale_submit a --cpus 2\n#!/bin/bash\n#SBATCH -n 1\nls",
    ],
)  # fmt: skip
def test_what_people_type_is_read_the_same(tmp_path, cell, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = Notebook(tmp_path)
    notebook.run(cell)
    read = declarations_of({"cells": [{"cell_type": "code", "source": cell}]}).workflow
    assert native.dump(notebook.session.declarations.workflow) == native.dump(read)
    assert list(read.steps) == ["a"]
