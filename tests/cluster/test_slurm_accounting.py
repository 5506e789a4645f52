"""A real Slurm with a real accounting database, and a controller that forgets what has ended after two seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.cluster.hosts import Hosts, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import Login

pytestmark = [pytest.mark.slurm]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if why := missing(slurm=True, accounting=True):
        pytest.skip(why)
    with Hosts(nodes=1, slurm=True, accounting=True, min_job_age=2) as made:
        yield made


def test_why_a_job_ended_while_no_manager_looked_is_known_from_the_accounting(login: Login) -> None:
    wf = login.workflow()
    wf.step("s", "import time\nfrom pathlib import Path\nif not Path('again').exists():\n    Path('again').touch()\n    time.sleep(300)")
    run = wf.submit(cache=False)
    number = login.until(lambda: run["s"].target().kernel is not None and run["s"].status()["native_id"])
    seen = login.client.manager()
    login.kill_manager()
    login.run("scontrol", "update", "nodename=node1", "state=down", "reason=test")
    time.sleep(1)
    login.resume_nodes()
    login.until(lambda: number not in login.run("squeue", "-h", "--states=all", "-o", "%i").split())  # the controller has forgotten it
    assert "NODE_FAIL" in login.run("sacct", "-n", "-P", "-X", "-j", number, "-o", "State")
    login.completed(run)
    assert login.client.manager()["pid"] != seen["pid"]
    assert run["s"].status()["attempt"] == 2
    said = []
    with login.client.events() as events:
        while (event := events.next(timeout=2)) is not None:
            said += [event.data.get("reason")] if event.state == "lost" else []
    assert said == ["its node failed"]
