"""Pools, the queue and a login of two questions in JupyterLab on a laptop, against a real Slurm and sshd: by clicks, checked in the page, in the manager and by squeue."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.client import Client
from kale_proxy.places import socket_dir
from kale_proxy.tunnel import dialer as dialers
from tests import steps
from tests.cluster.conftest import PASSWORD, asking_twice, code, end_masters
from tests.cluster.hosts import Hosts, missing
from tests.conftest import private_kale

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.pages import WAIT_MS  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.browser.pages import NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.slurm, pytest.mark.ssh, pytest.mark.timeout(240)]
CLOCK = re.compile(r"^as of \d\d:\d\d:\d\d$")
CELLS = [
    "%load_ext kale_magic\n%kale_workflow far --host login",
    """%%kale_step md --walltime 00:10:00
import os, pathlib, time
from kale_magic.inside import metric
print('hello from', os.uname().nodename, flush=True)
for n in range(3):
    metric(energy=-n, step=n)
pathlib.Path('far.csv').write_text('t,e\\n0,1\\n1,4\\n')
time.sleep(300)""",
    "%kale_dashboard",
    "_ = get_ipython().run_line_magic('kale_submit', '--executor slurm --no-cache')",
    "_ = get_ipython().run_line_magic('kale_submit', '--pool fast --no-cache')",
]
SHOWN, TO_SLURM, TO_POOL = 3, 3, 4
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
_NAMES = ("i", "T", "r", "D", "l", "P", "a", "u")


class Lab:
    """The cluster, seen by its own commands; this process, and what it starts, is on the laptop."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts

    def run(self, *words: str) -> str:
        said = subprocess.run(self.hosts.login.argv(*words), capture_output=True, text=True, check=True, env=self.hosts.environ(), cwd="/tmp", timeout=30)
        return said.stdout.strip()

    def submit(self, *words: str, by: tuple[str, ...] = ()) -> str:
        """Submit a batch job that is not Kale's; return its number."""
        return self.run(*by, "sbatch", "--parsable", "--output=/dev/null", "--time=00:20:00", *words, "--wrap", "sleep 600")

    def squeue(self) -> dict[str, dict[str, str]]:
        """What is in the queue: state, reason, nodes, time limit, partition, account and user by job."""
        lines = [line.split("|") for line in self.run("squeue", "-h", "-o", "|".join(f"%{name}" for name in _NAMES)).splitlines()]
        return {words[0]: dict(zip(_NAMES, words, strict=True)) for words in lines}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A cluster with two login hosts; this process, and what it starts, is on the laptop."""
    if why := missing(slurm=True):
        pytest.skip(why)
    with Hosts(slurm=True, login2=True) as hosts, hosts.laptop.here():
        yield Lab(hosts)


@pytest.fixture(scope="module")
def home(lab: Lab) -> Iterator[Path]:
    """Folders of the module's own; what ssh and Kale know of the hosts: ``login``, ``login2`` with another Kale, and ``strict``, which asks for more than a key."""
    strict = f"Host strict\n  HostName {lab.hosts.login.addresses['campus']}\n  Port 2210\n  HostKeyAlias strict\n"  # a name for which no key is known
    with lab.hosts.ssh_config.open("a") as config:
        config.write(strict)
    with pytest.MonkeyPatch.context() as patch, private_kale() as there, private_kale() as second, steps.private_jupyter() as folder:
        patch.setenv("KALE_SSH", f"ssh -F {lab.hosts.ssh_config}")
        dialers.default.cache_clear()
        known = {"login": there, "login2": second, "strict": there}
        lines = [f'[hosts.{host}]\npython = "{sys.executable}"\nhome = "{at}"\nfolder = "{at}/kale"\n' for host, at in known.items()]
        (folder / "config.toml").write_text("".join(lines))
        yield folder
        for job in lab.squeue():
            lab.run("scancel", job)
        end_masters(socket_dir() / "s")
    dialers.default.cache_clear()


def tab(notebook: NotebookPage, name: str) -> Any:
    """Choose a tab of the dashboard; return its part."""
    notebook.page.locator(".kale-tabs").get_by_role("tab", name=name, exact=True).click()
    expect(notebook.part(name.lower())).to_be_visible(timeout=WAIT_MS)
    return notebook.part(name.lower())


