"""Kale inside a real JupyterHub: two users, each a person of their own on one machine."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster import jupyterhub
from tests.integration.test_other_user import INTRUDER, PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.jupyterhub import Account, Hub, Kernel

WORK = [
    "import os; os.makedirs('work', exist_ok=True); os.chdir('work')\n%load_ext kale_magic",
    "%kale_workflow mine",
    "%%kale_step a --outputs who,hub\nimport os\nwho, hub = os.getuid(), [name for name in os.environ if name.startswith(('JUPYTERHUB', 'JPY'))]\nprint('here')\n",
    "%%kale_step b --after a\nimport time\nfrom pathlib import Path\nn = 0\nwhile not Path('stop').exists():\n    n += 1\n    time.sleep(0.01)\n",
    "%kale_submit --name r-1",
]


@pytest.fixture
def hub() -> Iterator[Hub]:
    if why := jupyterhub.missing():
        pytest.skip(why)
    with jupyterhub.Hub() as made:
        yield made


def visited(kernel: Kernel) -> int:
    """How far the user's running step is, by a visit."""
    return int(kernel.run("%%kale_attach b\nprint(n)").strip().splitlines()[-1])


def manager(account: Account) -> dict[str, object]:
    """Who the user's manager is, of its own record."""
    record = json.loads((account.home / ".local" / "share" / "jupyter" / "kale" / "manager.json").read_text())
    assert isinstance(record, dict)
    return record


def tried_by(account: Account, paths: list[Path]) -> list[list[str]]:
    """What an account can do with each of these files, folders and sockets."""
    words = json.dumps([str(path) for path in paths])
    done = subprocess.run([PYTHON, "-c", INTRUDER], user=account.uid, group=account.uid, extra_groups=[], input=words, cwd="/", capture_output=True, text=True, timeout=60, check=True)
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_users_of_a_hub_work_each_with_a_kale_of_their_own(hub: Hub) -> None:
    ada, emmy = hub.accounts
    sessions = [hub.log_in(account) for account in hub.accounts]
    assert sessions[0].ask("GET", f"/user/{emmy.name}/api/kernels").status_code == 403

    for session in sessions:
        with session.kernel() as kernel:
            for cell in WORK:
                kernel.run(cell)
            assert visited(kernel) > 0
            assert kernel.run("%kale_pull a who hub\nprint(who, hub)").splitlines()[-1] == f"{session.account.uid} []"

    # the server ends, as when an idle one is culled; the step and the manager go on, and the next server finds them
    before = manager(ada)
    sessions[0].stop_server()
    sessions[0].start_server()
    with sessions[0].kernel() as kernel:
        kernel.run("import os; os.chdir('work')\n%load_ext kale_magic")
        first = visited(kernel)
        assert visited(kernel) > first > 0
        assert manager(ada)["pid"] == before["pid"]

    for mine, other in ((ada, emmy), (emmy, ada)):
        record = manager(mine)
        assert Path(f"/proc/{record['pid']}").stat().st_uid == mine.uid
        files = [path for top in (mine.sockets, mine.home / ".local" / "share" / "jupyter" / "kale", mine.home / "work" / ".kale") for path in (top, *top.rglob("*"))]
        kinds = {path.name for path in files if stat.S_ISSOCK(path.stat().st_mode)}
        assert {"m", "a"} <= kinds
        assert any(path.name == "kernel.json" for path in files)
        assert any(path.name == "stdout.log" for path in files)
        assert all(path.lstat().st_uid == mine.uid for path in files)
        assert tried_by(other, files) == []
        assert ["connect", str(mine.sockets / "m")] in tried_by(mine, [mine.sockets / "m"])  # that a user's own can be tried
    assert manager(ada)["pid"] != manager(emmy)["pid"]

    with sessions[1].kernel() as kernel:
        kernel.run("import os; os.chdir('work'); open('stop', 'w').close()\n%load_ext kale_magic")
        kernel.run("%kale_wait r-1")
        assert "completed" in kernel.run("%kale_status r-1")
        assert kernel.run("from kale_magic import connect\nprint([run.name for run in connect().runs()])").strip() == "['r-1']"  # none of ada's
    assert not (ada.home / "work" / "stop").exists()
    assert os.path.isdir(f"/proc/{manager(ada)['pid']}")
