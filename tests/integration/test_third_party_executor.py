"""An executor that another package brings, found by its entry point and used like ours."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.conftest import private_kale

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_executor_of_another_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site"
    (package / "mine-1.0.dist-info").mkdir(parents=True)
    (package / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (package / "mine-1.0.dist-info" / "entry_points.txt").write_text("[kale_magic.executors]\nmine = mine:create\nlocal = mine:create\n")
    (package / "mine.py").write_text(
        "from kale_magic.executors.local import LocalExecutor, create as local\n"
        "class Mine(LocalExecutor):\n    pass\n"
        "def create(settings, clock):\n    made = local(settings, clock)\n    made.__class__ = Mine\n    made._fleet._folder = settings.socket_dir / 'mine'\n    return made\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package))
    with private_kale() as home:
        code = "from kale_magic import Workflow\nwf = Workflow('w', executor='mine')\nwf.step('a', 'x = 1', outputs=['x'])\nrun = wf.submit()\nprint(run.wait(60), run['a'].pull('x'), run.status()['steps']['a']['executor'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=home, timeout=90)
    assert done.stdout == "completed 1 mine\n", done.stderr
