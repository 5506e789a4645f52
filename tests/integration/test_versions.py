"""A manager of another version than the client: said once, in words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kale_magic
import kale_proxy

CLIENT = "from kale_magic.client import Client\nfor _ in range(2):\n    with Client.connect() as client:\n        print(client.hello.version)"


@pytest.fixture
def older(kale_home: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of programs that run a Kale 0.0.9: the same code, with another version; its manager is up."""
    for package in (kale_magic, kale_proxy):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "kale_magic" / "version.py"
    file.write_text(file.read_text().replace(f'"{kale_magic.__version__}"', '"0.0.9"'))
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run(environ, CLIENT)
    return environ


def run(environ: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ, cwd="/", timeout=60)


def test_manager_of_another_version_is_said_once_with_the_way_to_one_version(older: dict[str, str]) -> None:
    assert run(older, CLIENT).stderr == ""
    done = run(dict(os.environ), CLIENT)
    assert done.stdout.split() == ["0.0.9", "0.0.9"]
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Kale: the manager is Kale 0.0.9, this is Kale {kale_magic.__version__}. Stop it with: jupyter kale manager stop.")
