"""Busy steps for tests of front ends: a private Kale and Jupyter, a step that counts, its kernelspec, and clients of it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
from jupyter_client import KernelManager

from kale_magic.api import Workflow, relays
from kale_magic.api.find import Scope, find_step
from kale_magic.client import Client
from kale_magic.kernels import specs
from tests.conftest import private_kale

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run

WAIT_S = 60.0
COUNTER = "import time\nfrom pathlib import Path\nn = 0\nwhile not Path('stop').exists():\n    n += 1\n    print('step', n)\n    time.sleep(0.01)\n"


@contextlib.contextmanager
def private_jupyter() -> Iterator[Path]:
    """Give a test, or a module of tests, a Kale and Jupyter folders of its own; relays are ended."""
    with private_kale() as home, pytest.MonkeyPatch.context() as patch:
        for name in ("data", "rt", "config", "ipython"):
            (home / name).mkdir(mode=0o700)
        patch.setenv("JUPYTER_DATA_DIR", str(home / "data"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "rt"))
        patch.setenv("JUPYTER_CONFIG_DIR", str(home / "config"))
        patch.setenv("IPYTHONDIR", str(home / "ipython"))
        try:
            yield home
        finally:
            relays.end_all()


def submit(folder: Path, kale: Kale, code: str = COUNTER, **options: Any) -> Run:
    """Start a run of the one step md."""
    workflow = Workflow("eos", folder=folder)
    workflow.step("md", code, **options)
    return kale.run(workflow.submit(client=kale.client, cache=False).name)


def busy(folder: Path, kale: Kale, code: str = COUNTER, **options: Any) -> Run:
    """Start a run whose step md has a kernel that can be visited, and counts."""
    run = submit(folder, kale, code, **options)
    run["md"].execute("None", timeout=WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while str(run["md"].execute("'n' in globals()", timeout=WAIT_S)) != "True":  # it has only just begun
        assert time.monotonic() < deadline
    assert goes_on(run)
    return run


def install(run: Run, **options: Any) -> specs.Spec:
    """Make the kernelspec of a run's step md."""
    with Client.connect() as client:
        return specs.install(client, find_step(client, f"{run.name}/md", Scope()), **options)


def goes_on(run: Run) -> bool:
    """Whether the manager says that the step runs, and it counts."""
    before, deadline = int(run["md"].pull("n")), time.monotonic() + WAIT_S
    while run["md"].state == "running" and time.monotonic() < deadline:
        if int(run["md"].pull("n")) > before:
            return True
        time.sleep(0.05)
    return False


class Kernel:
    """A front end's kernel manager and client on a kernelspec: a relay, for those of steps."""

    def __init__(self, name: str, **options: Any) -> None:
        self.manager = KernelManager(kernel_name=name, **options)

    def __enter__(self) -> Self:
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.client.context.destroy(linger=0)

    def output(self, msg_id: str) -> list[dict[str, Any]]:
        """Return what comes on iopub for a request, to its idle."""
        messages: list[dict[str, Any]] = []
        while not (messages and messages[-1]["content"].get("execution_state") == "idle"):
            message = self.client.get_iopub_msg(timeout=WAIT_S)
            if message["parent_header"].get("msg_id") == msg_id:
                messages.append(message)
        return messages

    def reply(self, msg_id: str, channel: str = "shell") -> dict[str, Any]:
        """Return the content of the reply to a request."""
        while True:
            message = getattr(self.client, f"get_{channel}_msg")(timeout=WAIT_S)
            if message["parent_header"].get("msg_id") == msg_id:
                content: dict[str, Any] = message["content"]
                return content

    def run(self, code: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Run a cell; return its reply and output."""
        msg_id = self.client.execute(code)
        return self.reply(msg_id), self.output(msg_id)


def text(messages: list[dict[str, Any]]) -> str:
    """Return what was printed."""
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")
