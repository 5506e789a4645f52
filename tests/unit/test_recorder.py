"""The recorder keeps what the step's own cells published, and its notebook is valid at every moment."""

from __future__ import annotations

import json

import nbformat
import pytest

from kale_proxy import recorder as module
from kale_proxy.recorder import CELL_PREFIX, Cell, Recorder

MINE = f"{CELL_PREFIX}step-1"


@pytest.fixture
def record(tmp_path):
    cells = [Cell("markdown", "about $x$"), Cell("code", "x = 1", tags=("kale-step",), msg_id=MINE)]
    return Recorder(tmp_path, cells, {"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def message(kind, content, parent=MINE):
    frames = [{"msg_type": kind}, {"msg_id": parent}, {}, content]
    return [b"topic", b"<IDS|MSG>", b"signature", *(json.dumps(frame).encode() for frame in frames)]


def notebook(record):
    record.save()
    node = nbformat.read(record.folder / "step.ipynb", as_version=4)
    nbformat.validate(node)
    return node


def test_streams_of_one_name_join_and_go_to_the_logs(record):
    for name, text in [("stdout", "a\n"), ("stdout", "b"), ("stderr", "é"), ("stdout", "c")]:
        record.message(message("stream", {"name": name, "text": text}))
    assert [(o.name, o.text) for o in notebook(record).cells[1].outputs] == [("stdout", "a\nb"), ("stderr", "é"), ("stdout", "c")]
    assert (record.folder / "stdout.log").read_text() == "a\nbc"
    assert (record.folder / "stderr.log").read_text() == "é"


def test_a_visitors_output_is_not_the_steps(record):
    record.message(message("stream", {"name": "stdout", "text": "visit"}, parent="somebody-else"))
    record.message([b"junk"])
    assert notebook(record).cells[1].outputs == []
    assert not (record.folder / "stdout.log").exists()
    assert not record.is_dirty


def test_results_errors_and_counts_are_kept(record):
    record.message(message("execute_input", {"execution_count": 3}))
    record.message(message("execute_result", {"data": {"text/plain": "1"}, "metadata": {}, "execution_count": 3}))
    record.message(message("error", {"ename": "E", "evalue": "v", "traceback": ["t"]}))
    cell = notebook(record).cells[1]
    assert cell.execution_count == 3
    assert [o.output_type for o in cell.outputs] == ["execute_result", "error"]
    assert record.error == {"ename": "E", "evalue": "v", "traceback": ["t"]}


def test_update_display_changes_every_place_and_clear_waits(record):
    shown = {"data": {"text/plain": "1"}, "metadata": {}, "transient": {"display_id": "d"}}
    record.message(message("display_data", shown))
    record.message(message("display_data", shown))
    record.message(message("update_display_data", {**shown, "data": {"text/plain": "2"}}))
    assert [o.data["text/plain"] for o in notebook(record).cells[1].outputs] == ["2", "2"]
    record.message(message("clear_output", {"wait": True}))
    assert len(notebook(record).cells[1].outputs) == 2
    record.message(message("stream", {"name": "stdout", "text": "new"}))
    assert [o.output_type for o in notebook(record).cells[1].outputs] == ["stream"]


def test_endless_printing_is_cut_in_the_notebook_and_whole_in_the_log(record, monkeypatch):
    monkeypatch.setattr(module, "STREAM_MAX_CHARS", 100)
    for _ in range(30):
        record.message(message("stream", {"name": "stdout", "text": "0123456789"}))
    text = notebook(record).cells[1].outputs[0].text
    assert text.startswith("0123456789" * 10)
    assert "all of it is in stdout.log" in text
    assert len(text) < 300
    assert (record.folder / "stdout.log").read_text() == "0123456789" * 30
