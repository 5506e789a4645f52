"""Front ends that nobody here wrote, on a busy step: papermill, nbclient, jupyter console, and several at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.api import connect
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


@pytest.fixture
def run(kale: Kale, tmp_path: Path) -> Iterator[Run]:
    """A run whose step counts; it must still do so after the test."""
    run = steps.busy(tmp_path, kale)
    yield run
    assert steps.goes_on(run)
    run.cancel()


@pytest.mark.parametrize("kernel", ["", "python3"])
def test_visitor_of_a_stopped_step_sees_what_it_prints(kale: Kale, tmp_path: Path, kernel: str, until: Callable[..., Any]) -> None:
    run = steps.busy(tmp_path, kale, **({"kernel": kernel} if kernel else {}))
    run["md"].stop()
    until(lambda: run["md"].state == "paused", "the hold", 60)
    with steps.Kernel(steps.install(run).name) as client:
        reply, messages = client.run("print(n >= 0)")
        assert (reply["status"], steps.text(messages)) == ("ok", "True\n")
    run.cancel()
