"""``doctor --host H --install``: a login host, and nodes, that have Python and nothing else; the wheels come from the laptop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from kale_magic import Workflow, config
from kale_magic.api import mirror, provision, wheels
from kale_magic.errors import UsageError
from kale_magic.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.conftest import Cluster
    from tests.cluster.hosts import Hosts

pytestmark = [pytest.mark.ssh, pytest.mark.slurm]

PORT = 2220
PYTHON = "/usr/bin/python3"  # Debian's: no pip in it, and none is needed


class Bare(NamedTuple):
    """The host ``bare``: its home, and how the laptop's ``jupyter kale`` is asked about it."""

    home: Path
    kale: Callable[..., subprocess.CompletedProcess[str]]
    configure: Callable[..., None]


@pytest.fixture(scope="module")
def home(hosts: Hosts) -> Iterator[Path]:
    """The home of the person on the host, whose sshd gives nothing else to a session."""
    made = Path(tempfile.mkdtemp(prefix="kh-", dir="/tmp"))
    environ = f"SetEnv HOME={made} PATH=/usr/bin:/bin SLURM_CONF={hosts.slurm_conf}"
    server = hosts.start_sshd(hosts.login, f"Port {PORT}", environ)
    key = " ".join((hosts.folder / "host_login.pub").read_text().split()[:2])
    address = hosts.login.addresses["campus"]
    with (hosts.folder / "known_hosts").open("a") as known:
        known.write(f"[{address}]:{PORT} {key}\n")
    with hosts.ssh_config.open("a") as config:
        config.write(f"Host bare\n  HostName {address}\n  Port {PORT}\n")
    yield made
    hosts.stop(server)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels for the host's Python, brought together where there is a package index: the laptop of the test has none."""
    made = tmp_path_factory.mktemp("wheels")
    made.chmod(0o700)
    about = "import json, platform, sys; print(json.dumps([sys.version_info[:3], platform.machine(), platform.libc_ver()[1].split('.')]))"
    version, machine, glibc = json.loads(subprocess.run([PYTHON, "-c", about], capture_output=True, check=True).stdout)
    wheels.bundle(wheels.Platform(python=tuple(version), machine=machine, glibc=(int(glibc[0]), int(glibc[1]))), [], made)
    return made


@pytest.fixture
def bare(cluster: Cluster, home: Path, cache: Path) -> Bare:
    """A laptop with what it needs, and a host with nothing; only where this test's manager is, is configured."""
    (cluster.laptop / "wheels").symlink_to(cache)

    def configure(**words: str) -> None:
        lines = [f'{key} = "{value}"' for key, value in {"home": str(cluster.there), **words}.items()]
        (cluster.laptop / "config.toml").write_text("\n".join(["[hosts.bare]", *lines, ""]))

    configure()
    return Bare(home, cluster.kale, configure)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_host_with_python_alone_is_given_an_environment_that_a_workflow_then_finds(bare: Bare, cluster: Cluster, tmp_path: Path) -> None:
    said = bare.kale("doctor", "--host", "bare", code=1).stdout
    assert "jupyter kale doctor --host bare --install" in said
    assert f", {PYTHON}: an environment can be made of it, by --install" in said
    assert "jupyter kale doctor --host bare --install" in bare.kale("status", "--host", "bare", code=3).stderr

    said = bare.kale("doctor", "--host", "bare", "--install", timeout=300).stdout
    link = bare.home / ".local" / "share" / "kale" / f"venv-{__version__}"
    made = link.resolve()
    assert f"made {made}: " in said
    assert f"Kale {__version__}, pid " in said  # the manager, started by it
    assert not list(link.parent.glob("wheels-*"))

    again = bare.kale("doctor", "--host", "bare", "--install").stdout
    assert f"is there already: {made}" in again

    wf = Workflow("eos")
    look = "import sys, os, kale_proxy\npython, host, path, job = sys.executable, os.uname().nodename, kale_proxy.__file__, os.environ.get('SLURM_JOB_ID', '')"
    names = ["python", "host", "path", "job"]
    wf.step("here", look, outputs=names)
    wf.step("node", look, outputs=names, executor="slurm")
    wf.to_yaml(tmp_path / "eos.yaml")
    bare.kale("run", str(tmp_path / "eos.yaml"), "--host", "bare", "--name", "bare-1")
    found = {step: _outputs(cluster, step) for step in ("here", "node")}
    assert found["here"]["host"] == "login"
    assert found["node"]["host"].startswith("node")
    assert found["node"]["job"]
    for values in found.values():
        assert values["python"] == str(made / "bin" / "python")
        assert values["path"].startswith(str(made))


