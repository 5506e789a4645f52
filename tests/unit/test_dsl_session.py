"""What a notebook declares, cell by cell; and the same read from its file."""

import json

import pytest

from kale_magic.dsl.notebook import declarations_of, name_from, read_notebook
from kale_magic.dsl.options import HelpRequested
from kale_magic.dsl.session import Declarations
from kale_magic.errors import FormatError, StepSyntaxError, UnknownRunError, UsageError, WorkflowError
from kale_magic.formats import native
from kale_magic.model.workflow import Workflow
from tests.unit.workflows import full_workflow

NEWCOMER = [
    "%load_ext kale_magic\n%kale_workflow eos",
    "# the library\n%%kale_common\nimport numpy as np",
    "print('not a step')",
    "%%kale_step curve --each metal=['Al', 'Cu', 'Ni'] --outputs volumes,energies\n'''Energy, $E(V)$.'''\nvolumes = np.ones(3)\nenergies = 2",
    "%%kale step fit --outputs a0\na0 = list(zip(volumes, energies))",
    "%%kale_markdown\n# An equation of state",
    "%%kale_markdown fit\nThe *fit*.",
    "%kale_submit  # a live DAG",
    "%%kale_attach curve[metal=Cu]\nplt.plot(volumes, energies)",
    "%kale_pull fit a0",
]


def notebook(cells):
    return {"cells": [{"cell_type": "code", "source": text, "metadata": {}, "outputs": []} for text in cells], "nbformat": 4}


def live(cells):
    """Apply the cells as the magics of a live notebook do."""
    declared = Declarations()
    messages = [
        declared.apply("workflow", "eos"),
        declared.apply("common", "", "import numpy as np\n"),
        declared.apply("step", cells[3].split("\n")[0].removeprefix("%%kale_step "), cells[3].split("\n", 1)[1] + "\n"),
        declared.apply("step", "fit --outputs a0", "a0 = list(zip(volumes, energies))\n"),
        declared.apply("markdown", "", "# An equation of state\n"),
        declared.apply("markdown", "fit", "The *fit*.\n"),
    ]
    return declared, messages


def test_live_and_file_give_the_same_bytes():
    declared, messages = live(NEWCOMER)
    assert native.dump(declared.workflow) == native.dump(declarations_of(notebook(NEWCOMER)).workflow)
    assert messages == [
        "workflow eos (0 steps) started",
        "common block common declared",
        "step curve declared (3 points)",
        "step fit declared",
        "Markdown for workflow eos kept",
        "Markdown for step fit kept",
    ]


def test_declaring_again_replaces_in_place_and_says_so():
    declared, _ = live(NEWCOMER)
    assert declared.apply("step", "curve", "x = 1\n") == "step curve replaced"
    assert list(declared.workflow.steps) == ["curve", "fit"]
    assert declared.workflow.steps["curve"].code == "x = 1\n"
    assert declared.apply("common", "", "import os\n") == "common block common replaced"
    assert declared.apply("common", "more", "import sys\n") == "common block more declared"
    assert declared.workflow.common_code() == "import os\n\nimport sys\n"
    assert declared.apply("markdown", "fit", "new\n") == "Markdown for step fit replaced"


def test_several_workflows_in_one_notebook():
    declared, _ = live(NEWCOMER)
    assert declared.apply("workflow", "other --executor local --dir runs --describe 'It is other'") == "workflow other (0 steps) started"
    declared.apply("step", "a", "x = 1\n")
    assert declared.workflow.executor == "local"
    assert declared.workflow.directory == "runs"
    assert declared.workflow.description == "It is other"
    assert declared.apply("workflow", "eos") == "workflow eos (2 steps) selected"
    assert declared.apply("workflow", "other") == "workflow other (1 step) selected"
    assert declared.workflow.description == "It is other"
    assert declared.apply("workflow", "") == "workflow other (1 step)"
    assert list(declared.workflows) == ["eos", "other"]
    with pytest.raises(StepSyntaxError, match="Workflows EOS and eos differ only in case"):
        declared.apply("workflow", "EOS")


def test_steps_declared_before_the_first_name_belong_to_it():
    declared = Declarations("notes")
    declared.apply("step", "a", "x = 1\n")
    assert declared.workflow.name == "notes"
    assert declared.apply("workflow", "eos") == "workflow eos (1 step) started"
    assert list(declared.workflows) == ["eos"]
    declared.apply("workflow", "notes")
    assert list(declared.workflow.steps) == []


def test_a_cell_for_submit_declares_too():
    declared = Declarations()
    assert declared.apply("submit", "job --cpus 2", "#!/bin/sh\n#SBATCH -n 1\nls\n") == "step job declared"
    assert declarations_of(notebook(["%%kale_submit job --cpus 2\n#!/bin/sh\n#SBATCH -n 1\nls"])).workflow == declared.workflow


def test_an_error_changes_nothing():
    declared, _ = live(NEWCOMER)
    before = declared.workflow
    for magic, line, body, error in [
        ("step", "curve", "x = (\n", StepSyntaxError),
        ("step", "Curve", "x = 1\n", WorkflowError),
        ("step", "curve --bogus", "x = 1\n", UsageError),
        ("step", "curve", None, UsageError),
        ("common", "", "import (\n", StepSyntaxError),
        ("common", "", "\n", StepSyntaxError),
        ("common", "a/b", "x = 1\n", StepSyntaxError),
        ("markdown", "fit", " \n", StepSyntaxError),
        ("markdown", "a/b", "x\n", StepSyntaxError),
        ("workflow", "a/b", None, StepSyntaxError),
        ("attach", "fit", "x\n", UsageError),
        ("step", "-h", "x\n", HelpRequested),
    ]:
        with pytest.raises(error):
            declared.apply(magic, line, body)
    assert declared.workflow == before


