"""The script that makes an environment on a host, run here, with wheels of a few bytes; and the wheels that it is given."""

from __future__ import annotations

import ensurepip
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kale_magic.api import provision_there, wheels
from kale_magic.errors import UsageError
from kale_magic.version import __version__

pytestmark = pytest.mark.timeout(300)  # pip from its wheel takes seconds, and many where others compute

TEXT = Path(provision_there.__file__).read_text(encoding="utf-8")


def do(operation: str, **asked: Any) -> dict[str, Any]:
    """Run the script as it runs on a host."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PIP_INDEX_URL": "nonsense", "PYTHONPATH": "/nonsense"}
    done = subprocess.run([sys.executable, "-I", "-S", "-c", TEXT, operation, json.dumps(asked)], capture_output=True, text=True, check=True, env=environ, timeout=100)
    return dict(json.loads(done.stdout.rpartition(provision_there.MARK)[2]))


def wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    path = folder / f"{name}-1-py3-none-any.whl"
    info = f"{name}-1.dist-info"
    about = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n", f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n", f"{info}/RECORD": ""}
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files | about).items():
            archive.writestr(file, text)
    return path.name


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "it's here"


@pytest.fixture
def asked(tmp_path: Path, base: Path) -> dict[str, Any]:
    """What ``make`` is asked for: an environment with a Kale that can be imported, and no more."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    [pip] = Path(ensurepip.__file__).with_name("_bundled").glob("pip-*.whl")
    (folder / pip.name).write_bytes(pip.read_bytes())
    small = wheel(folder, "small", {"kale_magic/__init__.py": "", "kale_magic/manager/__init__.py": "", "kale_magic/manager/daemon.py": "", "ipykernel.py": "", "zmq.py": ""})
    return {"base": str(base), "name": "venv-9", "digest": "d1", "wheels": str(folder), "names": [pip.name, small], "requirements": ["small==1"], "record": {"mark": "d1"}}


def test_environment_is_made_found_and_left_alone(base: Path, asked: dict[str, Any]) -> None:
    assert do("look", base=str(base), name="venv-9")["record"] == {}
    assert do("make", **asked) == {"path": str(base / "venv-9-d1"), "others": []}
    assert (base / "venv-9").resolve() == base / "venv-9-d1"
    assert not Path(asked["wheels"]).exists()
    assert do("look", base=str(base), name="venv-9")["record"] == {"mark": "d1", "path": str(base / "venv-9-d1")}
    made = (base / "venv-9-d1").stat().st_ctime_ns
    assert do("make", **asked)["path"] == str(base / "venv-9-d1")  # without wheels: it takes none
    assert (base / "venv-9-d1").stat().st_ctime_ns == made


def test_what_a_cut_attempt_left_is_made_anew(base: Path, asked: dict[str, Any]) -> None:
    (base / "venv-9-d1" / "bin").mkdir(parents=True)
    (base / "venv-9-d1" / "bin" / "python").write_text("half of it")
    (base / "venv-9").symlink_to("venv-9-d1")
    assert do("look", base=str(base), name="venv-9")["record"] == {}
    assert do("make", **asked) == {"path": str(base / "venv-9-d1"), "others": []}
    subprocess.run([str(base / "venv-9" / "bin" / "python"), "-c", "import kale_magic"], check=True)


def test_one_that_can_not_be_made_does_not_replace_the_one_that_is_there(base: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    wheels_of_the_next = tmp_path / "next"
    wheels_of_the_next.mkdir()
    for name in asked["names"]:
        (wheels_of_the_next / name).write_bytes(Path(asked["wheels"], name).read_bytes())
    do("make", **asked)
    next_one = {**asked, "digest": "d2", "wheels": str(wheels_of_the_next), "requirements": ["small==2"]}
    assert "small==2" in do("make", **next_one)["error"]
    assert (base / "venv-9").resolve() == base / "venv-9-d1"
    assert wheels_of_the_next.exists()  # to go on from
    assert do("make", **{**next_one, "requirements": ["small==1"]}) == {"path": str(base / "venv-9-d2"), "others": ["venv-9-d1"]}
    assert (base / "venv-9").resolve() == base / "venv-9-d2"


def test_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert do("look", base=f"{tmp_path}/file/kale", name="venv-9")["trouble"] == "Not a directory"


def test_own_wheel_is_the_code_that_runs_here_and_the_same_each_time(tmp_path: Path) -> None:
    path = wheels.write_own(tmp_path)
    first = path.read_bytes()
    assert path.name == f"kale_magic-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert archive.read("kale_magic/version.py").decode() == Path(wheels.__file__).parents[1].joinpath("version.py").read_text()
        about = archive.read(f"kale_magic-{__version__}.dist-info/METADATA").decode()
        rows = archive.read(f"kale_magic-{__version__}.dist-info/RECORD").decode().splitlines()
    assert {"kale_proxy/agent.py", "kale_magic/kernelspecs/kale/kernel.json", f"kale_magic-{__version__}.data/data/share/jupyter/kernels/kale/kernel.json"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    assert "Requires-Dist: ipykernel" in about
    assert {row.split(",")[0] for row in rows} == set(names)
    assert hashlib.sha256(wheels.write_own(tmp_path).read_bytes()).digest() == hashlib.sha256(first).digest()


def test_what_only_the_other_python_needs_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", "Name: a", "Version: 1", "Requires-Dist: b>=2; python_version < '3.12'", "Requires-Dist: c; python_version >= '3.12'", "Requires-Dist: d; extra == 'x'"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", "\n".join(lines) + "\n")
    assert wheels._missing(wheels.Platform(python=(3, 11, 0), machine="x86_64", glibc=(2, 28)), tmp_path, [path.name]) == {"b>=2"}
    assert wheels._missing(wheels.Platform(python=(3, 13, 0), machine="x86_64", glibc=(2, 28)), tmp_path, [path.name]) == {"c"}


def test_index_that_can_not_be_reached_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"The packages for cp311-x86_64-glibc2\.28 can't be brought together: .*(anywidget|No matching distribution)") as caught:
        wheels.bundle(wheels.Platform(python=(3, 11, 9), machine="x86_64", glibc=(2, 28)), [], tmp_path)
    assert "\n" not in caught.value.message