def _outputs(cluster: Cluster, step: str) -> dict[str, Any]:
    from kale_magic.api.connection import connect

    with cluster.hosts.laptop.here(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KALE_HOME", str(cluster.laptop))
        with connect(host="bare") as kale:
            names = ("python", "host", "path", "job")
            return dict(zip(names, kale.run("bare-1")[step].pull(*names), strict=True))


def test_transfer_that_was_cut_goes_on_where_it_was(bare: Bare, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    arrived: list[Path] = []
    real_ask, real_sftp = provision._ask, mirror._sftp

    def ask(settings: Any, operation: str, fields: dict[str, Any], timeout: float) -> dict[str, Any]:
        if operation != "make":
            return real_ask(settings, operation, fields, timeout)
        asked.append(fields)
        return {"path": "/made", "others": []}

    def cut(host: str, lines: Any) -> None:
        real_sftp(host, list(lines)[:30])
        arrived.extend(Path(bare.home, "other folder").glob("wheels-*/*.kale-part-*"))
        os.truncate(arrived[0], arrived[0].stat().st_size // 2)
        raise UsageError("Files can't be exchanged with bare: the cable was cut.")

    bare.configure(venvs=f"{bare.home}/other folder")  # in the usual one is an environment by now
    monkeypatch.setattr(provision, "_ask", ask)
    monkeypatch.setenv("KALE_HOME", str(cluster.laptop))
    settings = replace(config.load(), host="bare")
    with cluster.hosts.laptop.here():
        monkeypatch.setattr(mirror, "_sftp", cut)
        with pytest.raises(UsageError, match="the cable was cut"):
            provision.make(settings, [], str)
        assert asked == []
        sent: list[str] = []
        monkeypatch.setattr(mirror, "_sftp", lambda host, lines: (sent.extend(lines), real_sftp(host, lines)))
        made = provision.make(settings, [], str)
    puts = [line for line in sent if line.startswith("put ")]
    assert [arrived[0].name in line for line in puts if line.startswith("put -a ")] == [True]
    assert len(puts) == made.count - (len(arrived) - 1)
    assert len(arrived) > 20
    there = Path(asked[0]["wheels"])
    assert sorted(path.name for path in there.iterdir()) == asked[0]["names"]
    assert not asked[0]["requirements"][1:]
    shutil.rmtree(there)


def wrapped(folder: Path, before: str) -> str:
    """A program that is Python, but for what the line ``before`` changes; takes the options that Kale gives it."""
    path = folder / "python-of-the-site"
    script = f"{before}; code = sys.argv.pop(1); exec(compile(code, 'given', 'exec'))"
    path.write_text(f'#!/bin/sh\n[ "$1" = -m ] && exec {PYTHON} "$@"\nwhile [ "$1" != -c ]; do shift; done\nshift\nexec {PYTHON} -c "import sys; {script}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_python_that_is_too_old_is_named_and_how_to_name_another(bare: Bare, tmp_path: Path) -> None:
    bare.configure(python=wrapped(tmp_path, "sys.version_info = (3, 6, 15); sys.executable = '/opt/old/python3'"), venvs=f"{tmp_path}/none")
    assert "The Python on bare is 3.6.15" in bare.kale("doctor", "--host", "bare", code=1).stdout
    said = bare.kale("doctor", "--host", "bare", "--install", code=1).stdout
    assert "The Python on bare is 3.6.15 (/opt/old/python3); Kale needs 3.11 or newer." in said
    assert '[hosts.bare] python = "/path/to/python"' in said


def test_python_that_is_none_or_lacks_venv_is_refused(bare: Bare, tmp_path: Path) -> None:
    bare.configure(python="/opt/none/python3")
    said = bare.kale("doctor", "--host", "bare", "--install", code=1).stdout
    assert "/opt/none/python3, which [hosts.bare] python names, is no Python on bare" in said
    bare.configure(python=wrapped(tmp_path, "sys.modules['venv'] = None"))
    said = bare.kale("doctor", "--host", "bare", "--install", code=1).stdout
    assert "lacks the module venv, which makes environments" in said


@pytest.mark.parametrize("size", ["64k", "16m"])  # not even a file, and not enough for all of it
def test_home_that_is_full_is_said_before_anything_is_sent(bare: Bare, tmp_path: Path, size: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        bare.configure(venvs=f"{disk}/kale")
        said = bare.kale("doctor", "--host", "bare", "--install", code=1).stdout
        assert f"There is no room for an environment in {disk}/kale on bare" in said
        assert '[hosts.bare] venvs = "/scratch/me/kale"' in said
        assert not [path for path in disk.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_package_that_is_no_name_is_refused(bare: Bare) -> None:
    said = bare.kale("doctor", "--host", "bare", "--install", "--index-url=x", code=2).stderr
    assert "unrecognized arguments" in said
    said = bare.kale("doctor", "--host", "bare", "--install", "./folder", code=1).stdout
    assert "'./folder' is no package that can be brought along" in said


def test_doctor_leaves_no_folder_on_the_host(cluster: Cluster) -> None:
    said = cluster.kale("doctor", "--host", "login", "--executor", "slurm").stdout
    assert "slurm job" in said
    assert os.listdir(cluster.there / "kale") == []
