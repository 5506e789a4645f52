"""Another user of the same host gets nothing of a running step: every file and socket of it is tried as uid 65534."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kale_magic.api import connect
from kale_proxy.places import jupyter_data_dir, socket_dir
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kale_magic.api import Run

NOBODY = 65534
PYTHON = "/usr/bin/python3"
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root: sudo .venv/bin/python -m pytest FILE"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"{PYTHON}, which another user can run, is missing: apt-get install python3"),
]

# Run as the other user: tries each path that comes on standard input, and prints what it could do.
INTRUDER = """
import json, os, socket, sys
done = []
def attempt(what, path, function):
    try:
        function()
    except OSError:
        return
    done.append([what, path])
def connect(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)
for path in json.load(sys.stdin):
    attempt("read", path, lambda: open(path, "rb").close())
    attempt("write", path, lambda: open(path, "r+b").close())
    attempt("list", path, lambda: os.listdir(path))
    attempt("connect", path, lambda: connect(path))
    attempt("make a file in", path, lambda: open(os.path.join(path, "intruder"), "x").close())
    attempt("remove", path, lambda: os.unlink(path))
print(json.dumps(done))
"""


# Greets, says READY, subscribes, and tells in hex what it has heard until the word comes.
INTRUDER_ON_TCP = r"""
import socket, sys
heard = b""
def hear(until):
    global heard
    while until not in heard and (part := s.recv(65536)):
        heard += part
s = socket.create_connection(("127.0.0.1", {port}), 10)
try:
    s.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 1 + 31))
    hear(b"NULL")
    s.sendall(b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB")
    hear(b"READY")
    s.sendall(b"\x00\x01\x01")
    hear(b"iopub_welcome")
except OSError:
    pass
print("ready", flush=True)
sys.stdin.readline()
try:
    hear(b"secret")
except OSError:
    pass
print(heard.hex())
"""


def tried_by_another(paths: list[Path]) -> list[list[str]]:
    call = [PYTHON, "-c", INTRUDER]
    done = subprocess.run(
        call, user=NOBODY, group=NOBODY, extra_groups=[], input=json.dumps([str(path) for path in paths]), cwd="/", capture_output=True, text=True, timeout=100, check=True
    )
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.fixture
def everyones() -> Iterator[Path]:
    """A folder that everyone may enter and read, as on many clusters; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="kale-open-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home() -> Iterator[Path]:
    """A Kale whose own folders are all that protects it: the one around them is open to everyone."""
    with steps.private_jupyter() as home:
        yield home


@pytest.fixture
def run(home: Path, everyones: Path) -> Iterator[Run]:
    """A step that counts, in a folder that everyone may enter and read."""
    with connect() as kale:
        run = steps.busy(everyones, kale)
        for folder in (home, home / "data", home / "rt"):
            folder.chmod(0o755)
        yield run
        assert steps.goes_on(run)
        run.cancel()


def everything_in(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


def test_another_user_can_try_at_all(run: Run, everyones: Path) -> None:
    """That the folder around is open shows that the others' silence means something."""
    (everyones / "open").touch(0o644)
    assert tried_by_another([everyones / "open"]) == [["read", str(everyones / "open")]]


def test_running_step_agent_manager_and_relay_are_closed_to_another_user(run: Run, home: Path) -> None:
    target = run["md"].target()
    relays_file = run["md"].connection_file()
    sockets = everything_in(socket_dir())
    kinds = {path.name for path in sockets if stat.S_ISSOCK(path.stat().st_mode)}
    assert target.live is not None
    assert {target.live / "a", target.live / "kernel.json", target.live / "k-1", relays_file} <= set(sockets)
    assert {"a", "k-1", "k-2"} <= kinds
    manager = [path for path in everything_in(home) if path.is_file() and path.parent == home]
    assert {"manager.json", "kale.db"} <= {path.name for path in manager}
    assert tried_by_another([*sockets, *manager, *everything_in(run.folder)]) == []


def test_kernelspec_holds_no_key_and_a_front_ends_connection_file_is_closed(run: Run, home: Path) -> None:
    spec = steps.install(run)
    text = "".join(path.read_text() for path in spec.path.iterdir())
    target = run["md"].target()
    assert json.loads((target.live / "kernel.json").read_text())["key"] not in text
    assert tried_by_another([path for path in everything_in(jupyter_data_dir()) if path.is_file()]) in ([], can_read(spec.path))
    with steps.Kernel(spec.name) as kernel:
        assert tried_by_another([Path(kernel.manager.connection_file)]) == []


def can_read(folder: Path) -> list[list[str]]:
    """What another user does to a kernelspec at most."""
    return [["read", str(folder / "kernel.json")]]


def test_relay_on_ipc_is_closed_and_on_encrypted_tcp_gives_nothing(run: Run, home: Path) -> None:
    """On plain TCP, a front end's default, a relay is as open as any other kernel; that shows what the others keep."""
    name = steps.install(run).name
    folder = home / "front"
    folder.mkdir(mode=0o700)
    with steps.Kernel(name, transport="ipc", ip=str(folder / "k")) as kernel:
        assert tried_by_another(everything_in(folder)) == []
        assert kernel.run("1")[0]["status"] == "ok"
    with steps.Kernel(name, transport_encryption="required") as kernel:
        assert not is_heard_by_another(kernel)
    with steps.Kernel(name) as kernel:
        assert is_heard_by_another(kernel)


def is_heard_by_another(kernel: steps.Kernel) -> bool:
    """Whether someone hears what a cell prints who connects to iopub, greets and subscribes as ZMTP 3 says (rfc.zeromq.org/spec/23)."""
    port = kernel.manager.get_connection_info()["iopub_port"]
    code = INTRUDER_ON_TCP.format(port=port)
    with subprocess.Popen(
        [PYTHON, "-c", code], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as intruder:
        assert intruder.stdout is not None
        assert intruder.stdout.readline() == "ready\n"
        kernel.run("print('sec' + 'ret')")
        said, _ = intruder.communicate("\n", timeout=60)
    return b"secret" in bytes.fromhex(said.strip())
