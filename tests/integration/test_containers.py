"""Steps in containers, by a real ``ch-run`` on an image made of this machine's own files."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kale_magic import Workflow
from kale_magic.api.pools import open_pool
from kale_magic.client import Client
from tests import images

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.containers]

COMMON = "import sys\nclass Box:\n    def __init__(self, n): self.n = n\n"
IN_IMAGE = "where = open('/etc/image').read().strip()"


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    images.require_charliecloud()
    folder = Path(tempfile.mkdtemp(prefix="kale-image-", dir="/var/tmp"))
    yield images.make(folder / "image")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def work() -> Iterator[Path]:
    """A workflow's folder that is not below /tmp, which containers see anyway."""
    folder = Path(tempfile.mkdtemp(prefix="kale-work-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def wf(kale_home: Path, work: Path) -> Workflow:
    return Workflow("boxed", folder=work)


def completed(run) -> None:
    assert run.wait(100) == "completed", run.status()["steps"]


def test_values_parameters_and_common_code_cross_into_an_image_and_out_of_it(wf: Workflow, work: Path, image: Path) -> None:
    wf.common(COMMON)
    wf.step("make", "x = [1, 2]\nbox = Box(5)", outputs=["x", "box"])
    wf.step("inside", IN_IMAGE + "\ny = [v * p for v in x]\nout = Box(box.n + 1)\nprint('hello', where)", outputs=["y", "where", "out"], params={"p": 10}, container=str(image))
    wf.step("shell", 'cat /etc/image\nid -u\ny2="$y"', shell=True, inputs=["y"], outputs=["y2"], container=str(image))
    wf.step("after", "z = sum(y)\nn = out.n", outputs=["z", "n"])
    run = wf.submit(cache=False)
    completed(run)
    assert run["inside"].pull("where") == "made for Kale's tests"
    assert run["inside"].logs() == "hello made for Kale's tests\n"
    assert (run["after"].pull("z"), run["after"].pull("n")) == (30, 6)
    assert run["shell"].logs() == f"made for Kale's tests\n{os.getuid()}\n"
    assert run["shell"].pull("y2") == [10, 20]
    source = (work / ".kale" / "runs" / run.name / "steps" / "inside" / "step.ipynb").read_text()
    assert "class Box" in source
    assert "hello made" in source


def test_a_step_in_a_container_is_visited_steered_and_stopped_and_its_checkpoint_is_kept(wf: Workflow, image: Path, until) -> None:
    code = "import time\nfrom kale_magic.inside import checkpoint, params\nn = checkpoint.load(n=0)['n']\nwhile params.lr < 3:\n    n += 1\n    checkpoint(n=n)\n    time.sleep(0.02)"
    wf.step("md", code, params={"lr": 1.0}, container=str(image), hold="1s")
    run = wf.submit(cache=False)
    step = run["md"]
    until(lambda: step.state == "running" and step.execute("n > 5", timeout=60) is not None, "a visit", 60)
    assert "made for Kale's tests" in str(step.execute("open('/etc/image').read()"))
    before = step.pull("n")
    assert step.pull("n") >= before > 0
    step.stop()
    until(lambda: step.state == "cancelled", "its end")
    assert step.reason == "stopped by the user"
    again = step.rerun({"lr": 5.0})
    completed(again)


@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs squashfs-tools: make system-deps")
def test_an_image_in_one_file_runs_too(wf: Workflow, work: Path, image: Path, tmp_path: Path) -> None:
    file = image.parent / "image.sqfs"
    (image / str(work)[1:]).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mksquashfs", str(image), str(file), "-quiet", "-no-progress", "-comp", "gzip", "-Xcompression-level", "1"], check=True, capture_output=True)
    wf.step("py", IN_IMAGE, outputs=["where"], container=str(file))
    wf.step("sh", "cat /etc/image", shell=True, container=str(file))
    run = wf.submit(cache=False)
    completed(run)
    assert run["py"].pull("where") == "made for Kale's tests"
    assert run["sh"].logs() == "made for Kale's tests\n"


def test_a_shell_step_in_a_container_is_told_before_its_end(wf: Workflow, work: Path, image: Path) -> None:
    code = "trap 'touch saved' USR1\nsleep 60 & pid=$!\nwait $pid || true\n[ -e saved ] && kill $pid"
    wf.step("sh", code, shell=True, container=str(image), walltime="40s", warn="38s")
    completed(wf.submit(cache=False))
    assert (work / "saved").exists()


def test_what_the_node_or_the_image_lacks_is_said_in_a_sentence(wf: Workflow, work: Path, image: Path, tmp_path: Path) -> None:
    bare = images.make(tmp_path / "bare", python=False)
    plain = images.make(tmp_path / "plain", ipykernel=False)
    sif = tmp_path / "x.sif"
    sif.write_bytes(b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\x0001\0")
    odd = tmp_path / "odd.txt"
    odd.write_text("no image")
    for name, where in (("missing", "nowhere.sif"), ("bare", bare), ("plain", plain), ("sif", sif), ("odd", odd)):
        wf.step(name, "x = 1", container=str(where))
    wf.step("shell", "true", shell=True, container="nowhere.sif")
    run = wf.submit(cache=False)
    assert run.wait(100) == "failed"
    found = {name: step["reason"] for name, step in run.status()["steps"].items()}
    assert found["missing"].startswith(f"there is no container image {work}/nowhere.sif on ")
    assert found["shell"] == found["missing"]
    assert found["bare"].startswith(f"the image {bare} has no python3: ")
    assert found["plain"].startswith(f"the image {plain} has no ipykernel: ")
    assert found["odd"] == f"{odd} is no container image: neither a SIF file nor a squashfs file nor a folder"
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        assert found["sif"].startswith("there is no apptainer or singularity on ")


def test_a_pools_steps_run_in_containers_too(wf: Workflow, image: Path, until) -> None:
    client = Client.connect()
    open_pool(client, "fast", executor="local", cpus=2)
    wf.step("py", IN_IMAGE, outputs=["where"], container=str(image))
    run = wf.submit(pool="fast", cache=False)
    completed(run)
    assert run["py"].pull("where") == "made for Kale's tests"
