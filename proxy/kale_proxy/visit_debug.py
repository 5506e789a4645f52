"""The debugger of a step's kernel: when it may be begun, and that nobody but the step's own user reaches it.

ipykernel begins debugpy by code that it sends to the main shell, and lets the control channel wait for that:
behind a computing step there would be no interrupt and no visit until its code is done. And debugpy listens on TCP
ports of 127.0.0.1, where it runs code for whoever connects; a user's own are told from others' by /proc/net/tcp
(proc_pid_net(5)). Called by the kernel mixin, in the control thread; standard library only.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY = "The debugger can't begin while the step's code runs: stop the step first (%kale_stop), its kernel then stays open."

# Executed in this process and in debugpy's adapter, a process of its own that knows no Kale.
_OWN_ONLY = '''
import os, socket, sys
from debugpy.common import sockets

class OwnSocket(socket.socket):
    """A listener that takes connections of this user only."""

    __slots__ = ()

    def accept(self):
        while True:
            accepted, address = super().accept()
            if is_own(accepted):
                return accepted, address
            accepted.close()

def is_own(accepted):
    try:
        ends = [written(end) for end in (accepted.getpeername(), accepted.getsockname())]
        with open("/proc/net/tcp") as table:
            rows = [line.split() for line in table]
    except OSError:
        return False
    user = str(os.getuid())  # that of an end which nobody holds any more reads 0, as its inode does
    return any(row[1:3] == ends and row[7] == user and row[9] != "0" for row in rows[1:])

def written(end):
    return "%08X:%04X" % (int.from_bytes(socket.inet_aton(end[0]), sys.byteorder), end[1])

class PatientSocket(socket.socket):
    """The adapter's word to the kernel: held until the kernel has seen whose it is."""

    __slots__ = ()

    def shutdown(self, how):
        super().shutdown(socket.SHUT_WR)

    def close(self):
        try:
            self.settimeout(10)
            while self.recv(64):
                pass
        except OSError:
            pass
        super().close()

def made_as(kind, make):
    def made(*args, **options):
        sock = make(*args, **options)
        sock.__class__ = kind
        return sock
    made.is_kale = True
    return made

for name, kind in (("create_server", OwnSocket), ("create_client", PatientSocket)):
    if not hasattr(getattr(sockets, name), "is_kale"):
        setattr(sockets, name, made_as(kind, getattr(sockets, name)))
'''
_ADAPTER = f"""
import os, runpy, sys
del sys.argv[0]
sys.path[0] = os.path.dirname(os.path.dirname(sys.argv[0]))
exec({_OWN_ONLY!r}, {{}})
del sys.path[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def refusal(debugger: Any, request: dict[str, Any], *, is_busy: bool) -> dict[str, Any] | None:
    """Return the answer to a request that would wait for the main shell or has nothing to end; None if it may pass."""
    if debugger is None or debugger.is_started or request.get("command") == "debugInfo":
        return None
    if request.get("command") == "disconnect":
        return answer(request, is_success=True)
    return answer(request, BUSY) if is_busy else None


def answer(request: dict[str, Any], message: str = "", *, is_success: bool = False) -> dict[str, Any]:
    """Return a response of the Debug Adapter Protocol."""
    said = {"message": message} if message else {}
    seq = request.get("seq", 0)
    return {"type": "response", "seq": seq, "request_seq": seq, "command": request.get("command"), "success": is_success, **said}


@contextlib.contextmanager
def own_only() -> Iterator[None]:
    """Let what debugpy listens on meanwhile be for this user only, in its adapter too.

    Raises
    ------
    Exception
        It can't be done with this debugpy, which then must not be begun.
    """
    import debugpy  # noqa: T100 - the point of this

    exec(_OWN_ONLY, {})  # noqa: S102 - the text above
    folder = Path(tempfile.mkdtemp(prefix="kale-debugpy-"))
    try:
        program, python = folder / "adapter.py", folder / "python"
        program.write_text(_ADAPTER, encoding="utf-8")
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(program))} "$@"\n', encoding="utf-8")
        python.chmod(0o700)
        debugpy.configure(python=str(python))
        yield
    finally:
        debugpy.configure(python=sys.executable)
        shutil.rmtree(folder, ignore_errors=True)
