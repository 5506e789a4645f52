"""Jupyter's own tests of kernels, with ``kale`` attached to a busy step as the kernel."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import jupyter_kernel_test
import pytest

from kale_magic.api import Workflow
from kale_magic.client import Client
from kale_magic.kernels import general
from tests.conftest import private_kale

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNTER = "import time\nn = 0\nwhile True:\n    n += 1\n    print(n)\n    time.sleep(0.01)\n"


@pytest.fixture(scope="module", autouse=True)
def _step() -> Iterator[None]:
    """Keep a step counting for the whole module."""
    with private_kale() as home, pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("JUPYTER_DATA_DIR", str(home / "data"))
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
        general.install()
        workflow = Workflow("eos", folder=folder)
        workflow.step("md", COUNTER)
        with Client.connect() as client:
            run = workflow.submit(client=client)
            yield
            assert client.status(run.name)["steps"]["md"]["state"] == "running"
            client.cancel(run.name)


class TestAttached(jupyter_kernel_test.KernelTests):
    """As ipykernel tests itself."""

    kernel_name = "kale"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys\nprint('test', file=sys.stderr)"
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = [{"code": "6*7", "result": "42"}]  # noqa: RUF012 - as its base class has it
    code_display_data = [  # noqa: RUF012
        {"code": "from IPython.display import HTML, display\ndisplay(HTML('<b>test</b>'))", "mime": "text/html"},
    ]
    completion_samples = [  # noqa: RUF012
        {"text": "zi", "matches": {"zip"}},
        {"text": "%kale_at", "matches": {"%kale_attach"}},
        {"text": "%kale_attach m", "matches": {"md"}},
    ]
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n", "%kale_tasks", "%%kale_on md\n1\n"]  # noqa: RUF012
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2", "%%kale_on md"]  # noqa: RUF012
    invalid_code_samples = ["import = 7q"]  # noqa: RUF012
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output\nclear_output()"

    @classmethod
    def setUpClass(cls) -> None:
        """Attach."""
        super().setUpClass()
        assert cls.kc.execute_interactive("%kale_attach md", timeout=30, allow_stdin=False)["content"]["status"] == "ok"

    def test_history(self) -> None:
        """A visit has that of its own cells, and nothing from before."""
        self.execute_helper("'remember me'")
        self.kc.history(hist_access_type="range")
        found = self.kc.get_shell_msg(timeout=jupyter_kernel_test.TIMEOUT)["content"]
        assert found["history"][-1][2] == "'remember me'"

    def tearDown(self) -> None:
        """Leave nothing for the next test."""
        self.flush_channels()
