"""Processes of a step are found by session and descent, and control-group limits are read as written."""

from __future__ import annotations

import builtins
import io

from kale_proxy import procs
from kale_proxy.procs import Process


def process(pid, ppid, session):
    return Process(pid, ppid, session, 0.0, 0)


def test_members_are_the_session_and_all_descendants():
    table = {p.pid: p for p in [process(10, 1, 10), process(11, 10, 10), process(12, 11, 12), process(13, 12, 12), process(20, 1, 20), process(21, 1, 10)]}
    groups = procs.members([10, 20], table)
    assert sorted(p.pid for p in groups[10]) == [10, 11, 12, 13, 21]
    assert [p.pid for p in groups[20]] == [20]


def test_root_that_is_gone_has_its_session_left():
    table = {p.pid: p for p in [process(11, 1, 10), process(30, 1, 30)]}
    assert [p.pid for p in procs.members([10], table)[10]] == [11]


def read_with(monkeypatch, files):
    real = builtins.open

    def fake(path, *args, **kwargs):
        if str(path) in files:
            return io.StringIO(files[str(path)])
        if str(path).startswith(("/proc/self/cgroup", "/sys/fs/cgroup")):
            raise FileNotFoundError
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", fake)
    return procs.cgroup_limits()


def test_limits_of_cgroup_version_2(monkeypatch):
    files = {"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/memory.max": "1048576\n", "/sys/fs/cgroup/job/cpu.max": "150000 100000\n"}
    assert read_with(monkeypatch, files) == {"memory_bytes": 1048576, "cpus": 1.5}
    files |= {"/sys/fs/cgroup/job/memory.max": "max\n", "/sys/fs/cgroup/job/cpu.max": "max 100000\n"}
    assert read_with(monkeypatch, files) == {}


def test_limits_of_cgroup_version_1(monkeypatch):
    files = {"/proc/self/cgroup": "4:memory:/j\n", "/sys/fs/cgroup/memory/j/memory.limit_in_bytes": "2097152\n"}
    assert read_with(monkeypatch, files) == {"memory_bytes": 2097152}
    files["/sys/fs/cgroup/memory/j/memory.limit_in_bytes"] = "9223372036854771712\n"
    assert read_with(monkeypatch, files) == {}
