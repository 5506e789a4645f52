"""A real JupyterHub on this machine, whose users are real accounts: for tests, as root.

It runs in a mount namespace of its own, in which the accounts exist and may read this Python and this code, wherever they
are: nothing of the machine is changed, and nothing is left when the hub has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psutil
import requests
import websocket

if TYPE_CHECKING:
    from collections.abc import Iterator

_UP_S = 60.0
_CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{ports[0]}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{ports[1]}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[2]}"
c.ConfigurableHTTPProxy.command = [{bin!r} + "/configurable-http-proxy"]
c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = {names!r}
c.Spawner.cmd = [{bin!r} + "/jupyterhub-singleuser"]
c.Spawner.default_url = "/api"
c.JupyterHub.services = [dict(name="test", api_token={token!r})]
c.JupyterHub.load_roles = [dict(name="test", services=["test"], scopes=["admin:users", "admin:servers", "tokens", "access:servers"])]
"""


def missing() -> str:
    """Why there can be no hub here; empty if there can."""
    if os.getuid() != 0:
        return "needs root for accounts: run the tests as root"
    made = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "this machine lets no mount namespaces be made: run where root may"


def opened(folder: Path) -> Iterator[str]:
    """Lines that let everyone come to this Python and this code, where a folder above them (root's home) is closed; for a mount namespace.

    ``folder`` is where they may make folders for it.
    """
    needed = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, Path(__file__).parents[2])}
    closed: dict[Path, list[str]] = {}
    for path in sorted(needed):
        for parent in reversed(Path(path).parents):
            if not parent.stat().st_mode & 0o001:
                closed.setdefault(parent, []).append(path)
                break
    for number, (parent, paths) in enumerate(closed.items()):
        held = [f"{folder}/held-{number}-{index}" for index in range(len(paths))]
        for path, place in zip(paths, held, strict=True):
            yield f"mkdir -p {place} && mount --bind {shlex.quote(path)} {place}"
        yield f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(parent))}"
        for path, place in zip(paths, held, strict=True):
            yield f"mkdir -p {shlex.quote(path)} && mount --bind {place} {shlex.quote(path)}"


class Account(NamedTuple):
    """A user of the machine and of the hub."""

    name: str
    uid: int
    home: Path

    @property
    def sockets(self) -> Path:
        """Where a Kale of this user has its sockets."""
        return Path(f"/tmp/kale-{self.uid}")


