"""What is done on another host to have a Kale there: look at its Python, list what has arrived, make the environment.

Its text is sent along as the argument of ``python3 -c``, so nothing need be installed there: standard library only.
Usage: ``python3 -I -S -c TEXT OPERATION JSON``; the answer is JSON behind the mark, on the last line. A finished environment
is a folder with a record in it, and a link by which it is found changes from one to the next in one moment.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "kale-answer "
RECORD = "kale-environment.json"
_PROBE_BYTES = 1 << 20
_LOCK_S = 900.0
_MAKE_S = 1500.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def look(base: str, name: str) -> dict[str, Any]:
    """Tell of this Python, and whether its environments have a place; ``base`` is made."""
    folder = _base(base)
    try:
        import venv  # noqa: F401 - some systems part it from Python

        has_venv = True
    except ImportError:
        has_venv = False
    trouble = ""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / f".room-{os.getpid()}"
        try:
            with probe.open("wb") as stream:
                stream.write(bytes(_PROBE_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as exc:
        trouble = "full" if exc.errno in _FULL else f"{exc.strerror}"
    near = next(path for path in (folder, *folder.parents) if path.exists())
    return {
        "python": list(sys.version_info[:3]), "executable": sys.executable, "implementation": sys.implementation.name, "abiflags": sys.abiflags,
        "system": sys.platform, "machine": platform.machine(), "libc": list(platform.libc_ver()), "has_venv": has_venv, "base": str(folder),
        "trouble": trouble, "free_bytes": shutil.disk_usage(near).free, "record": _record(folder / name),
    }  # fmt: skip


def files(folder: str, patterns: list[str]) -> dict[str, Any]:
    """List files of a folder that match: size and SHA-256 of each."""
    found = {}
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for pattern in patterns:
        for name in glob.glob(pattern, root_dir=folder):
            path = os.path.join(folder, name)
            with open(path, "rb") as stream:
                found[name] = {"size": os.path.getsize(path), "digest": hashlib.file_digest(stream, "sha256").hexdigest(), "is_own": True}
    return {"files": found}


def make(base: str, name: str, digest: str, wheels: str, names: list[str], requirements: list[str], record: dict[str, Any]) -> dict[str, Any]:
    """Make the environment ``name-DIGEST`` from wheels and nothing else, and let ``name`` lead to it."""
    folder = _base(base)
    target = folder / f"{name}-{digest}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    return {"error": "another program has been making an environment there all the time"}
                time.sleep(0.2)
        try:
            if not (target / RECORD).exists():
                _fill(target, Path(wheels), names, requirements, record)
            _lead(folder / name, target)
        except OSError as exc:
            return {"error": "full" if exc.errno in _FULL else str(exc)}
        except subprocess.CalledProcessError as exc:
            said = str(exc.output or "").strip()
            if any(os.strerror(number) in said for number in _FULL):
                return {"error": "full"}
            lines = [line for line in said.splitlines() if line.strip()]
            return {"error": next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else f"code {exc.returncode}")}
        shutil.rmtree(wheels, ignore_errors=True)
    others = [path.name for path in folder.glob(f"{name}-*") if path != target and (path / RECORD).exists()]
    return {"path": str(target), "others": sorted(others)}


def _fill(target: Path, wheels: Path, names: list[str], requirements: list[str], record: dict[str, Any]) -> None:
    shutil.rmtree(target, ignore_errors=True)  # what a cut attempt left
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON", "VIRTUAL_ENV"))}
    environ["PIP_CONFIG_FILE"] = os.devnull

    def run(*words: str) -> str:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=True, env=environ, cwd=wheels, timeout=_MAKE_S)
        return done.stdout

    run(sys.executable, "-m", "venv", "--without-pip", str(target))
    python = str(target / "bin" / "python")
    [pip] = [name for name in names if name.startswith("pip-")]
    options = ["--no-index", "--find-links", str(wheels), "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    run(python, f"{wheels / pip}/pip", "install", *options, "pip", *requirements)
    run(python, "-c", "import kale_magic.manager.daemon, ipykernel, zmq")
    fresh = target / f"{RECORD}.new"
    with fresh.open("w") as stream:
        json.dump(record, stream)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(target / RECORD)


def _lead(link: Path, target: Path) -> None:
    """Let a link lead to the environment, at once."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return {**found, "path": os.path.realpath(path)} if isinstance(found, dict) else {}


def _base(base: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(base)))


if __name__ == "__main__":
    operations: dict[str, Callable[..., dict[str, Any]]] = {"look": look, "files": files, "make": make}
    print(f"\n{MARK}{json.dumps(operations[sys.argv[1]](**json.loads(sys.argv[2])))}")
