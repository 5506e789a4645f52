"""An IPython shell in this process with Kale loaded, a manager in memory, and what it displayed kept for the test."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING, Any

from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from kale_magic.magics import register
from tests.fakes.manager_client import FakeClient

if TYPE_CHECKING:
    from pathlib import Path

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Displays(DisplayPublisher):
    """Keeps what is published instead of printing it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[dict[str, Any]] = []
        self.by_id: dict[str, dict[str, Any]] = {}

    def publish(self, data, metadata=None, *, transient=None, update=False, **_: Any) -> None:  # type: ignore[no-untyped-def]
        display_id = (transient or {}).get("display_id", "")
        self.seen.append({"data": data, "id": display_id, "update": update})
        self.by_id[display_id] = data

    def clear_output(self, wait: bool = False) -> None:
        self.seen.append({"cleared": wait})


class Notebook:
    """Runs cells as a notebook does, and remembers."""

    def __init__(self, folder: Path) -> None:
        config = Config()
        config.HistoryManager.enabled = False
        config.Completer.use_jedi = False  # takes seconds to load
        self.shell = InteractiveShell(config=config)
        self.shell.display_pub = Displays(parent=self.shell)
        self.session = register(self.shell)
        self.client = FakeClient(str(folder))
        self.session.client = self.client
        self.text = ""

    @property
    def displays(self) -> Displays:
        """What was displayed."""
        return self.shell.display_pub

    def run(self, cell: str) -> Any:
        """Run a cell that must succeed; returns its value, and keeps what it printed in ``text``."""
        result, self.text = self._run(cell)
        assert result.success, self.text
        return result.result

    def fail(self, cell: str) -> str:
        """Run a cell that must fail; returns what the person reads, without colours."""
        result, self.text = self._run(cell)
        assert not result.success, f"did not fail: {self.text}"
        self.error = result.error_in_exec
        return self.text

    def _run(self, cell: str) -> tuple[Any, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            result = self.shell.run_cell(cell, store_history=True)
        return result, _COLOUR.sub("", out.getvalue())
