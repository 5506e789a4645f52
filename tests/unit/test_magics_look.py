"""Looking inside a step: what a visit shows, waiting for a start, pulling values, tables of variables and usage."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kale_magic.kernels import first
from kale_magic.magics.replay import show_outputs
from kale_magic.magics.usage import usage_bundle
from kale_proxy import values, visitor
from kale_proxy.look import describe, describe_json, save
from kale_proxy.wire import AgentGone
from tests.unit.magics_shell import Notebook


class FakeVisitor:
    """Answers cells from a table; ``made`` lists every connection."""

    made: ClassVar[list[FakeVisitor]] = []
    namespace: ClassVar[dict[str, Any]] = {}

    def __init__(self, live: Path, mode: str) -> None:
        self.live, self.mode, self.note, self.pending, self.is_closed, self.way = live, mode, "", (), False, ""
        self.is_gone = False
        self.cells: list[str] = []
        FakeVisitor.made.append(self)

    @classmethod
    def connect(cls, live: Path, *, mode: str = "visit", timeout: float = 10.0) -> FakeVisitor:
        return cls(live, mode)

    def execute(self, code, *, on_message=None, on_input=None, timeout=None, silent=False, store_history=True):
        if self.is_gone:
            raise AgentGone("gone")
        self.cells.append(code)
        if silent:
            return self.ours(code, on_message)
        if "1/0" in code:
            on_message("error", {"traceback": ["line of the visitor", "ZeroDivisionError"]}, {}, [])
            return {"status": "error", "ename": "ZeroDivisionError", "evalue": "division by zero"}
        if "interrupt" in code:
            raise KeyboardInterrupt
        on_message("stream", {"name": "stdout", "text": "hello\n"}, {}, [])
        on_message("clear_output", {"wait": True}, {}, [])
        on_message("display_data", {"data": {"image/png": "iVBO"}, "metadata": {}, "transient": {"display_id": "d"}}, {}, [])
        on_message("update_display_data", {"data": {"text/plain": "new"}, "metadata": {}, "transient": {"display_id": "d"}}, {}, [])
        on_message("execute_result", {"data": {"text/plain": "2"}, "metadata": {}}, {}, [])
        return {"status": "ok"}

    def ours(self, code: str, on_message: Any) -> dict[str, Any]:
        printed: list[str] = []
        try:
            exec(code, {**FakeVisitor.namespace, "print": lambda *words: printed.append(" ".join(words))})
        except Exception as exc:
            return {"status": "error", "ename": type(exc).__name__, "evalue": str(exc)}
        for text in printed:
            on_message("stream", {"name": "stdout", "text": text + "\n"}, {}, [])
        return {"status": "ok"}

    def drop(self):
        self.is_dropped = True

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def md(notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """Return a notebook whose step ``md`` is running, with a kernel."""
    monkeypatch.setattr(visitor, "Visitor", FakeVisitor)
    monkeypatch.setattr(FakeVisitor, "made", [])
    monkeypatch.setattr(FakeVisitor, "namespace", {"x": 3, "names": ["a", "b"], "_hidden": 1, "os": os})
    live = tmp_path / "live"
    live.mkdir(mode=0o700)
    (live / "kernel.json").write_text("{}")
    notebook.client.add("melt-1", {"md": {"state": "running"}, "later": {"state": "waiting", "reason": "waits for `md`"}})
    notebook.client.places["melt-1", "md", None] = {"live": str(live)}
    return notebook


def left_by(book: Notebook, step: str, **what: Any) -> None:
    folder = Path(book.client.where("melt-1", step)["folder"]) / "outputs"
    values.save_all(what, folder)


def test_visit_shows_everything_the_cell_shows(md: Notebook) -> None:
    md.run("%%kale_attach md\nplot()")
    assert md.text == "hello\n"
    kinds = [item if "cleared" in item else (item["data"], item["update"]) for item in md.displays.seen]
    assert kinds == [
        {"cleared": True},
        ({"image/png": "iVBO"}, False),
        ({"text/plain": "new"}, True),
        ({"text/plain": "2"}, False),
    ]


def test_one_visitor_is_kept_per_step_and_way_of_visiting(md: Notebook) -> None:
    for _ in range(3):
        md.run("%%kale_attach md\n1")
    md.run("%%kale_attach md --write\n1")
    assert [made.mode for made in FakeVisitor.made] == ["visit", "write"]
    assert len(FakeVisitor.made[0].cells) == 3


def test_visitor_that_lost_its_agent_is_replaced_while_the_step_is_there(md: Notebook) -> None:
    md.run("%%kale_attach md\n1")
    FakeVisitor.made[0].is_gone = True
    md.run("%%kale_attach md\n2")
    assert len(FakeVisitor.made) == 2
    assert FakeVisitor.made[0].is_closed


def test_error_in_a_visit_ends_the_cell_with_the_visitor_s_traceback(md: Notebook) -> None:
    text = md.fail("%%kale_attach md\n1/0")
    assert text.splitlines()[:2] == ["line of the visitor", "ZeroDivisionError"]
    assert type(md.error).__name__ == "ZeroDivisionError"
    assert "door.py" not in text


def test_interrupted_visit_ends_the_visit_alone(md: Notebook) -> None:
    text = md.fail("%%kale_attach md\ninterrupt")
    assert "melt-1/md goes on" in text
    assert md.client.asked == []


def test_waiting_step_is_waited_for_and_the_reason_shown(md: Notebook) -> None:
    text = md.fail("%%kale_attach later --timeout 0\n1")
    assert "melt-1/later is waiting (waits for `md`) ..." in text
    assert "still waiting after 0 s" in text
    assert type(md.error).__name__ == "TimeoutError"


def test_visit_to_a_step_that_has_just_begun_waits_for_the_names_it_is_going_to_make(
    md: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    md.run("%kale_workflow eos")
    md.run("%%kale_common\nimport math")
    md.run("%%kale_step md\nedge = [1]\nother = 2")
    md.session.submitted["melt-1"] = md.session.declarations.workflow
    namespace = FakeVisitor.namespace
    looks = [namespace, namespace | {"math": 1}, namespace | {"math": 1, "edge": [1]}]
    real = FakeVisitor.ours

    def ours(self, code, on_message):
        FakeVisitor.namespace = looks.pop(0)
        return real(self, code, on_message)

    monkeypatch.setattr(FakeVisitor, "ours", ours)
    monkeypatch.setattr("kale_magic.api.visits._POLL_S", 0.001)
    md.run("%%kale_attach md\nprint(math, edge, mine := 1, never)")
    assert "melt-1/md has not made `math` yet ..." in md.text
    assert looks == []
    md.run("%%kale_attach md\nprint(math, edge)")  # known to be there: not asked again


def test_finished_step_says_how_to_look_at_what_it_left(md: Notebook) -> None:
    md.client.runs_by_id["melt-1"]["steps"]["md"]["state"] = "completed"
    md.client.places.clear()
    left_by(md, "md", energy=1.5)
    assert "%kale_pull melt-1/md energy" in md.fail("%%kale_attach md\n1")


def test_step_without_a_kernel_says_so(md: Notebook) -> None:
    md.client.places["melt-1", "md", None] = {"kind": "shell"}
    assert "shell step: it has no kernel" in md.fail("%%kale_attach md\n1")


def test_line_form_makes_a_kernel_and_says_how_to_use_it_in_two_lines(
    md: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    md.run("%kale_attach md")
    assert md.text.splitlines() == [
        "Notebook: choose the kernel 'Kale: melt-1/md'; closing or restarting it leaves the step alone.",
        "Terminal: jupyter console --kernel kale-melt-1-md",
    ]
    spec = json.loads((tmp_path / "data/kernels/kale-melt-1-md/kernel.json").read_text())
    assert spec["argv"] == [*first.command(), "attach", "melt-1/md", "-f", "{connection_file}"]
    assert spec["interrupt_mode"] == "message"
    md.run("%kale_attach md --write")
    assert "(write)" in md.text
    assert "exclude" in md.fail("%kale_attach md --write --main")
    assert "Did you mean md" in md.fail("%kale_attach mdd")


def test_declared_step_that_no_run_has_says_how_to_run_it(md: Notebook) -> None:
    md.run("%kale_workflow eos")
    md.run("%%kale_step fit\n1")
    assert "%kale_submit --only fit" in md.fail("%%kale_attach fit\n1")


def test_pull_from_a_running_step_copies_values_out_of_its_kernel(md: Notebook, tmp_path: Path) -> None:
    md.run("%kale_pull md x names --as a,b")
    assert md.shell.user_ns["a"] == 3
    assert md.shell.user_ns["b"] == ["a", "b"]
    assert "running" in md.text
    assert list((tmp_path / "live").glob("pull-*")) == []


def test_pull_of_a_name_that_is_not_there_lists_those_that_are(md: Notebook) -> None:
    text = md.fail("%kale_pull md y")
    assert "no variable `y`" in text
    assert "names, x" in text


def test_pull_from_a_finished_step_takes_its_outputs(md: Notebook) -> None:
    md.client.runs_by_id["melt-1"]["steps"]["md"]["state"] = "completed"
    md.client.places.clear()
    left_by(md, "md", energy=1.5, steps=[1, 2])
    md.run("%kale_pull md energy steps")
    assert (md.shell.user_ns["energy"], md.shell.user_ns["steps"]) == (1.5, [1, 2])
    assert "has no value `nothing`. It has: energy, steps." in md.fail("%kale_pull md nothing")


def test_pull_of_a_failed_or_waiting_step_says_why_there_is_nothing(md: Notebook) -> None:
    assert "later is waiting (waits for `md`): it has no values yet" in md.fail("%kale_pull later x")
    md.client.runs_by_id["melt-1"]["steps"]["later"] = {"state": "failed", "reason": "ValueError: no"}
    assert "later has failed (ValueError: no): it has left no values" in md.fail("%kale_pull later x")


def test_values_that_others_could_write_are_refused(md: Notebook) -> None:
    md.client.runs_by_id["melt-1"]["steps"]["md"]["state"] = "completed"
    md.client.places.clear()
    left_by(md, "md", energy=1.5)
    folder = Path(md.client.where("melt-1", "md")["folder"]) / "outputs"
    folder.chmod(0o777)
    assert "nothing is loaded" in md.fail("%kale_pull md energy")


@pytest.mark.parametrize(("line", "word"), [("md", "missing"), ("md x --as a,b", "2 names for 1"), ("md 2x", "'2x'")])
def test_pull_with_wrong_words_is_refused(md: Notebook, line: str, word: str) -> None:
    assert word in md.fail(f"%kale_pull {line}")


def test_variables_are_a_table(md: Notebook) -> None:
    md.run("%kale_vars md")
    text = md.displays.seen[-1]["data"]["text/plain"]
    rows = [line.split() for line in text.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["names", "list"], ["x", "int"]]
    assert "<th" in md.displays.seen[-1]["data"]["text/html"]


def test_description_leaves_out_modules_functions_and_private_names() -> None:
    class Odd:
        nbytes = property(lambda self: 1 / 0)

    found = describe({"os": os, "f": describe, "C": Odd, "_x": 1, "In": [], "odd": Odd(), "text": "abc"})
    assert [item["name"] for item in found] == ["odd", "text"]
    assert json.loads(describe_json({"n": 1}))[0]["type"] == "int"


def test_saving_tries_again_when_the_step_changes_a_value_meanwhile(tmp_path: Path) -> None:
    class Moving(dict):  # type: ignore[type-arg]
        tries = 0

        def __reduce_ex__(self, _protocol):
            Moving.tries += 1
            if Moving.tries < 3:
                raise RuntimeError("dictionary changed size during iteration")
            return (dict, ())

    save({"moving": Moving()}, ["moving"], str(tmp_path / "out"))
    assert values.load(tmp_path / "out", "moving") == {}
    assert Moving.tries == 3


def test_usage_shows_rates_peaks_and_the_node() -> None:
    samples = [
        {"at": f"2026-11-22T10:00:0{n}+00:00", "cpu_s": 2.0 * n, "rss_bytes": (4 - n) << 20, "node": {"load": 1.5, "cpus": 2}}
        for n in range(3)
    ]
    text = usage_bundle(samples, "melt-1/md (running)")["text/plain"]
    assert "2.00" in text
    assert "peak: 4 MB of memory, 2.00 cores; CPU time 4.0 s; 3 samples" in text
    assert "load 1.5 of 2 CPUs" in text


def test_resources_of_a_step_without_samples_says_so(md: Notebook) -> None:
    md.run("%kale_resources later")
    assert "there are no samples" in md.text


def test_outputs_of_an_executed_step_are_shown_as_its_notebook_has_them(md: Notebook, tmp_path: Path) -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["a\n", "b\n"]},
        {"output_type": "display_data", "data": {"text/plain": ["x", "y"]}, "metadata": {}},
        {"output_type": "error", "traceback": ["no"]},
    ]
    (tmp_path / "step.ipynb").write_text(json.dumps({"cells": [{"outputs": outputs}, {"source": "markdown"}]}))

    class Step:
        folder = tmp_path

    md.shell.user_ns.update(show_outputs=show_outputs, session=md.session, step=Step())
    md.run("show_outputs(session, step)")
    assert md.text == "a\nb\n"
    assert [item["data"] for item in md.displays.seen] == [{"text/plain": "xy"}]
