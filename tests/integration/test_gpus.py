"""GPUs of a node in a step's samples, by an ``nvidia-smi`` that prints what a real one printed, and by one that hangs."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration._supervisor import SupervisorClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECORDED = """#!/bin/sh
[ "$*" = "--query-gpu=index,utilization.gpu,memory.used,memory.total,power.draw --format=csv,noheader,nounits" ] || exit 2
echo '0, 37, 4021, 81920, 120.53'
echo '1, 0, 4, 81920, 61.02'
"""
HANGS = "#!/bin/sh\nexec sleep 15\n"


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Return a function that runs a step of some seconds beside an nvidia-smi, and returns the samples of the node."""
    folder = Path(tempfile.mkdtemp(prefix="kale-s-", dir="/tmp"))
    clients = []

    def run(script: str) -> list[dict[str, Any]]:
        program = folder / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text(script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        clients.append(SupervisorClient(folder))
        spec, result = clients[0].run("import time; time.sleep(4)")
        assert result["state"] == "completed", result
        lines = [json.loads(line) for line in (Path(spec.folder) / "resources.jsonl").read_text().splitlines()]
        return [line["node"] for line in lines if "node" in line]

    yield run
    for client in clients:
        client.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_gpus_are_sampled_where_nvidia_smi_is(samples: Callable[[str], list[dict[str, Any]]]) -> None:
    found = samples(RECORDED)
    assert "gpus" not in found[0]  # nothing is waited for
    assert found[-1]["gpus"] == [
        {"index": 0, "busy_percent": 37.0, "memory_used_bytes": 4021 << 20, "memory_total_bytes": 81920 << 20, "power_w": 120.53},
        {"index": 1, "busy_percent": 0.0, "memory_used_bytes": 4 << 20, "memory_total_bytes": 81920 << 20, "power_w": 61.02},
    ]


def test_driver_that_hangs_delays_no_sample(samples: Callable[[str], list[dict[str, Any]]]) -> None:
    found = samples(HANGS)
    assert len(found) >= 3
    assert not [node for node in found if "gpus" in node]
