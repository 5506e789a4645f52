"""Text for terminals: aligned columns, wide characters, ASCII, bars."""

from datetime import UTC, datetime

import pytest

from kale_magic.render import text, words
from kale_magic.render.view import Node, elapsed_s, format_duration, tracebacks

NOW = datetime(2026, 11, 22, 17, 1, 30, tzinfo=UTC)


def status(**steps):
    return {
        "run": "eos-1",
        "workflow": "eos",
        "state": "running",
        "executor": "local",
        "submitted_at": "2026-11-22T17:01:00Z",
        "steps": steps,
    }


SWEEP = {
    "state": "failed",
    "points": {
        "0": {"state": "completed", "started_at": "2026-11-22T17:01:03Z", "ended_at": "2026-11-22T17:01:10Z"},
        "1": {"state": "failed", "reason": "NameError: name 'x' is not defined"},
        "2": {"state": "running", "started_at": "2026-11-22T17:01:03Z"},
    },
}


def test_dag_text_has_producers_first_with_what_each_needs():
    nodes = [Node(name="fit"), Node(name="curve", counts={"declared": 3}), Node(name="relax", note="bash")]
    lines = text.dag_text(nodes, [("curve", "fit"), ("relax", "fit"), ("relax", "curve")], title="eos").splitlines()
    assert lines[0] == "eos: 3 steps"
    assert [line.split()[1] for line in lines[1:]] == ["relax", "curve", "fit"]
    assert lines[2].split("←")[1].strip() == "relax"
    assert lines[3].split("←")[1].strip() == "curve, relax"
    assert "3 points" in lines[2]


def test_dag_text_of_a_circle_names_every_step():
    lines = text.dag_text([Node(name="a"), Node(name="b")], [("a", "b"), ("b", "a")]).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["a", "b"]


def test_status_table_shows_failed_points_with_their_reason():
    table = text.status_table(status(relax={"state": "completed", "node": "n1"}, curve=SWEEP), now=NOW).splitlines()
    assert table[0] == "eos-1 running: 1 of 2 steps completed, 1 failed (30 s)"
    row = next(line for line in table if line.split()[1] == "curve")
    assert "1/3" in row
    assert "point 1: NameError" in row
    assert any("curve[1]" in line and "NameError" in line for line in table)
    assert not any("curve[0]" in line for line in table)


def test_columns_line_up_with_wide_characters():
    table = text.status_table(status(日本語={"state": "queued"}, fit={"state": "running", "reason": "é"})).splitlines()
    heads = table[1]
    for line in table[2:]:
        before = line[: line.index("queued" if "queued" in line else "running")]
        assert words.columns(before) == heads.index("state")


def test_ascii_table_is_ascii():
    table = text.status_table(
        status(curve=SWEEP, fit={"state": "waiting"}, x={"state": "cancelled"}), now=NOW, is_ascii=True, width=30
    )
    assert table.isascii()
    assert all(len(line) <= 30 for line in table.splitlines())


def test_control_characters_and_colours_of_users_do_not_reach_the_terminal():
    reason = "\x1b[31mbad\x1b[0m\x1b]0;title\x07\r\nnext\x07 line"
    table = text.status_table(status(fit={"state": "failed", "reason": reason}))
    assert "bad next line" in table
    assert "\x1b" not in table
    assert "\x07" not in table


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(0, "0 B"), (512, "512 B"), (1536, "1.5 kB"), (4 << 30, "4 GB"), (5 << 40, "5 TB"), (2 << 50, "2.05e+03 TB")],
)
def test_bytes_are_named_by_powers_of_1024(amount, expected):
    assert text.format_bytes(amount) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, ""), (0.04, "0.0 s"), (3.25, "3.2 s"), (9.96, "10 s"), (59.4, "59 s"), (61, "1:01"), (3723, "1:02:03")],
)
def test_durations(seconds, expected):
    assert format_duration(seconds) == expected


@pytest.mark.parametrize("width", [30, 60, 120])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_progress_line_fits_and_counts_points(width, is_ascii):
    line = text.progress_line(status(relax={"state": "completed"}, curve=SWEEP), width=width, is_ascii=is_ascii)
    assert words.columns(line) < width
    assert "2/4" in line
    assert line.isascii() or not is_ascii


def test_progress_bar_is_empty_at_first_and_full_at_the_end():
    empty = text.progress_line(status(a={"state": "waiting"}), is_ascii=True)
    full = text.progress_line(status(a={"state": "cached"}), is_ascii=True)
    assert "#" not in empty
    assert "-]" not in full


def test_runs_and_queue_have_a_line_each():
    runs = text.runs_table(
        [
            {
                "run": "eos-2",
                "workflow": "eos",
                "state": "failed",
                "steps": {"completed": 3, "failed": 1},
                "submitted_at": "2026-11-22T17:00:00+00:00",
            }
        ],
        now=NOW,
    )
    assert "3/4" in runs
    assert "1:30" in runs
    assert "2026-11-22 17:00:00" in runs
    queue = text.queue_table(
        [
            {
                "run": "eos-2",
                "step": "s",
                "point": 0,
                "state": "queued",
                "reason": "waits for 2 of 4 cores",
                "cpus": 4,
                "memory_bytes": 1 << 30,
            }
        ]
    )
    assert "s[0]" in queue
    assert "waits for 2 of 4 cores" in queue
    assert "1 GB" in queue
    assert text.runs_table([]) == "no runs"
    assert text.queue_table([]) == "the queue is empty"


def test_elapsed_of_a_sweep_is_from_its_first_point():
    assert elapsed_s(SWEEP, NOW) == 27.0
    assert elapsed_s({"started_at": "nonsense"}, NOW) is None
    assert elapsed_s({"started_at": "2026-11-22T17:01:00"}, NOW) == 30.0
    assert elapsed_s({"started_at": "2026-11-22T17:01:00Z"}) is None


def test_clip_counts_columns_not_characters():
    assert words.clip("日本語", 5) == "日本…"
    assert words.clip("日本語", 6) == "日本語"
    assert words.columns(words.clip("日本語", 4)) <= 4
    assert words.columns("e\u0301") == 1


def test_tracebacks_are_those_of_points_where_there_are_points():
    error = {"ename": "E", "evalue": "v", "traceback": ["one", "two"]}
    sweep = {"state": "failed", "error": error, "points": {"1": {"state": "failed", "error": error}}}
    assert tracebacks(status(curve=sweep, fit={"error": "just a line"})) == [("curve[1]", "one\ntwo")]
