"""Fixtures of the unit tests."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.magics_shell import Notebook


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """Return a fresh notebook with the magics, in a folder of its own and with a manager in memory."""
    from tests.unit.magics_shell import Notebook

    monkeypatch.chdir(tmp_path)
    book = Notebook(tmp_path)
    yield book
    book.client.end()
    for view in book.session._views:
        view.join()
    atexit.unregister(book.shell.atexit_operations)
