"""What is decided here about an environment on a host: no host, no pip."""

import json
import re

import pytest

from kale_magic._remote import environment_name
from kale_magic.api import mirror, provision, wheels
from kale_magic.config import Settings
from kale_magic.errors import UsageError
from kale_magic.version import __version__

ABOUT = {
    "python": [3, 12, 1], "executable": "/usr/bin/python3.12", "implementation": "cpython", "abiflags": "", "system": "linux", "machine": "aarch64",
    "libc": ["glibc", "2.34"], "has_venv": True, "base": "/home/me/.local/share/kale", "trouble": "", "free_bytes": 10**10, "record": {},
}  # fmt: skip


class Host:
    """A host that answers as it is told."""

    def __init__(self):
        self.about, self.answer, self.asked, self.sent, self.bundled = dict(ABOUT), {"path": "/made", "others": []}, [], [], []

    def ask(self, settings, operation, asked, timeout):
        self.asked.append((operation, asked))
        return self.about if operation == "look" else self.answer


@pytest.fixture
def settings(tmp_path):
    return Settings(state_dir=tmp_path, socket_dir=tmp_path, host="h")


@pytest.fixture
def host(monkeypatch, tmp_path):
    made = Host()

    def bundle(platform, requirements, cache):
        made.bundled.append((str(platform), list(requirements)))
        path = tmp_path / "pip-1-py3-none-any.whl"
        path.write_bytes(b"x" * 1000)
        return [path]

    class Dialer:
        ssh = object()

    monkeypatch.setattr(provision, "default", Dialer)
    monkeypatch.setattr(provision, "_ask", made.ask)
    monkeypatch.setattr(wheels, "bundle", bundle)
    monkeypatch.setattr(mirror, "upload", lambda place, folder, files: made.sent.append((place.host, folder, sorted(files))) or 1000)
    return made


def test_packages_that_were_asked_for_before_stay_and_what_is_there_is_left_alone(settings, host):
    first = provision.make(settings, ["numpy"], str)
    assert not first.was_there
    assert host.bundled == [("cp312-aarch64-glibc2.34", ["numpy"])]
    (_, asked), record = host.asked[-1], host.asked[-1][1]["record"]
    assert asked["name"] == environment_name()
    assert asked["requirements"] == [f"kale-magic=={__version__}", "numpy"]
    assert host.sent == [("h", f"/home/me/.local/share/kale/wheels-{record['mark']}", ["pip-1-py3-none-any.whl"])]

    host.about["record"] = {**record, "path": "/made"}
    again = provision.make(settings, [], str)
    assert (again.was_there, again.path) == (True, "/made")
    assert host.bundled[-1][1] == ["numpy"]
    more = provision.make(settings, ["scipy>=1.14", "numpy"], str)
    assert more.was_there  # the same wheels here, as the fake has it
    assert host.bundled[-1][1] == ["numpy", "scipy>=1.14"]
    assert len(host.sent) == 1

    host.about["python"] = [3, 12, 2]  # the host's Python is another one by now
    assert not provision.make(settings, [], str).was_there


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"python": []}, r"h has no Python on the path of a login shell; Kale needs 3\.11 or newer\. .*\[hosts\.h\] python"),
        ({"python": [3, 10, 4]}, r"The Python on h is 3\.10\.4 \(/usr/bin/python3\.12\); Kale needs 3\.11"),
        ({"implementation": "pypy"}, r"is pypy on linux with glibc; wheels are brought along for CPython"),
        ({"libc": ["", ""]}, r"with another C library"),
        ({"has_venv": False}, r"lacks the module venv"),
        ({"trouble": "full"}, r"There is no room for an environment in /home/me/\.local/share/kale on h"),
        ({"free_bytes": 5999}, r"There is no room .*\(0 MB are free, some 0 are needed\)"),
        ({"trouble": "Permission denied"}, r"/home/me/\.local/share/kale on h can't be written: Permission denied\. .*\[hosts\.h\] venvs"),
    ],
)
def test_what_will_not_do_is_refused_before_anything_is_sent(settings, host, change, words):
    host.about |= change
    with pytest.raises(UsageError) as caught:
        provision.make(settings, [], str)
    assert re.search(words, f"{caught.value.message} {caught.value.hint}")
    assert host.sent == []


@pytest.mark.parametrize(("error", "words"), [("full", "There is no room"), ("ERROR: broken wheel", "could not be made: ERROR: broken wheel")])
def test_what_fails_there_is_said(settings, host, error, words):
    host.answer = {"error": error}
    with pytest.raises(UsageError, match=words):
        provision.make(settings, [], str)


@pytest.mark.parametrize("text", ["-rfile", "./x", "/x.whl", "git+https://x", "a @ file:///x", "x; python_version<'3'", "", "a b"])
def test_what_is_no_package_is_refused(settings, host, text):
    with pytest.raises(UsageError, match="is no package that can be brought along"):
        provision.make(settings, [text], str)
    assert host.asked == []


def test_without_openssh_it_is_refused(settings, host, monkeypatch):
    class Library:
        ssh = None

    monkeypatch.setattr(provision, "default", Library)
    with pytest.raises(UsageError, match="by OpenSSH's sftp, which is not here"):
        provision.make(settings, [], str)


def test_wheels_are_downloaded_once_for_a_platform_and_what_is_asked_for(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    asked = []

    def pip(platform, wanted, folder):
        asked.append(wanted[1:])
        (folder / "pip-1-py3-none-any.whl").write_bytes(b"")
        return ["pip-1-py3-none-any.whl", next(folder.glob("kale_magic-*.whl")).name]

    monkeypatch.setattr(wheels, "_pip", pip)
    monkeypatch.setattr(wheels, "_missing", lambda *_: set())
    platform = wheels.Platform(python=(3, 12, 1), machine="x86_64", glibc=(2, 34))
    names = [path.name for path in wheels.bundle(platform, [], tmp_path)]
    assert names == [f"kale_magic-{__version__}-py3-none-any.whl", "pip-1-py3-none-any.whl"]
    assert [path.name for path in wheels.bundle(platform, [], tmp_path)] == names
    assert asked == [["pip"]]
    wheels.bundle(platform, ["numpy"], tmp_path)
    assert asked == [["pip"], ["pip", "numpy"]]
    (tmp_path / str(platform) / "pip-1-py3-none-any.whl").unlink()
    wheels.bundle(platform, [], tmp_path)
    assert asked[-1] == ["pip"]
    [record] = [path for path in (tmp_path / str(platform)).glob("set-*.json") if len(json.loads(path.read_text())) == 1][:1]
    assert json.loads(record.read_text()) == ["pip-1-py3-none-any.whl"]


def test_platform_names_every_older_c_library():
    options = wheels.Platform(python=(3, 11, 9), machine="x86_64", glibc=(2, 28)).options()
    assert options[:6] == ["--python-version", "3.11.9", "--implementation", "cp", "--abi", "cp311"]
    platforms = options[7::2]
    assert platforms[0] == "manylinux_2_28_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64"} <= set(platforms)
    assert "manylinux_2_29_x86_64" not in platforms
