"""Shared fixtures: a private Kale for a test, a private home for the session, a notebook runner; and the count of skips.

A test that starts processes asks for ``kale_home``: it gets a manager of its own, and whatever that
manager and its supervisors started is ended afterwards, by the ids that their own files name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbformat import NotebookNode

# A skip in these fails the run when KALE_NO_SKIP=1 (.ci/run sets it as root, where everything can be installed).
_NEVER_SKIPPED = ("slurm", "ssh", "browser", "r", "containers")
_ENDS_WITHIN_S = 10.0


@pytest.fixture(autouse=True)
def _no_umask_is_left() -> Iterator[None]:
    """Open the umask again, which entry points close for their process: other users, who have parts in later tests, could read nothing that those make."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=True)
def _private_home() -> Iterator[None]:
    """Give the session a home of its own, so that nothing of the person's Jupyter or IPython is read or written."""
    home = Path(tempfile.mkdtemp(prefix="kale-home-", dir="/tmp"))
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith(("JUPYTER", "KALE_", "JPY_"))]:
        if name != "KALE_NO_SKIP" and not name.startswith("KALE_TEST_"):
            patch.delenv(name)
    patch.setenv("HOME", str(home))
    patch.setenv("JUPYTER_DATA_DIR", str(home / "data"))
    patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "rt"))
    patch.setenv("JUPYTER_CONFIG_DIR", str(home / "config"))
    patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    patch.setenv("IPYTHONDIR", str(home / "ipython"))
    patch.setenv("MPLCONFIGDIR", str(home / "mpl"))
    yield
    patch.undo()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def kale_home() -> Iterator[Path]:
    """Set ``KALE_HOME`` to a fresh 0700 folder with a short path; end everything started under it afterwards."""
    with private_kale() as home:
        yield home


@contextlib.contextmanager
def private_kale() -> Iterator[Path]:
    """Do what ``kale_home`` does, for a fixture that lives longer than one test."""
    from kale_proxy.places import socket_dir

    home = Path(tempfile.mkdtemp(prefix="kale-t-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KALE_HOME", str(home))
        sockets = socket_dir()
        try:
            yield home
        finally:
            end_all(home, sockets)
            shutil.rmtree(sockets, ignore_errors=True)
            shutil.rmtree(home, ignore_errors=True)


def end_all(home: Path, sockets: Path) -> None:
    """End the manager and the supervisors that wrote their ids under these folders, and what they started.

    The manager goes first, so that it cannot start another supervisor. An id in a left-over file may be
    another program's by now: a process counts as ours only if it is one of Kale's.
    """
    for pattern, root in (("manager.json", home), ("q/*/pilot.json", sockets), ("w/*/serve.json", sockets), ("q/*/*/serve.json", sockets)):
        for file in root.glob(pattern):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
                process = psutil.Process(int(json.loads(file.read_text())["pid"]))
                if any("kale_magic.manager" in word or str(sockets) in word for word in process.cmdline()):
                    _end(process, with_children=pattern != "manager.json")


def _end(process: psutil.Process, *, with_children: bool) -> None:
    family = [process, *(process.children(recursive=True) if with_children else [])]
    process.send_signal(signal.SIGTERM)
    alive = _wait([process])
    for left in [*alive, *family[1:]]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    _wait(family)


def _wait(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait until these have ended, return those that have not; a zombie has: its new parent may take seconds to reap it."""
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while (alive := [process for process in processes if _is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def until() -> Callable[..., Any]:
    """Return ``until(condition, what, timeout=20)``: polls until the condition gives something true, and returns that."""

    def poll(condition: Callable[[], Any], what: str = "the condition", timeout: float = 20.0) -> Any:
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not come within {timeout:g} s")
            time.sleep(0.02)
        return value

    return poll


@pytest.fixture
def notebook_runner(kale_home: Path, tmp_path: Path) -> Callable[..., NotebookNode]:
    """Return ``run(cells, allow_errors=False, timeout=100)``: executes cells in a fresh kernel in ``tmp_path``.

    ``cells`` is a list of cell texts, a notebook node, or the path of a notebook; the executed notebook comes
    back. The kernel is the tests' own Python, and its Kale is the one of ``kale_home``.
    """
    assert kale_home.is_dir()

    def run(cells: Any, *, allow_errors: bool = False, timeout: int = 100) -> NotebookNode:
        import nbformat
        from nbclient import NotebookClient
        from traitlets.config import Config

        if isinstance(cells, (str, Path)):
            notebook = nbformat.read(cells, as_version=4)
        elif isinstance(cells, list):
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
        else:
            notebook = cells
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=timeout,
            allow_errors=allow_errors,
            config=Config(KernelManager={"transport": "ipc", "ip": str(kale_home / "nb")}),
            resources={"metadata": {"path": str(tmp_path)}},
        ).execute()
        return notebook

    return run


@pytest.fixture
def cell_text() -> Callable[[NotebookNode], str]:
    """Return ``cell_text(cell)``: what a person reads under a cell: streams, plain-text results, tracebacks, in order."""

    def text(cell: NotebookNode) -> str:
        parts = []
        for output in cell.outputs:
            if output.output_type == "stream":
                parts.append(output.text)
            elif output.output_type == "error":
                parts.append("\n".join(output.traceback))
            else:
                parts.append(str(output.data.get("text/plain", "")) + "\n")
        return "".join(parts)

    return text


def _may_not_skip(path: Path, keywords: Any) -> bool:
    folders = path.parts
    return os.environ.get("KALE_NO_SKIP") == "1" and (
        "cluster" in folders or "browser" in folders or any(mark in keywords for mark in _NEVER_SKIPPED)
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Turn a skip that this machine may not have into a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _may_not_skip(item.path, item.keywords):
        report.outcome = "failed"
        report.longrepr = f"KALE_NO_SKIP=1, but the test was skipped: {report.longrepr[-1]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """Do the same for a module that skips itself as a whole."""
    report = yield
    if report.skipped and _may_not_skip(collector.path, collector.keywords):
        report.outcome = "failed"
        report.longrepr = f"KALE_NO_SKIP=1, but the module was skipped: {report.longrepr[-1]}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files of each folder over the run: those with a browser compute, others wait, and the quick ones fill the end."""
    files: dict[str, dict[Path, None]] = {}
    for item in items:
        files.setdefault(item.path.parent.name, {})[item.path] = None
    quick = {"unit", "contract"}
    place = {
        path: (folder in quick, (number + 0.5) / len(paths), folder)
        for folder, paths in files.items()
        for number, path in enumerate(paths)
    }
    items.sort(key=lambda item: place[item.path])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests were skipped, even if it is none; their reasons stand above (``-ra``)."""
    count = len(terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line(f"{count} skipped" + (": each reason above says how to enable it" if count else ""))
