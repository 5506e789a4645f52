"""A cell's magic, its description, and the lines people see in messages."""

import pytest

from kale_magic.dsl.build import build_step
from kale_magic.dsl.cells import CellMagic, is_batch_script, narrated, split_cell
from kale_magic.dsl.options import parse
from kale_magic.errors import KaleError, StepSyntaxError, UsageError, WorkflowError
from kale_magic.model.step import StepKind

CELLS = {
    "%%kale_step fit --cpus 2\nx = 1\n": [CellMagic("step", "fit --cpus 2", "x = 1\n", 2)],
    "# why\n\n  # more\n%%kale_step fit\nx\ny": [CellMagic("step", "fit", "x\ny", 5)],
    "\n\n%%kale step fit\nx": [CellMagic("step", "fit", "x", 4)],
    "%%kale_common\n": [CellMagic("common", "", "", 2)],
    "%%kale_common": [CellMagic("common", "", "", 2)],
    "  %%kale_step fit\n  x = 1": [CellMagic("step", "fit", "x = 1", 2)],
    "%load_ext kale_magic\n%kale_workflow eos": [CellMagic("workflow", "eos", None, 3)],
    "%kale workflow eos --describe 'x y'\nx = 1": [CellMagic("workflow", "eos --describe 'x y'", None, 2)],
    "x = 1\n%%kale_step fit\ny": [],
    "%%bash\n%kale_workflow eos": [],
    "%%kale_steps": [CellMagic("steps", "", "", 2)],
    "%kalendar x\nkale_workflow": [],
    "%%kale": [CellMagic("", "", "", 2)],
    "": [],
    "%%kale_step a\r\nx = 1\r\n": [CellMagic("step", "a", "x = 1\n", 2)],
}


@pytest.mark.parametrize("text", CELLS, ids=repr)
def test_magics_of_a_cell(text):
    assert list(split_cell(text)) == CELLS[text]


PYTHON = {
    "'''Energy, $E(V)$.'''\nx = 1": ("Energy, $E(V)$.", "x = 1\n", 1),
    "x = 1": ("", "x = 1\n", 0),
    "\n\nx = 1\n\n\n": ("", "x = 1\n", 2),
    '"""One\n  two\n  three\n"""\n\n\nx': ("One\ntwo\nthree", "x\n", 6),
    "'one line' \nx": ("one line", "x\n", 1),
    "'''$\\nu \\xi \\underline{x}$'''\nx": ("$\\nu \\xi \\underline{x}$", "x\n", 1),
    "'$\\xi$'\nx": ("$\\xi$", "x\n", 1),
    "'''a \\\\nu b'''\nx": ("a \\nu b", "x\n", 1),
    "r'''a \\\\ b'''\nx": ("a \\\\ b", "x\n", 1),
    "'it\\'s'\nx": ("it's", "x\n", 1),
    "'''a'''  # note\nx": ("a", "x\n", 1),
    "'a'; x = 1": ("a", "x = 1\n", 0),
    "('a'\n ' b')\nx": ("a b", "x\n", 2),
    "'a' 'b'\nx": ("ab", "x\n", 1),
    "# above\n'text'\nx": ("text", "# above\n\nx\n", 0),
    "'a'.join(x)": ("", "'a'.join(x)\n", 0),
    "'%d' % x\ny": ("", "'%d' % x\ny\n", 0),
    "f'{a}'\nx": ("", "f'{a}'\nx\n", 0),
    "b'a'\nx": ("", "b'a'\nx\n", 0),
    "''''''\n'''b'''\nx": ("", "'''b'''\nx\n", 1),
    "'é' ; x": ("é", "x\n", 0),
    "('é') ; x": ("é", "x\n", 0),
    "'''a'''\n%%bash\necho 'x": ("a", "%%bash\necho 'x\n", 1),
}


@pytest.mark.parametrize("body", PYTHON, ids=repr)
def test_a_leading_literal_is_the_description(body):
    found = narrated(body, is_python=True)
    assert (found.description, found.code, found.skipped) == PYTHON[body]


@pytest.mark.parametrize(
    ("body", "description", "code"),
    [
        ("'''Lists files'''\nls", "Lists files", "ls\n"),
        ('"$CMD" -x', "", '"$CMD" -x\n'),
        ("'ls'\n", "", "'ls'\n"),
        ("  ls", "", "  ls\n"),
        ("'''it\\'s \\''''\nls", "it's '", "ls\n"),
    ],
)
def test_only_triple_quotes_describe_what_is_not_python(body, description, code):
    found = narrated(body, is_python=False)
    assert (found.description, found.code) == (description, code)