class Hub:
    """The hub; a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kjh-", dir="/tmp"))
        self.folder.chmod(0o755)
        first = 640_000 + 2 * (os.getpid() % 50_000)  # so that two such hubs on one machine have nothing in common
        self.accounts = [Account(f"kale-{name}", first + number, self.folder / "home" / name) for number, name in enumerate(("ada", "emmy"))]
        self._token = secrets.token_hex(16)
        self._ports = _free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()  # it ends its users' servers
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            self._process.kill()
            self._process.wait()
        for process in psutil.process_iter(["uids"]):  # what of the users' outlives the hub: managers, supervisors, steps
            if process.info["uids"] is not None and process.info["uids"].real in {account.uid for account in self.accounts}:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
        for account in self.accounts:
            shutil.rmtree(account.sockets, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        for account in self.accounts:
            account.home.mkdir(mode=0o755, parents=True)
            os.chown(account.home, account.uid, account.uid)
        lines = [f"{account.name}:x:{account.uid}:{account.uid}::{account.home}:/bin/bash\n" for account in self.accounts]
        groups = [f"{account.name}:x:{account.uid}:\n" for account in self.accounts]
        for name, more in (("passwd", lines), ("group", groups)):
            (self.folder / name).write_text(Path("/etc", name).read_text() + "".join(more))
            (self.folder / name).chmod(0o644)
        names = {account.name for account in self.accounts}
        (self.folder / "hub").mkdir(mode=0o700)
        config = self.folder / "hub" / "config.py"
        config.write_text(_CONFIG.format(ports=self._ports, bin=os.path.join(sys.prefix, "bin"), names=names, token=self._token))
        command = shlex.join([sys.executable, "-m", "jupyterhub", "--config", str(config)])
        script = "\n".join(["set -e", *(f"mount --bind {self.folder}/{name} /etc/{name}" for name in ("passwd", "group")), *opened(self.folder), f"cd {self.folder}/hub", f"exec {command}"])
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_", "KALE_", "IPYTHON", "MPLCONFIG"))}
        with (self.folder / "hub" / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "setpriv", "--pdeathsig", "TERM", "bash", "-c", script], env={**environ, "HOME": str(self.folder / "hub")}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )  # fmt: skip
        deadline = time.monotonic() + _UP_S
        while not self._answers():
            assert time.monotonic() < deadline, self.log()
            assert self._process.poll() is None, self.log()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("GET", "/hub/api/").ok)
        except requests.ConnectionError:
            return False

    def log(self) -> str:
        return (self.folder / "hub" / "log").read_text(errors="replace")[-3000:]

    def ask(self, method: str, path: str, token: str = "", **words: Any) -> requests.Response:
        """Ask the hub, or a user's server behind it."""
        return requests.request(method, self.url + path, headers={"Authorization": f"token {token or self._token}"}, timeout=60, **words)

    def log_in(self, account: Account) -> Session:
        """Log in as a person does, by name and password, start the server and return a session with a token of that user."""
        with requests.Session() as browser:
            browser.get(f"{self.url}/hub/login", timeout=30)
            form = {"username": account.name, "password": "any", "_xsrf": browser.cookies["_xsrf"]}
            entered = browser.post(f"{self.url}/hub/login", data=form, allow_redirects=False, timeout=30)
            assert entered.status_code == 302, self.log()
        token = self.ask("POST", f"/hub/api/users/{account.name}/tokens", json={"note": "test"}).json()["token"]
        session = Session(self, account, token)
        session.start_server()
        return session


class Session:
    """A user at the hub: a notebook server, kernels of it, and cells that run in them."""

    def __init__(self, hub: Hub, account: Account, token: str) -> None:
        self.hub, self.account, self._token = hub, account, token

    def ask(self, method: str, path: str, **words: Any) -> requests.Response:
        return self.hub.ask(method, path, self._token, **words)

    def start_server(self) -> None:
        started = self.ask("POST", f"/hub/api/users/{self.account.name}/server")
        assert started.ok, started.text
        deadline = time.monotonic() + _UP_S
        while not self.ask("GET", f"/hub/api/users/{self.account.name}").json()["servers"].get("", {}).get("ready"):
            assert time.monotonic() < deadline, self.hub.log()
            time.sleep(0.1)

    def stop_server(self) -> None:
        self.ask("DELETE", f"/hub/api/users/{self.account.name}/server")
        deadline = time.monotonic() + _UP_S
        while self.ask("GET", f"/hub/api/users/{self.account.name}").json()["servers"]:
            assert time.monotonic() < deadline, self.hub.log()
            time.sleep(0.1)

    @contextlib.contextmanager
    def kernel(self) -> Iterator[Kernel]:
        """Start a kernel by the server's REST interface and talk to it by its websocket."""
        started = self.ask("POST", f"/user/{self.account.name}/api/kernels", json={"name": "python3"})
        assert started.ok, started.text
        number = started.json()["id"]
        address = f"{self.hub.url.replace('http', 'ws')}/user/{self.account.name}/api/kernels/{number}/channels"
        connection = websocket.create_connection(address, header=[f"Authorization: token {self._token}"], timeout=90)
        try:
            yield Kernel(connection)
        finally:
            connection.close()


class Kernel:
    """A kernel, as a page talks to it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, code: str) -> str:
        """Run a cell and return what stands under it; errors are raised."""
        msg_id = uuid.uuid4().hex
        header = {"msg_id": msg_id, "msg_type": "execute_request", "username": "", "session": "s", "version": "5.3", "date": ""}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
        self._connection.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}))
        said = ""
        while True:
            message = json.loads(self._connection.recv())
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                said += content["text"]
            elif message["msg_type"] == "error":
                raise AssertionError("\n".join(content["traceback"]))
            elif message["msg_type"] in {"execute_result", "display_data"}:
                said += content["data"].get("text/plain", "") + "\n"
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return said


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
