"""The worker of a batch job that is a shell step, while it is young: it runs before the worker proper has been loaded.

Python's modules take longer to load than many a shell step runs, and a site's queue is full of those. So what is begun
here loads little more than ``os`` (the C parts of ``json``, ``signal`` and ``socket`` without their Python ones): it forks the
process that runs the step, and waits. If that takes longer than a moment, or somebody sends a signal, the worker proper
is loaded beside the running step and takes over as if it had forked it (:func:`kale_proxy.batch.take_over`).
Signals that mean something to it are blocked until then, so none is lost.
"""

from __future__ import annotations

import _json
import _signal  # type: ignore[import-not-found]
import _socket
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1  # kale_proxy.spec.SPEC_VERSION
ALONE_S = 1.0  # for so long no limits are watched and no samples taken
FIELDS = {
    "run", "step", "point", "attempt", "uuid", "folder", "cwd", "kind", "code", "kernel", "notebook", "common", "description", "params",
    "inputs", "outputs", "formats", "files_in", "files_out", "env", "limits", "container", "is_gate", "hold_s", "hold_on_failure_s",
    "warn_s", "restart", "idle_s", "parents", "keys", "lane", "points", "is_share", "listens", "version",
}  # fmt: skip  # of kale_proxy.spec.JobSpec
KINDS = ("shell", "script")
SIGNALS = tuple(
    getattr(_signal, name) for name in ("SIGCHLD", "SIGTERM", "SIGHUP", "SIGURG", "SIGINT", "SIGUSR1", "SIGWINCH", "SIGTSTP", "SIGCONT")
)  # those of batch.obey_signals, and the child's end


class _Reading:
    """What ``_json.make_scanner`` asks for: the settings of ``json.loads``."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: dict[str, str] = {}  # noqa: RUF012 - an interface


def read_json(text: str) -> Any:
    """Return the value of a JSON text; raises ValueError, StopIteration."""
    value, _ = _json.make_scanner(_Reading())(text.strip(), 0)  # type: ignore[arg-type]  # any object with these settings
    return value


def main() -> None:
    """Run the job that the first word of the command line names, and exit: what ``python -m kale_proxy run JOB.json`` does, sooner."""
    import sys

    code = run(sys.argv[1])
    if code is None:
        from kale_proxy.__main__ import main as run_any

        code = run_any(["run", sys.argv[1]])
    sys.exit(code)


def run(job: str) -> int | None:
    """Run a job as :func:`kale_proxy.batch.run` does; None, and nothing has been done, if it is not of our kind."""
    os.umask(0o077)
    try:
        with open(job, encoding="utf-8") as stream:
            text = stream.read()
        spec = read_json(text)
        is_ours = spec["version"] == VERSION and spec["kind"] in KINDS and spec["container"] is None and spec["lane"] is None
        if not is_ours or spec.keys() != FIELDS:
            return None
        folder, live = _folders()
    except (OSError, ValueError, StopIteration, KeyError, TypeError):
        return None  # the worker proper says what is wrong
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, SIGNALS)
    started = time.monotonic()
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    pid = os.fork()
    if not pid:
        _run_step(text, spec, live, theirs.detach(), before)
    theirs.close()
    if _has_ended_soon(pid, started) and (code := _conclusion(spec, pid)) is not None:
        _remove(folder, live, spec)
        return code
    from kale_proxy import batch

    return batch.take_over(text, folder=folder, live=live, pid=pid, link=ours.detach(), started=started)


def _folders() -> tuple[str, str]:
    """Make the job's folder on this host as :func:`kale_proxy.places.socket_dir` does, and the live folder in it."""
    folder = f"/tmp/kale-{os.getuid()}"  # noqa: S108 - its owner and mode are checked
    for part in ("", "/j", f"/{os.getpid()}"):
        folder += part
        try:  # noqa: SIM105 - contextlib would be loaded for it
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(folder)
        if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
            raise PermissionError(folder)
    live = f"{folder}/p/0"
    os.mkdir(f"{folder}/p", 0o700)  # there is one already if a job of this very number was killed here: the worker goes round it
    os.mkdir(live, 0o700)
    return folder, live


def _run_step(text: str, spec: dict[str, Any], live: str, link: int, mask: Any) -> None:
    """Be the process of the step; does not return."""
    code = 1
    try:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        from kale_proxy import briefstep, leader

        leader.become(live)
        done = briefstep.run(text, spec, live)
        if done is None:
            from kale_proxy import children

            done = children.run_shell(text, live, link)
        code = done
    except BaseException:  # the edge of a process: say why in its log, never run the parent's code
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _has_ended_soon(pid: int, started: float) -> bool:
    """Wait for the step's end; False when it takes longer than a moment, or a signal came, which is then pending again."""
    while (left := started + ALONE_S - time.monotonic()) > 0:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        came = _signal.sigtimedwait(SIGNALS, left)
        if came is not None and came.si_signo != _signal.SIGCHLD:
            os.kill(os.getpid(), came.si_signo)
            return False
    return False


def _conclusion(spec: dict[str, Any], pid: int) -> int | None:
    """Take leave of a step that has ended; None, and it is still to be waited for, if it is not as it should be."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        with open(f"{spec['folder']}/result.json", encoding="utf-8") as stream:
            result = read_json(stream.read())
    except (OSError, ValueError, StopIteration):
        return None
    if ended is None or ended.si_code != os.CLD_EXITED or ended.si_status or result["uuid"] != spec["uuid"]:
        return None
    os.waitpid(pid, 0)
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        pass
    else:  # it has left processes behind
        import signal

        from kale_proxy import procs

        procs.send(procs.tree(pid, spec["uuid"]), signal.SIGKILL)
    print(f"{spec['step']}: {result['state']} {result['reason']}".rstrip())
    return 0 if result["state"] == "completed" else 1


def _remove(folder: str, live: str, spec: dict[str, Any]) -> None:
    """Take away what was here for the time of the job."""
    try:
        if spec["keys"]:
            os.unlink(f"{spec['keys']}/{spec['uuid']}.json")
    except OSError:
        pass
    try:
        for name in os.listdir(live):
            os.unlink(f"{live}/{name}")
        for path in (live, f"{folder}/p", folder):
            os.rmdir(path)
    except OSError:  # a folder in it
        from kale_proxy.places import remove_tree

        remove_tree(folder)
