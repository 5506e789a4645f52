"""Jupyter's own tests of kernels, with ``kale-local``, whose kernel is a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kale_magic.kernels import general
from tests.conftest import private_kale
from tests.integration import test_relay_conformance as of_visits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module", autouse=True)
def _kernelspec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install kale-local, and work in a folder of one's own."""
    folder: Path = tmp_path_factory.mktemp("work")
    with private_kale() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", str(home / "data"))
        patch.chdir(folder)
        general.install()
        yield


class TestKernelJob(of_visits.TestVisit):
    """As ipykernel tests itself."""

    kernel_name = "kale-local"
