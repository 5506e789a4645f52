"""A manager of another version than the client: said once, in words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kale_magic
import kale_proxy
from kale_proxy.spec import JobSpec

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


def test_step_whose_worker_does_not_understand_its_manager_fails_and_says_why(older: dict[str, str], tmp_path: Path) -> None:
    run({**older, "KALE_HOME": os.environ["KALE_HOME"]}, "from kale_magic.client import Client\nClient.connect().shutdown()")
    file = tmp_path / "kale_proxy" / "spec.py"
    file.write_text(file.read_text().replace("    version: int = SPEC_VERSION\n", "    version: int = SPEC_VERSION\n    novelty: int = 1\n"))
    run(older, CLIENT)
    code = f"from kale_magic import Workflow\nwf = Workflow('w', folder={str(tmp_path / 'work')!r})\nwf.step('a', 'x = 1')\nrun = wf.submit()\nprint(run.wait(timeout=30), run.status()['steps']['a']['reason'])"
    said = run(dict(os.environ), code).stdout
    assert said.startswith("failed the manager's job specification says novelty, which this worker does not know: they are of two versions of Kale.")
    assert f"Have one in the manager and in {sys.executable}, then: jupyter kale manager stop" in said


@pytest.mark.parametrize("change", [{"novelty": 1}, {"version": 2}])
def test_batch_job_that_is_not_understood_fails_and_says_why(tmp_path: Path, change: dict[str, Any]) -> None:
    spec = JobSpec(run="r", step="a", point=None, attempt=1, uuid="u", folder=str(tmp_path), cwd=str(tmp_path), kind="python", code="x = 1")
    (tmp_path / "job.json").write_text(json.dumps({**json.loads(spec.to_json()), **change}))
    for _ in range(2):  # the result stays, whoever runs it again
        done = subprocess.run([sys.executable, "-m", "kale_proxy", "run", str(tmp_path / "job.json")], capture_output=True, text=True, check=False, cwd="/", timeout=30)
        assert done.returncode == 1
        assert "two versions of Kale" in done.stdout
        assert done.stderr == ""
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["uuid"], result["state"]) == ("u", "failed")
    assert "two versions of Kale" in result["reason"]
