"""The journal gives back every message once, in order, across files, while it is being written."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from kale_proxy.journal import JournalReader, JournalWriter

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_reader_follows_writer_across_files(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=200)
    reader = JournalReader(tmp_path)
    assert reader.read(0) == []
    got: list[tuple[int, list[bytes]]] = []
    for n in range(1, 13):
        assert writer.append([b"topic", b"x" * n, b""]) == n
        got += reader.read(got[-1][0] if got else 0)
    assert got == [(n, [b"topic", b"x" * n, b""]) for n in range(1, 13)]
    assert len(list(tmp_path.iterdir())) > 1


def test_read_since_skips_what_was_seen(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=100)
    for n in range(1, 11):
        writer.append([b"%d" % n])
    assert [seq for seq, _ in JournalReader(tmp_path).read(7)] == [8, 9, 10]
    assert JournalReader(tmp_path).read(10) == []
    assert JournalReader(tmp_path).read(99) == []


def test_max_bytes_bounds_a_read_but_gives_at_least_one(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    for _ in range(3):
        writer.append([b"y" * 1000])
    reader = JournalReader(tmp_path)
    assert [len(reader.read(n, max_bytes=10)) for n in range(4)] == [1, 1, 1, 0]


def test_old_files_go_and_are_counted(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, segment_bytes=0)
    for n in range(1, 11):
        writer.append([b"%d" % n])
    reader = JournalReader(tmp_path)
    assert [seq for seq, _ in reader.read(0)] == [7, 8, 9, 10]
    assert reader.dropped == 6


def test_half_written_record_waits(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    writer.append([b"one"])
    name = next(tmp_path.iterdir())
    whole = name.read_bytes()
    name.write_bytes(whole + whole[:-1])
    reader = JournalReader(tmp_path)
    assert reader.read(0) == [(1, [b"one"])]
    name.write_bytes(whole + whole)
    assert reader.read(1) == [(2, [b"one"])]


def test_full_disk_loses_the_message_but_not_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JournalWriter(tmp_path)
    writer.append([b"one"])
    real = os.write

    def half(fd: int, data: bytes) -> int:
        return real(fd, data[:5])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        assert writer.append([b"two"]) == 2
    assert writer.append([b"three"]) == 3
    assert writer.lost == 1
    reader = JournalReader(tmp_path)
    assert reader.read(0) == [(3, [b"three"])]  # the old ones were to make room
    assert reader.dropped == 2


def test_a_small_disk_gets_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs_result((4096, 4096, 1000, 500, 500, 0, 0, 0, 0, 255))  # 2 MB
    monkeypatch.setattr(os, "fstatvfs", lambda _: free)
    writer = JournalWriter(tmp_path)
    for _ in range(100):
        writer.append([b"x" * 100_000])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2_000_000
    assert [number for number, _ in JournalReader(tmp_path).read(98)] == [99, 100]


def test_what_makes_room_on_a_full_disk_is_free_though_a_reader_has_it_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = JournalWriter(tmp_path), JournalReader(tmp_path)
    writer.append([b"one"])
    writer.append([b"two"])
    assert reader.read(0, max_bytes=1) == [(1, [b"one"])]
    real, full = os.write, iter([True])

    def refuse(fd: int, data: bytes) -> int:
        if next(full, False):
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        assert writer.append([b"three"]) == 3
    assert (writer.lost, os.fstat(reader._fd).st_size) == (0, 0)
    assert reader.read(1) == [(3, [b"three"])]
    assert reader.dropped == 1


def test_memoryviews_and_large_parts_are_kept(tmp_path: Path) -> None:
    big = bytes(range(256)) * 1000
    JournalWriter(tmp_path).append([b"a", memoryview(big)])
    assert JournalReader(tmp_path).read(0) == [(1, [b"a", big])]


def test_last_is_the_newest_complete_record(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path)
    assert reader.last() == 0
    writer = JournalWriter(tmp_path, segment_bytes=3 << 20)
    for n in range(1, 12):
        assert writer.append([b"x" * 300_000, b"y" * n]) == n
        assert reader.last() == n
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    assert reader.last() == 10
    assert reader.read(8) == [(n, [b"x" * 300_000, b"y" * n]) for n in (9, 10)]