def step(line, body, first_line=2, common=()):
    return build_step(parse("step", line, is_cell=True), body, first_line=first_line, common=common)


def test_the_line_of_the_code_is_that_of_the_cell():
    assert step("a", "'''text\nmore'''\n\n\nx = 1").first_line == 6
    assert step("a", "x = 1").first_line == 2
    assert step("a", "# c\n'''t'''\nx = 1").first_line == 2


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [("x = 1\ny = (\n", 3, 5), ("'''a\nb'''\n\n\nx = = 1", 6, 5), ("# c\n't'\nx = = 1", 4, 5), ("'t'; x = = 1", 2, 5), ("%time x\n)", 3, 1)],
)
def test_syntax_errors_have_line_and_column_of_the_cell(body, line, column):
    with pytest.raises(StepSyntaxError, match=f"Step a, line {line}: ") as caught:
        step("a", body)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_lines_inside_a_message_are_of_the_cell_too():
    with pytest.raises(StepSyntaxError, match=r"line 5: .*on line 4"):
        step("a", "'''t'''\n\nfor i in x:\npass")


@pytest.mark.parametrize("body", ["", "\n  \n", "'''only text'''", "# only a comment\n", "# c\n'''t'''\n"])
def test_an_empty_cell_is_an_error(body):
    with pytest.raises(StepSyntaxError, match=r"step a|Step a"):
        step("a", body)


@pytest.mark.parametrize("name", ["a/b", "'a b'", "été", "1a", "_a", "a" * 65, "a.b", "''"])
def test_names_of_steps(name):
    with pytest.raises(StepSyntaxError, match="is no name for a step"):
        step(name, "x = 1")


def test_a_name_that_is_none_comes_with_one_that_is():
    with pytest.raises(StepSyntaxError, match=r"Write ete_2\."):
        step("'été 2'", "x = 1")


def test_kinds():
    assert step("a", "x = 1").kind is StepKind.PYTHON
    assert step("a --shell", "ls 'x'").kind is StepKind.SHELL
    assert step("a --kernel ir", "x <- 1").kernel == "ir"
    assert step("a", "#!/bin/bash\n\n# c\n#SBATCH -n 1\nls 'x'").kind is StepKind.SCRIPT
    assert step("a", "'''doc'''\n#PBS -l x\nls 'x'").kind is StepKind.SCRIPT
    assert step("a", "x = 1\n#SBATCH -n 1").kind is StepKind.PYTHON
    assert step("a --shell", "#SBATCH -n 1\nls").kind is StepKind.SHELL
    assert not is_batch_script("# SBATCH -n 1\n")


@pytest.mark.parametrize(
    ("line", "body", "error", "words"),
    [
        ("a --shell --kernel ir", "x", UsageError, "--shell and --kernel"),
        ("a --outputs energies", "energy = 1", WorkflowError, "never assigns `energies`. Did you mean energy?"),
        ("a --outputs 1a", "x = 1", UsageError, "no name of a variable"),
        ("a --inputs a..b", "x = 1", UsageError, "no name"),
        ("a --inputs x/y", "x = 1", UsageError, "no name"),
        ("a --files-in /etc/x", "x = 1", StepSyntaxError, "absolute or leaves"),
        ("a --files-out ../x", "x = 1", StepSyntaxError, "absolute or leaves"),
        ("a --files-out a/../../x", "x = 1", StepSyntaxError, "absolute or leaves"),
        ("a --each n=[1] --params n=1", "x = 1", UsageError, "n in --each and in --params"),
        ("a --each n=[1] m=[1,2] --zip", "x = 1", UsageError, "n has 1, m has 2"),
        ("a --each n=range(1000) m=range(1000)", "x = 1", UsageError, "1000000 points"),
    ],
)
def test_what_one_step_shows_to_be_wrong_is_said_at_declaration(line, body, error, words):
    with pytest.raises(error) as caught:
        step(line, body)
    assert words in str(caught.value)
    assert isinstance(caught.value, KaleError)


@pytest.mark.parametrize(
    ("line", "body", "common"),
    [
        ("a --outputs y", "from x import *", ()),
        ("a --outputs y", "exec('y = 1')", ()),
        ("a --outputs y", "pass", {"y"}),
        ("a --outputs y", "pass", None),
        ("a --outputs y --params y=1", "pass", ()),
        ("a --outputs y --each y=[1]", "pass", ()),
        ("a --outputs y --inputs b.y", "pass", ()),
        ("a --outputs y", "y.append(1)", ()),
        ("a --outputs y --shell", "ls", ()),
        ("a --files-in data/..x/*.csv", "pass", ()),
    ],
)
def test_what_can_not_be_known_is_allowed(line, body, common):
    assert step(line, body, common=common).name == "a"
