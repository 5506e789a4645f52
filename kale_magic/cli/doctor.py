"""``doctor``: checks every part that a run needs, and says of each what to mend."""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic import config
from kale_magic._batchjob import BatchJob
from kale_magic.cli.exits import Exit, sentence
from kale_magic.cli.finding import Finding
from kale_magic.client import Client
from kale_magic.errors import KaleError, UsageError
from kale_proxy.places import SUN_PATH_BYTES
from kale_proxy.wire import AgentGone

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from kale_magic.cli.console import Console

_LEAST_FREE_BYTES = 1 << 30
_RUN_S = 60.0
_DEEPEST_SOCKET = "w/0123456789ab/p/1000/k-1"
_NETWORK_DISKS = frozenset({"nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "fuse.sshfs", "afs", "panfs"})
_PROBE = "import time\nbegun = time.time()\n"


def doctor(arguments: argparse.Namespace, console: Console) -> int:
    """Check everything, or the way to a host; exit code 1 if something is wrong."""
    from kale_magic.cli import doctor_executor, doctor_install, doctor_ways

    signs = {"ok": "ok     ", "warning": "warning", "wrong": "WRONG  "}
    findings: list[Finding] = []
    checks: tuple[Callable[[], Iterator[Finding]], ...]
    checks = (_python, _packages, _state_folder, _socket_folder, _manager, _local, _kernel, doctor_ways.transports)
    if arguments.install is not None and not arguments.host:
        raise UsageError("--install makes an environment on another host.", "Say on which: --host H")
    if arguments.host:
        install = () if arguments.install is None else (functools.partial(doctor_install.install, arguments.host, arguments.install, console.note),)
        checks = (doctor_ways.transports, functools.partial(doctor_ways.login, arguments.host), *install, functools.partial(doctor_ways.host, arguments.host))
    if arguments.executor and arguments.executor != "local":
        checks = (*checks, functools.partial(doctor_executor.executor, arguments.executor, arguments.host))
    for check in checks:
        for finding in _caught(check):
            findings.append(finding)
            console.say(f"{signs[finding.state]}  {finding.part:<15}{finding.found}")
            if finding.mend:
                console.say(f"{'':24}-> {finding.mend}")
    wrong = sum(finding.state == "wrong" for finding in findings)
    if console.is_json:
        console.data({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    console.say(f"{wrong} thing{'' if wrong == 1 else 's'} to mend" if wrong else "all is well")
    return Exit.FAILED if wrong else Exit.OK


def _caught(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds; an error that ends it is a finding too."""
    named = check.func if isinstance(check, functools.partial) else check
    part = named.__name__.strip("_").replace("_", " ")
    try:
        yield from check()
    except KaleError as exc:
        yield Finding(part, "wrong", exc.message, exc.hint)
    except (AgentGone, ValueError) as exc:  # no way there, or no name of a host
        yield Finding(part, "wrong", str(exc))
    except OSError as exc:  # TimeoutError is one
        yield Finding(part, "wrong", sentence(exc))


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", "ok", f"{version}, {sys.executable}")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    found, wrong = [], False
    for line in metadata.requires("kale-magic") or ():
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            version = ""
        if not version or not need.specifier.contains(version, prereleases=True):
            wrong = True
            yield Finding(
                "packages",
                "wrong",
                f"{need.name} {version or 'is missing'}, needed: {need}",
                f"{sys.executable} -m pip install '{need}'",
            )
        found.append(f"{need.name} {version}")
    if not wrong:
        yield Finding("packages", "ok", ", ".join(found))


def _state_folder() -> Iterator[Finding]:
    folder = config.load().state_dir
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x")
        probe.flush()
        os.fsync(probe.fileno())
    free = shutil.disk_usage(folder).free
    kind = file_system(folder)
    text = f"{folder} ({kind or 'unknown file system'}, {free / (1 << 30):.1f} GB free)"
    if free < _LEAST_FREE_BYTES:
        yield Finding("state folder", "warning", text, "Make room: jupyter kale gc, in the folders of your workflows.")
    else:
        yield Finding("state folder", "ok", text)


def _socket_folder() -> Iterator[Finding]:
    folder = config.load().socket_dir
    info = folder.stat()
    if stat.S_IMODE(info.st_mode) & 0o077 or info.st_uid != os.getuid():
        yield Finding("socket folder", "wrong", f"{folder} is open to others", f"chmod 700 {folder}")
        return
    length = len(os.fsencode(folder / _DEEPEST_SOCKET))
    if length > SUN_PATH_BYTES:
        yield Finding(
            "socket folder",
            "wrong",
            f"{folder} is too long for sockets ({length} bytes of {SUN_PATH_BYTES})",
            "Shorten it.",
        )
        return
    address = folder / f"doctor-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(os.fspath(address))
        finally:
            address.unlink(missing_ok=True)
    kind = file_system(folder)
    if kind in _NETWORK_DISKS:
        yield Finding(
            "socket folder",
            "warning",
            f"{folder} is on a network disk ({kind})",
            "Sockets need a disk of this machine.",
        )
    else:
        yield Finding("socket folder", "ok", f"{folder}, yours alone")


def _manager() -> Iterator[Finding]:
    with Client.connect() as client:
        begun = time.perf_counter()
        found = client.manager()
        took = time.perf_counter() - begun
    live = len(found["runs"]) if isinstance(found["runs"], list) else found["runs"]
    job = BatchJob.from_words(_manager_record().get("job"))
    if job is not None:
        yield Finding(
            "manager",
            "warning",
            f"is in {job} on {found['host']} and ends with it",
            f'For a login host: [manager] host = "LOGIN" in {config.load().state_dir / "config.toml"}, then jupyter kale manager stop',
        )
    yield Finding(
        "manager", "ok", f"pid {found['pid']} on {found['host']}, answers in {took * 1e3:.1f} ms, live runs: {live}"
    )


def _manager_record() -> dict[str, Any]:
    try:
        found = json.loads(config.load().manager_file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _local() -> Iterator[Finding]:
    from kale_magic.render.text import format_bytes

    settings = config.load()
    cpus = settings.cpus or len(os.sched_getaffinity(0))
    memory = settings.memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with Client.connect() as client:
        waiting = client.queue()
    yield Finding("local executor", "ok", f"{cpus} cores, {format_bytes(memory)}; in its queue: {len(waiting)}")


def _kernel() -> Iterator[Finding]:
    """Run a step of one line twice: the first starts the warm process, the second shows what a step costs."""
    from kale_magic.api.workflow import submit
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow
    from kale_magic.render.view import elapsed_s

    folder = Path(tempfile.mkdtemp(prefix="kale-doctor-", dir=config.load().state_dir))
    workflow = Workflow(name="doctor", steps={"look": Step(name="look", code=_PROBE, outputs=("begun",))})
    took: list[float] = []
    try:
        with Client.connect() as client:
            for _ in range(2):
                begun = time.time()
                run = submit(workflow, client=client, folder=folder, no_cache=True)
                try:
                    found = client.wait(run.name, timeout=_RUN_S)
                except TimeoutError:
                    client.cancel(run.name)
                    yield Finding(
                        "kernel",
                        "wrong",
                        f"a step of one line has not ended within {_RUN_S:g} s",
                        "jupyter kale manager logs",
                    )
                    return
                took.append(time.time() - begun)
                step = found["steps"]["look"]
                if step["state"] != "completed":
                    yield Finding(
                        "kernel",
                        "wrong",
                        f"a step of one line is {step['state']}: {step.get('reason')}",
                        "jupyter kale manager logs",
                    )
                    return
        inside = elapsed_s(step) or 0.0
        yield Finding(
            "kernel",
            "ok",
            f"a step runs: the first took {took[0]:.2f} s, the next {took[1]:.2f} s ({inside * 1e3:.0f} ms in its kernel)",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_system(path: Path) -> str:
    """Return the kind of file system a folder is on, of /proc/self/mounts (proc(5)); empty where that is not known."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    where = os.path.realpath(path)
    for line in lines:
        fields = line.split()
        mount = fields[1].encode().decode("unicode_escape") if len(fields) > 2 else ""
        if mount and (where == mount or where.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
            best, kind = mount, fields[2]
    return kind