def test_pool_waits_for_a_full_cluster_which_is_emptied_by_a_click_and_then_runs_a_step(
    lab: Lab, open_notebook: Callable[..., NotebookPage], until: Callable[..., Any]
) -> None:
    full = lab.submit("--nodes=2", "--exclusive", "--job-name=full")
    until(lambda: lab.squeue()[full]["T"] == "RUNNING", "the job that fills the cluster")
    notebook = open_notebook("slurm", CELLS, run=SHOWN)
    pools = tab(notebook, "Pools")
    with Client.connect(host="login") as client:

        def pool() -> dict[str, Any]:
            return next(iter(client.pools()), {})

        expect(pools.get_by_label("Host")).to_have_value("login", timeout=WAIT_MS)
        for label, value in {"Name": "fast", "Nodes": "2", "Cores": "4", "Walltime": "00:30:00", "Queue": "debug", "Account": "theory"}.items():
            pools.get_by_label(label).fill(value)
        pools.get_by_label("Executor").select_option("slurm")
        pools.get_by_role("button", name="Open").click()
        row, why = pools.locator("tr[data-pool=fast]"), pools.locator("tr[data-why=fast]")
        expect(row).to_have_attribute("data-state", "waiting", timeout=WAIT_MS)
        expect(why).to_contain_text(re.compile(r"Resources.*at \d\d:\d\d"), timeout=WAIT_MS)  # why, and when Slurm thinks it can begin
        expect(pools.locator(".when")).to_have_text(CLOCK)
        job = pool()["native_id"]
        expect(row).to_contain_text(job)
        expect(row).to_contain_text("00:30:00 once it begins")
        assert (pool()["state"], pool()["reason"].split(":")[0]) == ("waiting", why.inner_text().strip().split(":")[0])
        assert lab.squeue()[job] == {"i": job, "T": "PENDING", "r": "Resources", "D": "2", "l": "30:00", "P": "debug", "a": "theory", "u": "root"}
        notebook.look("pool-waiting", pools)
        other = lab.submit("--nodes=1", "--exclusive", "--job-name=theirs", by=NOBODY)

        notebook.run(TO_SLURM)
        run = until(lambda: next(iter(client.runs(None, 1)), None), "the run")["run"]
        queue = tab(notebook, "Queue")
        md = queue.locator(f"tr[data-job='{run}/md']")
        expect(md).to_contain_text("queued", timeout=WAIT_MS)
        expect(queue.locator(f"tr[data-why='{run}/md']")).to_contain_text(re.compile("Priority|Resources"), timeout=WAIT_MS)
        expect(md).to_contain_text(re.compile(r"[A-Z][a-z][a-z] \d\d:\d\d"), timeout=WAIT_MS)  # when it may begin
        number = client.status(run)["steps"]["md"]["native_id"]
        expect(md).to_contain_text(number)
        assert lab.squeue()[number]["T"] == "PENDING"

        queue.get_by_label("Queue").select_option("user")
        line = {name: queue.locator(f"tr[data-job='slurm/{number}']") for name, number in (("full", full), ("pool", job), ("other", other))}
        expect(line["full"]).to_contain_text("RUNNING", timeout=WAIT_MS)
        expect(line["full"]).to_contain_text(re.compile(r"node\[?1[-,]2\]?.*1\d:\d\d"))  # where, and what is left of its time
        expect(line["pool"]).to_contain_text("PENDING")
        expect(line["pool"]).to_contain_text("pool fast")
        expect(queue.locator(f"tr[data-why='slurm/{job}']")).to_contain_text("Resources")
        expect(line["other"]).to_have_count(0)
        expect(queue.locator(".when")).to_have_text(CLOCK)
        queue.get_by_label("Queue").select_option("all")
        expect(line["other"]).to_contain_text("nobody", timeout=WAIT_MS)
        expect(line["other"].get_by_role("button")).to_have_count(0)  # no one can cancel what is another's
        queue.get_by_label("Filter").fill("pending resources")
        expect(line["full"]).to_have_count(0)
        expect(line["pool"]).to_have_count(1)
        queue.get_by_label("Filter").fill("")
        notebook.look("queue-all", queue)
        queue.get_by_role("tab", name="login2").click()
        expect(line["full"]).to_have_count(1, timeout=WAIT_MS)  # what its manager, another, is told by the same Slurm
        expect(queue.locator(".when")).to_have_text(CLOCK, timeout=WAIT_MS)
        queue.get_by_label("Queue").select_option("kale")
        expect(queue).to_contain_text("Nothing runs and nothing waits", timeout=WAIT_MS)
        queue.get_by_role("tab", name="login", exact=True).click()
        md.get_by_role("button").click()
        md.get_by_role("button", name="Really cancel md").click()
        until(lambda: client.status(run)["steps"]["md"]["state"] == "cancelled", "the end of md")
        expect(md).to_have_count(0, timeout=WAIT_MS)
        until(lambda: number not in lab.squeue(), "the end of its job")

        queue.get_by_role("tab", name="slurm").click()
        queue.get_by_label("Queue").select_option("user")
        expect(line["full"]).to_have_count(1, timeout=WAIT_MS)
        line["full"].get_by_role("button").click()
        line["full"].get_by_role("button", name="Keep it").click()
        assert lab.squeue()[full]["T"] == "RUNNING"
        line["full"].get_by_role("button").click()
        line["full"].get_by_role("button", name=f"Really cancel job {full}").click()
        expect(queue.locator(".kale-say")).to_have_text(f"Job {full} of slurm is cancelled.", timeout=WAIT_MS)
        until(lambda: full not in lab.squeue() or lab.squeue()[full]["T"] == "COMPLETING", "the end of the job that fills the cluster")

        pools = tab(notebook, "Pools")
        expect(row).to_have_attribute("data-state", "idle", timeout=WAIT_MS)
        expect(row).to_contain_text("node1, node2")
        expect(row).to_contain_text("0 of 8", timeout=WAIT_MS)
        expect(row).to_contain_text(re.compile(r"00:(29|30):\d\d"))  # what is left of its time
        expect(why).to_have_count(0)
        assert (pool()["state"], lab.squeue()[job]["T"]) == ("idle", "RUNNING")
        notebook.run(TO_POOL)
        expect(row).to_have_attribute("data-state", "active", timeout=WAIT_MS)
        expect(row).to_contain_text("/md")
        expect(row).to_contain_text("1 of 8")
        second = client.runs(None, 1)[0]["run"]
        assert pool()["running"] == [f"{second}/md"]
        notebook.look("pool-active", pools)
        log = tab(notebook, "Logs").locator(".log")
        expect(log).to_have_text(re.compile(r"^hello from node[12]$"), timeout=WAIT_MS)  # by a copy that grows, since it is on another host
        [copy] = Path(tempfile.gettempdir()).glob(f"kale-live-*/**/{second}/steps/md/stdout.log")
        assert copy.read_text() == f"{log.inner_text().strip()}\n"
        plots = tab(notebook, "Plots")
        expect(plots.locator("svg[aria-label='energy: md']")).to_be_visible(timeout=WAIT_MS)
        plots.locator(".file").select_option("far.csv", timeout=WAIT_MS)
        expect(plots.locator("svg[aria-label='far.csv: e']")).to_be_visible(timeout=WAIT_MS)
        tab(notebook, "Pools")
        row.get_by_role("button", name="Close fast now").click()
        row.get_by_role("button", name="Really close fast and cancel 1 job").click()
        expect(row).to_have_count(0, timeout=WAIT_MS)
        until(lambda: not client.pools(), "the end of the pool")
        assert client.status(second)["steps"]["md"]["state"] == "cancelled"
        until(lambda: job not in lab.squeue(), "the end of its allocation")


