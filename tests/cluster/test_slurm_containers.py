"""A step in a container as a job of a real Slurm, by a real ch-run on the node."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import images

if TYPE_CHECKING:
    from tests.cluster.conftest import Login

pytestmark = [pytest.mark.slurm, pytest.mark.containers]


def test_steps_run_in_an_image_on_a_node_and_are_visited_there(login: Login) -> None:
    images.require_charliecloud()
    folder = Path(tempfile.mkdtemp(prefix="kale-image-", dir="/var/tmp"))
    try:
        image = images.make(folder / "image")
        wf = login.workflow()
        wf.step("make", "x = 20", outputs=["x"])
        wf.step("py", "import time, os\nwhere = open('/etc/image').read()\ny = x + 1\nwhile not os.path.exists('go'): time.sleep(0.05)", outputs=["y", "where"], container=str(image))
        wf.step("sh", 'cat /etc/image; echo "$y"', shell=True, inputs=["y"], container=str(image))
        run = wf.submit(cache=False)
        login.until(lambda: run["py"].state == "running" and run["py"].target().kernel is not None, 60)
        assert "21" in str(run["py"].execute("y", timeout=60))
        (login.home / "go").touch()
        login.completed(run)
        assert run["py"].pull("where") == "made for Kale's tests\n"
        assert run["sh"].logs() == "made for Kale's tests\n21\n"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_missing_image_is_said_with_the_nodes_name(login: Login) -> None:
    wf = login.workflow()
    wf.step("py", "x = 1", container="nowhere.sif")
    found = login.ended(wf.submit(cache=False))
    assert found["py"]["state"] == "failed"
    assert found["py"]["reason"].startswith(f"there is no container image {login.home}/nowhere.sif on node")
