"""Submitting and watching: the live display, the run as value, failures, waiting, cancelling."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kale_magic.api import Run
from kale_magic.errors import ManagerUnavailable
from tests.unit.magics_shell import Notebook

TWO_STEPS = ("%kale_workflow eos", "%%kale_step relax --outputs a\na = 1", "%%kale_step fit --outputs b\nb = a + 1")


@pytest.fixture
def eos(notebook: Notebook) -> Notebook:
    for cell in TWO_STEPS:
        notebook.run(cell)
    return notebook


class _FakeKernel:
    pass


def rich(book: Notebook) -> Notebook:
    """Make the shell look like a kernel's, so that displays are updated in place."""
    book.shell.kernel = _FakeKernel()
    return book


def test_submit_hands_over_the_workflow_and_gives_the_run_without_showing_it_twice(eos: Notebook) -> None:
    run = eos.run("%kale_submit --name first")
    assert isinstance(run, Run)
    assert run.name == "first"
    assert eos.shell.user_ns["_"] is run
    assert eos.text.strip().splitlines()[-1] == "Out[4]: first"  # its id, no second table
    _, workflow, fields = eos.client.asked[-1]
    assert list(workflow["steps"]) == ["relax", "fit"]
    assert fields["folder"] == Path.cwd()


def test_run_that_was_assigned_is_shown_when_asked(eos: Notebook) -> None:
    eos.run("r = %kale_submit --name first")
    eos.run("r")
    assert "first running: 0 of 2 steps" in eos.text


