"""In what a run was computed besides its steps: packages, interpreter, git state, and files that its code names.

Kept with each run, so that runs can be compared and a step whose surroundings changed is not taken for unchanged.
Reads files and asks git, in the submit's thread; called by :mod:`kale_magic.manager.requests` alone.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

from kale_magic.model.step import StepKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kale_magic.model.step import Step

_GIT_S = 3.0
_LARGEST = 64 << 20  # a file named in code is read up to this size, beyond it by size and time
_WORD = re.compile(r"(?<![\w./-])(?:\./)?[\w.-]+(?:/[\w.-]+)*")
_WRITTEN = re.compile(r">+\s*[\"']?[\w./-]+")
# Variables on which results may depend; others change with every login.
_VARIABLES = re.compile(
    r"PATH|PYTHON\w+|LD_\w+|CONDA_PREFIX|VIRTUAL_ENV|LOADEDMODULES|\w+_NUM_THREADS|CUDA_VISIBLE_DEVICES|LANG|LC_\w+|TZ|R_LIBS\w*"
)
_digests: dict[str, tuple[tuple[int, int, int], str]] = {}
_MOST_DIGESTS = 100_000


def digest_of_bytes(data: bytes) -> str:
    """Return the digest of a file that has this content."""
    return hashlib.sha256(data).hexdigest()[:32]


def digest_of(path: str | os.PathLike[str]) -> str:
    """Return a digest of a file's content; computed anew only when its size, time or inode changed. Raises OSError."""
    info = os.stat(path)
    stamp = (info.st_size, info.st_mtime_ns, info.st_ino)
    known = _digests.get(os.fspath(path))
    if known is not None and known[0] == stamp:
        return known[1]
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    if len(_digests) > _MOST_DIGESTS:
        _digests.clear()
    _digests[os.fspath(path)] = stamp, found
    return found


def surroundings(python: str, environ: Mapping[str, str], packages: Mapping[str, str]) -> dict[str, Any]:
    """Return what all steps of a run share: interpreter, digest of its packages, digests of variables that may matter."""
    variables = {name: _digest(value) for name, value in sorted(environ.items()) if _VARIABLES.fullmatch(name)}
    return {"python": python, "packages": _digest(repr(sorted(packages.items()))), "variables": variables}


def surrounding_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in words what of :func:`surroundings` changed."""
    found = []
    if old.get("python") != new["python"]:
        found.append(f"interpreter changed: {old.get('python')} -> {new['python']}")
    if old.get("packages") != new["packages"]:
        found.append("installed packages changed")
    before: Mapping[str, str] = old.get("variables") or {}
    names = [name for name in dict.fromkeys([*before, *new["variables"]]) if before.get(name) != new["variables"].get(name)]
    if names:
        found.append(f"environment changed: {', '.join(names[:4])}")
    return found


def git_state(folder: Path) -> dict[str, Any]:
    """Return commit, branch and changed files of the git repository that ``folder`` is in; empty if it is in none."""
    words = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_GIT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if done.returncode != 0:
        return {}
    lines = done.stdout.splitlines()
    head = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch.") and " " in line[2:])
    changed = [line.rsplit(" ", 1)[-1] for line in lines if not line.startswith("#")]
    return {"commit": head.get("branch.oid", ""), "branch": head.get("branch.head", ""), "changed": changed}


def named_files(step: Step, common: str, folder: Path) -> dict[str, str]:
    """Return digests of the files in ``folder`` that a step's code names or imports, by path relative to it.

    Modules are followed into what they import. A file that the step is going to write may be among them; the
    cache sees by its time that it was.
    """
    found: dict[str, str] = {}
    if step.notebook is not None:
        digest = _content(folder / step.notebook)
        return {} if digest is None else {step.notebook: digest}
    if step.kind is StepKind.PYTHON or (step.kind is StepKind.KERNEL and _is_python(step.code)):
        todo = [*_named_in_python(common), *_named_in_python(step.code)]
        while todo:
            name = todo.pop()
            path = folder / name
            if name in found or os.path.isabs(name) or ".." in name.split("/") or not path.is_file():
                continue
            if (digest := _content(path)) is not None:
                found[name] = digest
                if name.endswith(".py") and path.stat().st_size < _LARGEST:
                    todo += _named_in_python(path.read_text(encoding="utf-8", errors="replace"))
    else:
        for word in set(_WORD.findall(_WRITTEN.sub(" ", step.code))):
            name = word.removeprefix("./")
            if ".." not in name.split("/") and (folder / name).is_file() and (digest := _content(folder / name)) is not None:
                found[name] = digest
    return found


def _content(path: Path) -> str | None:
    try:
        info = path.stat()
        return digest_of(path) if info.st_size <= _LARGEST else f"{info.st_size}-{info.st_mtime_ns}"
    except OSError:
        return None


def _named_in_python(code: str) -> Iterator[str]:
    """Give the paths that imports and string literals may mean."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):  # magics of IPython
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 200:
            if "\n" not in node.value and "\0" not in node.value:
                yield node.value
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from _module(node.module)
            for alias in node.names:
                yield from _module(f"{node.module}.{alias.name}")


def _module(name: str) -> Iterator[str]:
    path = name.replace(".", "/")
    yield f"{path}.py"
    yield f"{path}/__init__.py"
    if "/" in path:
        yield f"{path.split('/', 1)[0]}/__init__.py"


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
