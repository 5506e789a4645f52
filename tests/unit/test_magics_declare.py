"""Declaring in cells: the magics' doors, mistakes on one line, comments above a magic, Tab."""

from __future__ import annotations

import pytest
from IPython.core.completer import provisionalcompleter

from tests.unit.magics_shell import Notebook


def test_loading_twice_changes_nothing(notebook: Notebook) -> None:
    before = len(notebook.shell.input_transformer_manager.cleanup_transforms)
    notebook.run("%load_ext kale_magic")
    notebook.run("%reload_ext kale_magic")
    assert len(notebook.shell.input_transformer_manager.cleanup_transforms) == before


def test_cell_becomes_a_step_and_says_so(notebook: Notebook) -> None:
    notebook.run("%kale_workflow eos")
    notebook.run("%%kale_step relax --outputs a\na = 1")
    assert notebook.text.strip() == "step relax declared"
    notebook.run("%%kale_step relax --outputs a\na = 2")
    assert "replaced" in notebook.text
    assert notebook.session.declarations.workflow.steps["relax"].code == "a = 2\n"


def test_door_is_the_same_as_the_magic(notebook: Notebook) -> None:
    notebook.run("%kale workflow eos --describe 'two words'")
    notebook.run("%%kale step relax --outputs a\na = 1")
    workflow = notebook.session.declarations.workflow
    assert (workflow.name, workflow.description, list(workflow.steps)) == ("eos", "two words", ["relax"])


def test_bare_kale_lists_every_command_on_one_screen(notebook: Notebook) -> None:
    notebook.run("%kale")
    assert all(f"kale_{name}" in notebook.text for name in ("step", "submit", "attach", "pull", "export"))
    assert len(notebook.text.splitlines()) <= 45


def test_comment_and_blank_lines_may_stand_above_a_cell_magic(notebook: Notebook) -> None:
    notebook.run("\n# relax the cell\n\n%%kale_step relax\nprint(1)")
    assert "relax" in notebook.session.declarations.workflow.steps


def test_line_of_a_syntax_error_counts_comments_above(notebook: Notebook) -> None:
    text = notebook.fail("# one\n# two\n%%kale_step relax\na = 1\nb = = 2")
    assert "line 5" in text


def test_dollar_and_braces_are_left_alone(notebook: Notebook) -> None:
    notebook.run("x = 'expanded'")
    notebook.run("%%kale_step show --shell --env OUT=$x\necho $x")
    step = notebook.session.declarations.workflow.steps["show"]
    assert step.resources.env == (("OUT", "$x"),)
    assert "--params" in notebook.fail("%%kale_step b --describe {x}\n1")


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("%%kale_step 1x\nx = 1", "'1x'"),
        ("%%kale_step a/b\nx = 1", "'a/b'"),
        ("%%kale_step a --memory lots\nx = 1", "--memory 'lots'"),
        ("%%kale_step a --walltime soon\nx = 1", "--walltime 'soon'"),
        ("%%kale_step a --outptus x\nx = 1", "Did you mean --outputs?"),
        ("%%kale_step a --outputs x\ny = 1", "never assigns `x`"),
        ("%%kale_step a\n   \n", "empty"),
        ("%kale_submit", "has no steps"),
        ("%kale stat", "Did you mean status?"),
        ("%kale step a", "%%kale_step"),
        ("%%kale status\nx", "takes no cell"),
        ("%kale_status nope", "No run 'nope'"),
        ("%kale_logs", "STEP is missing"),
        ("%kale_import missing.yaml", "can't be read"),
        ("%kale_export eos.yaml", "no steps"),
    ],
)
def test_mistake_is_one_line_and_ends_the_cell(notebook: Notebook, cell: str, word: str) -> None:
    text = notebook.fail(cell)
    assert word in text
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1


def test_error_carries_the_name_of_its_kind(notebook: Notebook) -> None:
    notebook.run("%%kale_step a --after b\n1")
    notebook.run("%%kale_step b --after a\n1")
    notebook.fail("%kale_submit")
    assert type(notebook.error).__name__ == "CycleError"


def test_help_is_printed_and_the_cell_goes_well(notebook: Notebook) -> None:
    notebook.run("%kale_submit -h")
    assert "--dry-run" in notebook.text
    notebook.run("%%kale_step -h\nx")
    assert "--walltime" in notebook.text


def test_show_gives_text_and_picture(notebook: Notebook) -> None:
    notebook.run("%%kale_step a --outputs x\nx = 1")
    notebook.run("%%kale_step b\nprint(x)")
    notebook.run("%kale_show")
    data = notebook.displays.seen[-1]["data"]
    assert 'data-kale-step="b"' in data["text/html"]
    assert "b" in data["text/plain"].splitlines()[-1]
    assert "a" in data["text/plain"].splitlines()[-1]


def test_show_draws_a_workflow_that_does_not_fit_and_says_why(notebook: Notebook) -> None:
    notebook.run("%%kale_step b\nprint(nowhere)")
    notebook.run("%kale_show")
    assert "`nowhere`" in notebook.displays.seen[-1]["data"]["text/plain"]


def test_setting_is_configurable(notebook: Notebook) -> None:
    notebook.run("%config KaleMagics.executor = 'elsewhere'")
    notebook.run("%%kale_step a\n1")
    notebook.run("%kale_submit")
    assert notebook.client.asked[-1][2]["executor"] == "elsewhere"


def _tab(notebook: Notebook, line: str) -> list[str]:
    with provisionalcompleter():
        return [item.text for item in notebook.shell.Completer.completions(line, len(line))]


def test_tab_offers_commands_options_steps_and_runs(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kale_magic.magics.complete._runs", lambda _session: ["eos-1", "eos-2"])
    notebook.run("%%kale_step relax --outputs atoms\natoms = 1")
    assert _tab(notebook, "%kale_sub") == ["%kale_submit"]
    assert "step" in _tab(notebook, "%%kale st")
    assert _tab(notebook, "%%kale_step b --wall") == ["--walltime"]
    assert _tab(notebook, "%%kale_step b --after re") == ["relax"]
    assert _tab(notebook, "%%kale_step b --inputs at") == ["atoms"]
    assert _tab(notebook, "%kale_pull relax a") == ["atoms"]
    assert _tab(notebook, "%kale_status eos") == ["eos-1", "eos-2"]
    assert _tab(notebook, "%%kale_attach r") == ["relax"]
    assert _tab(notebook, "%kale_export f --format sn") == ["snakemake"]


def test_tab_outside_kale_is_ipython_s_own(notebook: Notebook) -> None:
    notebook.run("kale_number = 3")
    assert "kale_number" in _tab(notebook, "kale_num")