def test_login_asks_for_fingerprint_password_and_code_and_none_of_them_is_kept(
    lab: Lab, home: Path, root: Path, open_notebook: Callable[..., NotebookPage]
) -> None:
    with asking_twice(lab.hosts) as port:
        assert port == 2210
        notebook = open_notebook("login", ["%load_ext kale_magic", "%kale_dashboard ssh"], run=2)
        part = notebook.part("ssh")
        answer, prompt = part.get_by_label("Answer"), part.locator(".prompt")

        def log_in(count: int, password: str = PASSWORD) -> None:
            expect(prompt).to_contain_text("Password:", timeout=WAIT_MS)
            expect(answer).to_have_attribute("type", "password")
            answer.fill(password)
            answer.press("Enter")
            if password != PASSWORD:
                return
            expect(prompt).to_contain_text("One-time password", timeout=WAIT_MS)
            expect(answer).to_have_value("")
            if not count:
                notebook.look("code")
            answer.fill(code(count))
            answer.press("Enter")

        part.get_by_label("Host", exact=True).fill("strict")
        part.get_by_role("button", name="Connect").click()
        expect(prompt).to_contain_text("SHA256:", timeout=WAIT_MS)
        answer.fill("yes")
        answer.press("Enter")
        log_in(0, "wrong")
        log_in(0)
        expect(part.locator(".state")).to_have_text(re.compile("connected.*--host strict"), timeout=WAIT_MS)
        with Client.connect(host="strict") as client:  # by the connection that the page has made
            assert client.manager()["host"] == "login"
        notebook.save()
        secrets = [PASSWORD.encode(), code(0).encode()]
        files = [path for folder in (root, home) for path in folder.rglob("*") if path.is_file()]
        assert not [path for path in files if any(secret in path.read_bytes() for secret in secrets)]
        end_masters(socket_dir() / "s")
        expect(part.locator(".state")).to_contain_text("The connection has ended. Connect again.", timeout=WAIT_MS)
        part.get_by_role("button", name="Connect").click()
        log_in(1)
        expect(part.locator(".state")).to_contain_text("connected", timeout=WAIT_MS)
