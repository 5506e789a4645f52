"""Logs by pieces, the job that is meant, and the queue's table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.widgets.viewmodel import queue
from kale_magic.widgets.viewmodel.focus import Job, focus, jobs, parse
from kale_proxy import pieces

if TYPE_CHECKING:
    from pathlib import Path


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    file = tmp_path / "stdout.log"
    tail = pieces.Tail(file)
    assert tail.read() is None
    file.write_bytes(b"one\n")
    assert tail.read() == pieces.Piece("one\n", 0, 0, is_new=True)
    assert tail.read() is None
    with file.open("ab") as stream:
        stream.write(b"two\n")
    assert tail.read() == pieces.Piece("two\n", 4)


def test_letter_that_is_written_in_two_parts_comes_whole(tmp_path: Path) -> None:
    file = tmp_path / "stdout.log"
    euro = "€".encode()
    file.write_bytes(b"a" + euro[:1])
    tail = pieces.Tail(file)
    first = tail.read()
    with file.open("ab") as stream:
        stream.write(euro[1:] + b"\n")
    second = tail.read()
    assert first is not None
    assert second is not None
    assert first.text + second.text == "a€\n"


def test_large_log_begins_with_its_last_lines_and_a_burst_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "stdout.log"
    file.write_bytes(b"".join(b"line %d\n" % n for n in range(200_000)))
    tail = pieces.Tail(file)
    first = tail.read()
    assert first is not None
    assert len(first.text) <= pieces.WINDOW
    assert first.text.startswith("line ")
    assert first.text.endswith("line 199999\n")
    with file.open("ab") as stream:
        stream.write(b"x" * 99 + b"\n")
        stream.write(b"".join(b"more %d\n" % n for n in range(100_000)))
    burst = tail.read()
    assert burst is not None
    assert len(burst.text) <= pieces.MOST_NEW
    assert burst.text.startswith("more ")
    assert burst.skipped + len(burst.text) == file.stat().st_size - first.start - len(first.text)


def test_new_attempt_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "stdout.log"
    file.write_text("first attempt\n")
    tail = pieces.Tail(file)
    tail.read()
    file.write_text("2nd\n")
    assert tail.read() == pieces.Piece("2nd\n", 0, 0, is_new=True)


def test_what_stands_before_joins_what_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "stdout.log"
    whole = "".join(f"line {n}\n" for n in range(30_000))
    file.write_text(whole)
    tail = pieces.Tail(file).read()
    assert tail is not None
    texts, start = [tail.text], tail.start
    while start:
        piece = pieces.before(file, start)
        texts.insert(0, piece.text)
        assert piece.start < start
        start = piece.start
    assert "".join(texts) == whole


@pytest.mark.parametrize("offset", [-3, 0, 5])
def test_word_across_two_blocks_is_found_forward_and_back(tmp_path: Path, offset: int) -> None:
    file = tmp_path / "stdout.log"
    place = (1 << 20) + offset
    file.write_bytes(b"." * place + b"Needle" + b"." * (1 << 20) + b"\nend")
    assert pieces.find(file, "nEEDLE", 0) == place
    assert pieces.find(file, "needle", file.stat().st_size, is_backward=True) == place
    assert pieces.find(file, "needle", place + 1) is None
    assert pieces.find(file, "needle", place, is_backward=True) is None
    assert pieces.find(file, "", 0) is None


def test_place_of_a_match_is_told_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "stdout.log"
    file.write_text("".join(f"line {n}\n" for n in range(50_000)))
    at = pieces.find(file, "line 31337", 0)
    assert at is not None
    piece, line = pieces.around(file, at)
    assert piece.text.split("\n")[line] == "line 31337"


def status(**steps: Any) -> dict[str, Any]:
    return {"steps": {name: state if isinstance(state, dict) else {"state": state} for name, state in steps.items()}}


def test_job_that_is_meant() -> None:
    seen = status(a="completed", b="running", c={"state": "running", "points": {"0": {"state": "completed"}, "1": {"state": "running"}}})
    assert focus(None, [], None) is None
    assert focus(seen, [], None) == Job("b", None)
    assert focus(seen, ["a", "b"], None) == Job("a", None)
    assert focus(seen, ["c"], None) == Job("c", 1)
    assert focus(seen, ["c"], 0) == Job("c", 0)
    assert focus(status(a="completed", b="failed"), [], None) == Job("b", None)
    assert jobs(seen) == ["a", "b", "c[0]", "c[1]"]
    assert [parse(label) for label in jobs(seen)] == [Job("a", None), Job("b", None), Job("c", 0), Job("c", 1)]


def test_queue_leaves_out_columns_that_say_nothing() -> None:
    found = queue.table(
        [
            {"run": "r1", "step": "a", "point": 2, "state": "running", "cpus": 4, "memory_bytes": 1 << 30, "reason": ""},
            {"run": "r2", "step": "b", "point": None, "state": "queued", "cpus": 1, "memory_bytes": None, "reason": "waits for 1 CPU"},
        ],
        own=["r1"],
    )
    assert found["heads"] == ["CPUs", "memory"]
    assert [row["label"] for row in found["rows"]] == ["a[2]", "b"]
    assert [row["mine"] for row in found["rows"]] == [True, False]
    assert found["rows"][0]["cells"] == ["4", "1 GB"]
    assert [row["reason"] for row in found["rows"]] == ["", "waits for 1 CPU"]


def test_batch_systems_lines_of_our_jobs_know_their_step() -> None:
    ours = [{"run": "r1", "step": "a", "point": 0, "native_id": "17", "executor": "slurm"}]
    survey = [
        {"executor": "slurm", "native_id": "17", "name": "kale-x", "user": "me", "state": "RUNNING", "time_left_s": 90},
        {"executor": "slurm", "native_id": "18", "name": "other", "user": "she", "state": "PENDING", "starts_at": "tomorrow"},
    ]
    pools = [{"name": "fast", "executor": "slurm", "native_id": "19"}, {"name": "here", "executor": "local"}]
    survey.append({"executor": "slurm", "native_id": "19", "name": "kale-pool-4f", "user": "me", "state": "RUNNING"})
    found = queue.table(queue.joined(survey, ours, pools), own=["r1"])
    assert [(row["run"], row["label"]) for row in found["rows"]] == [("r1", "a[0]"), ("", "other"), ("", "pool fast")]
    assert found["heads"] == ["where", "job", "user", "starts at", "time left"]
    assert found["rows"][1]["cells"][3] == "tomorrow"
