"""A container image made of this machine's own files: bash, a few programs, and this Python with or without ipykernel."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PROGRAMS = ("bash", "sleep", "cat", "touch", "env", "id", "ls", "seq")


def require_charliecloud() -> None:
    """Skip where there is no ch-run, or no user namespaces for it."""
    if shutil.which("ch-run") is None:
        pytest.skip("needs charliecloud: make system-deps")
    if subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not permitted here (unshare -Ur true)")


def make(folder: Path, *, python: bool = True, ipykernel: bool = True) -> Path:
    """Make an image in an empty folder; return it."""
    for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr/bin", "var"):
        (folder / name).mkdir(parents=True)
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        (folder / "etc" / name).touch()
    (folder / "etc" / "image").write_text("made for Kale's tests\n")
    for name in PROGRAMS:
        found = Path(shutil.which(name) or f"/bin/{name}").resolve()
        shutil.copy(found, folder / "bin" / name)
        _libraries(found, folder)
    if python:
        _python(folder)
        if ipykernel:
            _packages(folder)
    return folder


def _libraries(program: Path, folder: Path) -> None:
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    for name in re.findall(r"(/\S+) \(0x", said):
        target = Path(f"{folder}{name}")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, target)


def _python(folder: Path) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    home = Path(sys.base_prefix)
    program = (home / "bin" / version).resolve()
    target = Path(f"{folder}{home}")
    (target / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(program, target / "bin" / version)
    _libraries(program, folder)
    library = Path(sysconfig.get_path("stdlib"))
    unwanted = shutil.ignore_patterns("test", "tests", "site-packages", "dist-packages", "idlelib", "ensurepip", "lib2to3", "config-*", "__pycache__", "turtledemo")
    shutil.copytree(library, f"{folder}{library}", ignore=unwanted, dirs_exist_ok=True)
    for extension in library.glob("lib-dynload/*.so"):
        _libraries(extension, folder)
    os.symlink(f"{home}/bin/{version}", folder / "bin" / "python3")


def _packages(folder: Path) -> None:
    """Copy ipykernel and what it needs."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    target = Path(f"{folder}{sys.base_prefix}/lib/{version}/site-packages")
    wanted, seen = ["ipykernel"], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        needs = [need for need in found.requires or () if "extra ==" not in need]
        wanted += [re.match(r"[\w.-]+", need)[0].lower() for need in needs]
        for file in found.files or ():
            source = Path(found.locate_file(file))
            if ".." in file.parts or "tests" in file.parts or not source.is_file():
                continue
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
            if place.suffix == ".so" or ".so." in place.name:
                _libraries(source, folder)
