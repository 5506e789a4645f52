"""What nvidia-smi prints, read back, and drawn as lines over time. The texts are in the form that nvidia-smi(1) gives them; no machine with a GPU was there."""

from __future__ import annotations

from kale_magic.widgets.viewmodel import usage
from kale_proxy.gpus import read

A100 = "0, 37, 4021, 81920, 120.53\n1, 0, 4, 81920, 61.02\n"
OLD = "0, [N/A], 310, 2002, [Not Supported]\n"
FAILED = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"


def test_each_gpu_is_an_object_of_what_it_knows() -> None:
    first, second = read(A100)
    assert first == {"index": 0, "busy_percent": 37.0, "memory_used_bytes": 4021 << 20, "memory_total_bytes": 81920 << 20, "power_w": 120.53}
    assert second["index"] == 1
    assert read(OLD) == [{"index": 0, "memory_used_bytes": 310 << 20, "memory_total_bytes": 2002 << 20}]
    assert read(FAILED) == read("") == []


def test_gpus_have_a_line_each_and_a_node_without_any_has_no_chart() -> None:
    samples = [
        {"at": "2026-11-28T10:00:00Z", "node": {"load": 0.5}},
        {"at": "2026-11-28T10:00:05Z", "node": {"load": 0.5, "gpus": read(A100)}},
        {"at": "2026-11-28T10:00:10Z", "node": {"load": 0.5, "gpus": read(A100.replace("37", "90"))}},
    ]
    found = usage.charts(samples)
    assert found["node: GPUs busy, %"] == {"gpu 0": [(5.0, 37.0), (10.0, 90.0)], "gpu 1": [(5.0, 0.0), (10.0, 0.0)]}
    assert found["node: GPU memory, GB"]["gpu 0"][0][1] == 4021 / 1024
    assert usage.charts([{"at": "2026-11-28T10:00:00Z", "node": {"gpus": read(OLD)}}])["node: GPU memory, GB"]["gpu 0"]
    assert not [title for title in usage.charts(samples[:1]) if "GPU" in title]
    before = {"at": 0.0, "disk_read_bytes": 0, "cpus": 4, "cpu_busy_s": 10.0, "gpus": []}
    host = usage.host_charts([before, {**before, "at": 2.0, "disk_read_bytes": 4 << 20, "cpu_busy_s": 12.0, "gpus": read(A100)}])
    assert host["this host: processors, %"] == {"busy": [(0.0, 25.0)]}
    assert host["this host: disk, MB/s"] == {"read": [(0.0, 2.0)]}
    assert host["this host: GPUs busy, %"]["gpu 0"] == [(0.0, 37.0)]