def test_step_environment_is_cleaned_and_said(eos: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    eos.run("%kale_submit")
    assert "SLURM_JOB_ID" not in eos.client.asked[-1][2]["environ"]
    assert "SLURM_JOB_ID" in eos.text


def test_name_that_only_the_notebook_has_is_refused_with_the_way_out(eos: Notebook) -> None:
    eos.run("import math as np")
    eos.run("%%kale_step plot\nnp.sqrt(b)")
    text = eos.fail("%kale_submit")
    assert "`np`" in text
    assert "%%kale_common" in text
    assert not eos.client.asked


def test_unknown_parameter_is_refused_with_those_there_are(eos: Notebook) -> None:
    eos.run("%%kale_step relax --outputs a --params n=1\na = n")
    assert "There are: n." in eos.fail("%kale_submit --params m=2")
    eos.run("%kale_submit --params n=(1, 2)")
    assert eos.client.asked[-1][2]["params"] == {"n": "(1, 2)"}


def test_dry_run_shows_order_and_script_and_submits_nothing(eos: Notebook) -> None:
    eos.run("%%kale_step pack --shell --after fit --cpus 2 --walltime 10 --setup 'module purge'\ntar cf x.tar .")
    eos.run("%kale_submit --dry-run")
    assert re.findall(r"^--- (\w+)", eos.text, re.MULTILINE) == ["relax", "fit", "pack"]
    assert "gets a: relax.a" in eos.text
    assert "module purge" in eos.text
    assert "tar cf x.tar ." in eos.text
    assert "00:10:00" in eos.text
    assert "relax: cached" not in eos.text
    assert "runs because: never ran" in eos.text
    assert [fields["dry"] for _, _, fields in eos.client.asked] == [True]
    assert not eos.client.runs_by_id


def test_dry_run_of_a_part_says_what_comes_from_earlier(eos: Notebook) -> None:
    eos.run("%kale_submit --dry-run --only fit")
    assert re.findall(r"^--- (\w+)", eos.text, re.MULTILINE) == ["fit"]
    assert "of an earlier run" in eos.text


def test_display_is_one_and_ends_static(eos: Notebook) -> None:
    rich(eos)
    status = None

    def finish() -> None:
        status["steps"]["relax"]["state"] = status["steps"]["fit"]["state"] = "completed"
        status["state"] = "completed"

    eos.client.changes = [lambda: status["steps"]["relax"].update(state="running"), finish]
    real = eos.client.submit

    def submit(*args, **kwargs):
        nonlocal status
        answer = real(*args, **kwargs)
        status = eos.client.runs_by_id[answer["run"]]
        return answer

    eos.client.submit = submit
    eos.run("%kale_submit --name first")
    eos.session.settle("first")
    shown = [item for item in eos.displays.seen if item.get("id")]
    assert len({item["id"] for item in shown}) == 1
    assert not shown[0]["update"]
    assert all(item["update"] for item in shown[1:])
    assert 'data-kale-state="completed"' in shown[-1]["data"]["text/html"]
    assert "2 of 2 steps completed" in shown[-1]["data"]["text/plain"]


def test_end_that_came_between_cells_is_sent_again_with_the_next_cell(eos: Notebook) -> None:
    rich(eos)
    eos.run("%kale_submit --name first")
    eos.client.runs_by_id["first"]["state"] = "completed"
    eos.session.settle("first")
    sent = len(eos.displays.seen)
    eos.run("1")
    eos.run("1")
    again = [item for item in eos.displays.seen[sent:] if item.get("id")]
    assert len(again) == 1
    assert again[0]["update"]


def test_display_goes_on_when_a_lost_manager_is_back(eos: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    rich(eos)
    monkeypatch.setattr("kale_magic.magics.live._RETRY_S", 0.01)
    eos.run("%kale_submit --name first")
    real, lost = eos.client.status, iter([ManagerUnavailable("No manager runs.")] * 3)

    def status(run=None, *, brief=False):
        for error in lost:
            raise error
        return real(run)

    eos.client.status = status
    eos.client.runs_by_id["first"]["state"] = "completed"
    eos.session.settle("first")
    assert 'data-kale-state="completed"' in eos.displays.seen[-1]["data"]["text/html"]


def test_failure_shows_the_traceback_and_waiting_fails_in_one_line(eos: Notebook) -> None:
    rich(eos)
    error = {"ename": "ValueError", "evalue": "no cell", "traceback": ["\x1b[31mline 3\x1b[39m", "ValueError: no cell"]}
    failed = {"state": "failed", "reason": "ValueError: no cell", "error": error}
    later = {"state": "cancelled", "reason": "relax failed"}
    eos.client.add("first", {"relax": failed, "fit": later}, state="failed")
    text = eos.fail("%kale_wait first")
    assert text.strip() == "Run first failed: relax failed: ValueError: no cell"
    assert type(eos.error).__name__ == "StepFailed"
    bundle = eos.displays.seen[-1]["data"]
    assert "line 3" in bundle["text/plain"]
    assert "relax failed" in bundle["text/plain"]
    assert "ValueError: no cell" in bundle["text/html"]


def test_wait_ends_at_its_timeout_and_the_run_goes_on(eos: Notebook) -> None:
    eos.run("%kale_submit --name first")
    text = eos.fail("%kale_wait --timeout 0.1")
    assert "first has not ended within 0.1 s" in text
    assert type(eos.error).__name__ == "TimeoutError"


def test_interrupted_wait_says_that_the_run_goes_on(eos: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    eos.run("%kale_submit --name first")

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(eos.client, "wait", interrupted)
    assert "first goes on" in eos.fail("%kale_wait first")


def test_wait_for_a_step_ends_with_the_step(eos: Notebook) -> None:
    status = eos.client.add("first", {"relax": {"state": "running"}, "fit": {}})
    eos.client.changes = [lambda: status["steps"]["relax"].update(state="completed")]
    eos.run("%kale_wait relax")
    assert "first/relax has completed" in eos.text


def test_status_takes_the_newest_run_of_this_workflow(eos: Notebook) -> None:
    eos.client.add("old", {"relax": {"state": "completed"}}, state="completed")
    eos.client.add("new", {"relax": {"state": "running"}})
    eos.client.add("other", {"md": {"state": "running"}}, workflow="melt")
    eos.run("%kale_status")
    assert "new running" in eos.displays.seen[-1]["data"]["text/plain"]


def test_runs_are_a_table_newest_first(eos: Notebook) -> None:
    eos.client.add("old", {"relax": {"state": "completed"}}, state="completed")
    eos.client.add("new", {"relax": {"state": "running"}})
    eos.run("%kale_runs")
    text = eos.displays.seen[-1]["data"]["text/plain"]
    assert text.index("new") < text.index("old")
    assert "<table" in eos.displays.seen[-1]["data"]["text/html"]


def test_cancel_takes_a_run_or_a_step(eos: Notebook) -> None:
    eos.client.add("first", {"relax": {"state": "running"}, "fit": {}})
    eos.run("%kale_cancel fit")
    eos.run("%kale_cancel first")
    assert eos.client.asked == [("cancel", "first", "fit", None), ("cancel", "first", None, None)]
    assert eos.text.strip() == "first: cancelled relax"
    eos.run("%kale_cancel first")
    assert "nothing to cancel" in eos.text


def test_command_on_a_step_live_in_two_runs_lists_them(eos: Notebook) -> None:
    for run in ("first", "second"):
        eos.client.add(run, {"relax": {"state": "running"}, "fit": {}})
        eos.client.places[run, "relax", None] = {"live": "/live"}
    text = eos.fail("%kale_stop relax")
    assert "second/relax (running), first/relax (running)" in text
    eos.run("%kale_stop first/relax")
    assert eos.client.asked == [("stop", "first", "relax", None)]
    assert "first/relax is paused (stopped). Look inside: %%kale_attach first/relax" in eos.text
    assert "no code to stop" in eos.fail("%kale_stop first/fit")


def test_logs_are_printed_as_they_are(eos: Notebook, tmp_path: Path) -> None:
    eos.client.add("first", {"relax": {"state": "running"}})
    folder = tmp_path / ".kale/runs/first/steps/relax"
    folder.mkdir(parents=True)
    eos.run("%kale_logs relax")
    assert "first/relax is running: it has printed nothing" in eos.text
    (folder / "stdout.log").write_text("".join(f"line {n}\n" for n in range(100_000)))
    eos.run("%kale_logs relax --tail 2")
    assert eos.text == "line 99998\nline 99999\n"


def test_unknown_step_suggests_the_near_one(eos: Notebook) -> None:
    eos.client.add("first", {"relax": {"state": "running"}})
    assert "Did you mean relax?" in eos.fail("%kale_logs relx")


def test_cell_submit_runs_this_step_alone(eos: Notebook) -> None:
    eos.run("%%kale_submit single --cpus 2\nprint('hello')")
    assert eos.client.asked[-1][2]["only"] == ["single"]
    assert eos.client.asked[-1][1]["steps"]["single"]["resources"] == {"cpus": 2}


def test_batch_script_is_kept_as_it_stands(eos: Notebook) -> None:
    eos.run("%%kale_submit job\n#!/bin/bash\n#SBATCH -n 2\necho $HOME")
    assert eos.client.asked[-1][1]["steps"]["job"]["kind"] == "script"


def test_run_option_runs_what_is_needed_and_not_what_is_there(eos: Notebook) -> None:
    eos.client.submitted_state = "completed"
    eos.run("%%kale_step fit --outputs b --run\nb = a + 1")
    assert sorted(eos.client.asked[-1][2]["only"]) == ["fit", "relax"]
    eos.run("%%kale_step fit --outputs b --run\nb = a + 2")
    assert sorted(eos.client.asked[-1][2]["only"]) == ["fit", "relax"]  # what is there is found unchanged by the manager
    assert eos.client.asked[-1][2]["fresh"] == ["fit"]
    eos.run("%%kale_step relax --outputs a\na = 7")
    eos.run("%%kale_step fit --outputs b --run\nb = a + 2")
    assert sorted(eos.client.asked[-1][2]["only"]) == ["fit", "relax"]


@pytest.fixture
def past(eos: Notebook) -> Notebook:
    """Return a notebook whose workflow has a completed run, with its folder."""
    from kale_magic.formats.native import dump

    eos.run("%%kale_step scale --params n=2 --outputs c\nc = n\n")
    status = eos.client.add("eos-1", {"scale": {"state": "completed"}}, state="completed")
    folder = Path(status["folder"])
    folder.mkdir(parents=True)
    (folder / "workflow.yaml").write_text(dump(eos.session.declarations.workflow))
    return eos


def test_rerun_submits_the_step_alone_with_its_checkpoint(past: Notebook) -> None:
    past.run("%kale_rerun scale --params n=5")
    _, workflow, fields = past.client.asked[-1]
    assert workflow["steps"]["scale"]["params"] == {"n": 5}
    assert (fields["only"], fields["fresh"], fields["of_run"]) == (["scale"], ["scale"], "eos-1")
    assert fields["checkpoints"]["scale"].endswith("eos-1/steps/scale")
    past.run("%kale_rerun eos-1/scale --downstream --from-start")
    fields = past.client.asked[-1][2]
    assert (list(fields["from_"]), fields["checkpoints"]) == (["scale"], {})


def test_rerun_edit_puts_the_cell_below_and_submits_nothing(past: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr(past.shell, "set_next_input", texts.append)
    past.run("%kale_rerun scale --params n=5 --edit")
    assert texts == ["%%kale_step scale --outputs c --params n=5\nc = n\n"]
    assert not past.client.asked


def test_a_comparison_needs_two_runs(past: Notebook) -> None:
    assert "Write %kale_runs --diff A B" in past.fail("%kale_runs --diff eos-1")
    past.run("%kale_runs --diff eos-1 eos-1")
    assert past.text == "eos-1 and eos-1: nothing differs.\n"
