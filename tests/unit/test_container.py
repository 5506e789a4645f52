"""The command that runs a step in a container, for each runtime; a real ch-run is in ``tests/integration``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kale_magic import Workflow
from kale_magic.config import load
from kale_magic.errors import ConfigError, UsageError
from kale_proxy import container
from kale_proxy.container import ContainerError, wrap
from kale_proxy.spec import ContainerSpec, InputSpec, JobSpec

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = ["bash", "-e", "it's a; step.sh"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "an image.sif"
    path.write_bytes(b"\0" * 32 + b"SIF_MAGIC\0")
    return path


def runtimes(folder: Path, *names: str) -> dict[str, str]:
    """Put empty programs of these names on a path of their own."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder), "KALE_JOB": "ab", "PYTHONPATH": "/x", "LD_LIBRARY_PATH": "/y", "LANG": "C"}


def spec(image: object, runtime: str = "", binds: tuple[str, ...] = (), **changes: object) -> JobSpec:
    values = {
        "run": "r", "step": "fit", "point": None, "attempt": 1, "uuid": "ab", "folder": "/work/.kale/runs/r/steps/fit", "cwd": "/work", "kind": "shell", "code": "true",
        "container": ContainerSpec(image=str(image), runtime=runtime, binds=binds),
    }  # fmt: skip
    return JobSpec(**{**values, **changes})


@pytest.mark.parametrize("name", ["apptainer", "singularity"])
def test_apptainer_gets_words_not_a_line_and_sees_the_steps_folders_once(tmp_path: Path, image: Path, name: str) -> None:
    environ = runtimes(tmp_path / "bin", name)
    inputs = (InputSpec(name="x", producer="a", output="x", folders=("/old/run/a", "/work/.kale/runs/r/steps/b")),)
    argv, kept = wrap(spec(image, binds=("/scratch",), inputs=inputs), tmp_path / "live", PROGRAM, environ)
    gpus = ["--nv"] if os.path.exists("/dev/nvidiactl") else []
    shown = ["--bind", "/work", "--bind", "/scratch", "--bind", "/old/run/a", "--bind", str(tmp_path / "live")]
    assert argv == [str(tmp_path / "bin" / name), "exec", *gpus, *shown, "--pwd", "/work", str(image), *PROGRAM]
    assert kept == {"PATH": environ["PATH"], "KALE_JOB": "ab", "LANG": "C", "PYTHONNOUSERSITE": "1"}


def test_gpus_of_the_node_are_there(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ, exists = runtimes(tmp_path / "bin", "apptainer"), os.path.exists
    monkeypatch.setattr(container.os.path, "exists", lambda path: path == "/dev/nvidiactl" or exists(path))
    assert wrap(spec(image), tmp_path, PROGRAM, environ)[0][2] == "--nv"


def test_an_address_is_apptainers_business(tmp_path: Path) -> None:
    environ = runtimes(tmp_path / "bin", "ch-run", "apptainer")
    argv, _ = wrap(spec("docker://python:3.12"), tmp_path, PROGRAM, environ)
    assert argv[0].endswith("/apptainer")
    assert "docker://python:3.12" in argv


def test_charliecloud_gets_places_in_a_folder_and_a_path_of_the_image(tmp_path: Path) -> None:
    image = tmp_path / "image"
    (image / "ch").mkdir(parents=True)
    (image / "ch" / "environment").touch()
    argv, kept = wrap(spec(image, binds=("/data/a",)), tmp_path / "live", PROGRAM, runtimes(tmp_path / "bin", "ch-run"))
    live = [] if str(tmp_path).startswith("/tmp/") else [f"--bind={tmp_path}/live"]
    assert argv == [str(tmp_path / "bin" / "ch-run"), "--cd=/work", "--bind=/work", "--bind=/data/a", *live, "--set-env", str(image), "--", *PROGRAM]
    assert (image / "work").is_dir()
    assert (image / "data" / "a").is_dir()
    assert kept["PATH"].startswith("/usr/local/sbin:")
    assert kept["USER"]


def test_no_folder_is_made_through_a_link_of_an_image(tmp_path: Path) -> None:
    image, outside = tmp_path / "image", tmp_path / "outside"
    image.mkdir()
    outside.mkdir()
    (image / "data").symlink_to(outside)
    wrap(spec(image, binds=("/data/a",)), tmp_path / "live", PROGRAM, runtimes(tmp_path / "bin", "ch-run"))
    assert list(outside.iterdir()) == []


def test_variables_and_the_workflows_folder_are_resolved_where_the_step_runs(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES", str(tmp_path))
    environ = runtimes(tmp_path / "bin", "apptainer")
    assert str(image) in wrap(spec("$IMAGES/an image.sif"), tmp_path, PROGRAM, environ)[0]
    assert str(image) in wrap(spec("an image.sif", cwd=str(tmp_path)), tmp_path, PROGRAM, environ)[0]


def test_what_is_missing_is_named(tmp_path: Path, image: Path) -> None:
    nothing = runtimes(tmp_path / "none")
    with pytest.raises(ContainerError, match=r"there is no apptainer or singularity on .*, which .*an image.sif needs"):
        wrap(spec(image), tmp_path, PROGRAM, nothing)
    with pytest.raises(ContainerError, match=r"there is no apptainer, singularity or ch-run on "):
        wrap(spec(tmp_path), tmp_path, PROGRAM, nothing)
    with pytest.raises(ContainerError, match=r"ch-run \(the runtime in \[container\] of config.toml\) can't run .*: apptainer or singularity can"):
        wrap(spec(image, "ch-run"), tmp_path, PROGRAM, runtimes(tmp_path / "bin", "ch-run", "apptainer"))
    with pytest.raises(ContainerError, match=r"there is no container image /work/x.sif on "):
        wrap(spec("x.sif"), tmp_path, PROGRAM, nothing)
    with pytest.raises(ContainerError, match=r"the folder /a,b can't be shown"):
        wrap(spec(image, binds=("/a,b",)), tmp_path, PROGRAM, runtimes(tmp_path / "bin", "apptainer"))


def test_a_spec_with_a_container_is_read_back_and_has_no_warm_kernel() -> None:
    made = spec("x.sif", "apptainer", ("/a",), kind="python")
    assert JobSpec.from_json(made.to_json()) == made
    assert not made.is_warm
    assert spec("x.sif", kind="python", container=None).is_warm


def test_the_runtime_and_folders_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALE_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text('[container]\nruntime = "ch-run"\nbind = ["/scratch", "/data"]\n')
    found = load({})
    assert (found.container_runtime, found.container_bind) == ("ch-run", ("/scratch", "/data"))
    assert load({"KALE_CONTAINER_BIND": "/a:/b"}).container_bind == ("/a", "/b")
    with pytest.raises(ConfigError, match="is no container runtime"):
        load({"KALE_CONTAINER_RUNTIME": "docker"})
    with pytest.raises(ConfigError, match="is no list of folders"):
        load({"KALE_CONTAINER_BIND": "scratch"})


def test_a_kernel_of_the_host_is_none_of_an_image(tmp_path: Path) -> None:
    wf = Workflow("w", folder=tmp_path)
    with pytest.raises(UsageError, match="has --container and --kernel ir"):
        wf.step("a", "1", kernel="ir", container="x.sif")
    wf.step("b", "1", kernel="python3", container="x.sif")