def test_common_names_count_as_outputs_and_star_imports_open_everything():
    declared = Declarations()
    declared.apply("common", "", "shared = 1\n")
    declared.apply("step", "a --outputs shared", "pass\n")
    with pytest.raises(WorkflowError, match="never assigns"):
        declared.apply("step", "b --outputs y", "pass\n")
    declared.apply("common", "", "from numpy import *\n")
    declared.apply("step", "b --outputs y", "pass\n")


def test_common_syntax_error_has_the_cells_line():
    with pytest.raises(StepSyntaxError, match="Common block common, line 4") as caught:
        Declarations().apply("common", "", "\nx = 1\ny = (\n")
    assert caught.value.line == 4


def test_an_imported_workflow_becomes_the_notebooks():
    declared = Declarations()
    assert declared.take(full_workflow()) == "workflow eos (4 steps) imported"
    assert declared.take(full_workflow()) == "workflow eos (4 steps) replaced"
    assert list(declared.workflows) == ["eos"]
    assert declared.workflow == full_workflow()


def test_read_notebook_takes_the_files_name_where_none_is_given(tmp_path):
    file = tmp_path / "My notes (2).ipynb"
    file.write_text(json.dumps(notebook(["%%kale_step a\nx = 1"])))
    assert read_notebook(file).name == "My_notes_2"
    file.write_text(json.dumps(notebook(NEWCOMER)))
    assert read_notebook(file).name == "eos"


def test_read_notebook_chooses_a_workflow(tmp_path):
    file = tmp_path / "n.ipynb"
    file.write_text(json.dumps(notebook(["%kale_workflow one", "%%kale_step a\nx = 1", "%kale_workflow two", "%%kale_step b\nx = 1"])))
    assert read_notebook(file).name == "two"
    assert list(read_notebook(file, workflow="one").steps) == ["a"]
    with pytest.raises(UnknownRunError, match=r"no workflow 'three'. It has: one, two"):
        read_notebook(file, workflow="three")


def test_sources_as_lists_of_lines_and_other_cells():
    cells = notebook(["%%kale_step a\nx = 1\ny = 2\n"])
    cells["cells"][0]["source"] = ["%%kale_step a\n", "x = 1\n", "y = 2"]
    cells["cells"] += [{"cell_type": "markdown", "source": "%%kale_step b\nx"}, {"cell_type": "raw", "source": "%%kale_step c\nx"}]
    workflow = declarations_of(cells).workflow
    assert list(workflow.steps) == ["a"]
    assert workflow.steps["a"].code == "x = 1\ny = 2\n"


@pytest.mark.parametrize("stem", ["eos", "My notes", "été", "01_equation", "", "---", "a" * 100, "1" * 100])
def test_a_files_name_always_makes_a_workflows(stem):
    Declarations().apply("workflow", name_from(stem))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["x", "%%kale_step a\nx = ("], r"n\.ipynb, cell 2: Step a, line 2: "),
        (["# c\n\n%%kale_step a\n'''t'''\nx = ("], r"n\.ipynb, cell 1: Step a, line 5: "),
        (["%%kale_step a --bogus\nx"], r"cell 1: %%kale_step: there is no option --bogus"),
        (["%%kale_steps a\nx"], r"cell 1: there is no %%kale_steps. Did you mean step\?"),
        (["%kale_worklow a\nx"], r"cell 1: there is no %kale_worklow. Did you mean workflow\?"),
    ],
)
def test_mistakes_name_file_cell_and_line(tmp_path, cells, words):
    file = tmp_path / "n.ipynb"
    file.write_text(json.dumps(notebook(cells)))
    with pytest.raises((StepSyntaxError, UsageError), match=words):
        read_notebook(file)


def test_help_in_a_cell_declares_nothing():
    assert declarations_of(notebook(["%%kale_step -h\nx"])).workflow == Workflow(name="workflow")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"cells": 3}', '{"cells": [3]}', '{"worksheets": []}', "\udce9", "[" * 100_000])
def test_what_is_no_notebook(tmp_path, text):
    file = tmp_path / "n.ipynb"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FormatError, match=r"n\.ipynb"):
        read_notebook(file)


def test_a_notebook_that_is_not_there(tmp_path):
    with pytest.raises(FormatError, match="can't be read: No such file"):
        read_notebook(tmp_path / "none.ipynb")


def test_a_step_declared_by_mistake_is_taken_out():
    declarations = Declarations()
    for name in ("a", "b"):
        declarations.apply("step", name, "x = 1\n")
    assert declarations.apply("workflow", "--remove a") == "removed a; workflow workflow (1 step)"
    assert list(declarations.workflow.steps) == ["b"]
    with pytest.raises(WorkflowError, match="no step of workflow workflow. There are: b"):
        declarations.apply("workflow", "--remove b,c")
    assert list(declarations.workflow.steps) == ["b"]
