"""Copies of a far job's files that grow with them: what comes, what does not, and what is looked for over there; no host."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.api import copies as module
from kale_magic.api import files
from kale_magic.api.copies import Copies
from kale_magic.errors import UsageError
from kale_magic.manager.listing import reading, searching
from kale_proxy import pieces
from tests.fakes.far_host import FarHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINE = b"a line of a log, of forty characters...\n"


@pytest.fixture
def there() -> FarHost:
    return FarHost()


@pytest.fixture
def copies(there: FarHost) -> Iterator[Copies]:
    made = Copies(there, lambda: None)  # type: ignore[arg-type] # as much of a client as is needed
    yield made
    made.close()


def soon(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 5
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_only_the_end_of_a_log_comes_and_then_what_is_new(tmp_path: Path, there: FarHost, copies: Copies) -> None:
    log = tmp_path / "stdout.log"
    log.write_bytes(LINE * 100_000)
    here = copies.folder(str(tmp_path)) / "stdout.log"
    tail = pieces.Tail(here)
    piece = soon(tail.read)
    assert piece.text.endswith(LINE.decode())
    assert "\0" not in piece.text
    assert piece.start + len(piece.text) == len(LINE) * 100_000
    assert there.came <= 2 * pieces.WINDOW
    before = there.came
    with log.open("ab") as stream:
        stream.write(b"more\n")
    assert soon(tail.read).text == "more\n"
    assert there.came == before + 5


def test_what_stands_before_comes_when_it_is_asked_for_and_a_word_is_looked_for_there(tmp_path: Path, there: FarHost, copies: Copies) -> None:
    log = tmp_path / "stdout.log"
    log.write_bytes(LINE * 50_000 + b"the Needle\n" + LINE * 50_000)
    here = copies.folder(str(tmp_path)) / "stdout.log"
    soon(here.exists)
    at = copies.find(here, "needle", log.stat().st_size, is_backward=True)
    assert at == len(LINE) * 50_000 + 4
    assert copies.find(here, "needle", 0) == at
    piece, line = copies.around(here, at)
    assert piece.text.splitlines()[line] == "the Needle"
    assert "\0" not in piece.text
    earlier = copies.before(here, piece.start)
    assert earlier.text == log.read_text()[earlier.start : piece.start]
    assert there.came < 20 * pieces.WINDOW


def test_another_attempt_begins_anew_and_what_is_replaced_is_whole(tmp_path: Path, copies: Copies) -> None:
    log, result = tmp_path / "stdout.log", tmp_path / "result.json"
    log.write_text("first attempt\n")
    result.write_text('{"n": 1}')
    place = copies.folder(str(tmp_path))
    tail = pieces.Tail(place / "stdout.log")
    soon(tail.read)
    log.unlink()
    log.write_text("second\n")
    result.write_text('{"n": 2, "more": true}')
    piece = soon(tail.read)
    assert (piece.text, piece.is_new) == ("second\n", True)
    soon(lambda: (place / "result.json").read_text() == '{"n": 2, "more": true}')


def test_of_metrics_the_copy_begins_with_what_came_first_and_no_hole_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: Copies) -> None:
    monkeypatch.setitem(module._LINES, "metrics.jsonl", 1000)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(f'{{"step": {n}, "e": 1}}\n' for n in range(10_000)))
    here = copies.folder(str(tmp_path)) / "metrics.jsonl"
    soon(here.exists)
    assert here.stat().st_size <= 1000
    assert files.metrics(here.parent)[-1] == {"step": 9999, "e": 1}
    with metrics.open("a") as stream:
        stream.write('{"step": 10000, "e": 2}\n')
    soon(lambda: files.metrics(here.parent)[-1] == {"step": 10000, "e": 2})
    assert [item["step"] for item in files.metrics(here.parent)][-3:] == [9998, 9999, 10000]


def test_tables_come_where_they_are_asked_for_and_grow(tmp_path: Path, there: FarHost) -> None:
    table = tmp_path / "out.csv"
    table.write_text("t,e\n0,1\n")
    (tmp_path / "notes.txt").write_text("no table")
    copies = Copies(there, lambda: None, [".csv"])  # type: ignore[arg-type] # as much of a client as is needed
    here = copies.folder(str(tmp_path), has_tables=True)
    soon((here / "out.csv").exists)
    with table.open("a") as stream:
        stream.write("1,4\n")
    soon(lambda: (here / "out.csv").read_text() == "t,e\n0,1\n1,4\n")
    assert not (here / "notes.txt").exists()
    copies.close()


def test_files_that_the_points_of_a_sweep_share_come_for_each_of_them(tmp_path: Path, copies: Copies) -> None:
    (tmp_path / "points-0.jsonl").write_text('{"out": 3, "stream": "stdout", "text": "hello"}\n')
    here = copies.folder(str(tmp_path / "3"))
    soon((here.parent / "points-0.jsonl").exists)
    with (tmp_path / "points-0.jsonl").open("a") as stream:
        stream.write('{"end": 3}\n')
    soon(lambda: (here.parent / "points-0.jsonl").read_text().endswith('{"end": 3}\n'))


def test_copies_and_thread_go_when_they_are_closed(tmp_path: Path, there: FarHost) -> None:
    (tmp_path / "stdout.log").write_text("x\n")
    copies = Copies(there, lambda: None)  # type: ignore[arg-type] # as much of a client as is needed
    here = copies.folder(str(tmp_path))
    soon((here / "stdout.log").exists)
    assert here.stat().st_mode & 0o777 == 0o700
    copies.close()
    soon(lambda: there.is_closed)
    del copies
    soon(lambda: not here.exists())


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b"])
def test_a_client_reads_nothing_outside_of_the_folder_it_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="leads out of the folder"):
        reading(str(tmp_path), [{"name": name, "most": 10}])
    with pytest.raises(UsageError, match="leads out of the folder"):
        searching(str(tmp_path), name, "x", 0, is_backward=False)
    with pytest.raises(UsageError, match="no absolute path"):
        reading("relative", [{"name": "x", "most": 10}])
