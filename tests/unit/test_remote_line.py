"""The line by which Kale is found on a login host: what is named, what was made there, what is on the path."""

import subprocess

import pytest

from kale_magic._remote import line_there
from kale_magic.config import HostSettings, Settings
from kale_magic.version import __version__


@pytest.fixture
def home(tmp_path):
    """A home as it is on the host, with programs that tell who they are."""
    made = tmp_path / "ho me"
    (made / "bin").mkdir(parents=True)
    return made


def program(path, says, code=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit {code}\necho {says} "$@"; echo "KALE_HOME=$KALE_HOME"\n')
    path.chmod(0o755)
    return str(path)


def environment(folder):
    program(folder / "real" / "bin" / "python", "environment")
    (folder / "real" / "kale-environment.json").write_text("{}")
    (folder / f"venv-{__version__}").symlink_to("real")


def said(tmp_path, where, **there):
    settings = Settings(state_dir=tmp_path, socket_dir=tmp_path, host="h", hosts={"h": HostSettings(**there)})
    line = line_there(settings, ["manager", "start"])
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env={"HOME": str(where), "PATH": f"{where}/bin:/usr/bin:/bin"})
    return done.stdout.splitlines()


def test_what_was_made_there_comes_before_the_path(tmp_path, home):
    program(home / "bin" / "jupyter-kale", "path")
    assert said(tmp_path, home)[0] == "path manager start"
    environment(home / ".local" / "share" / "kale")
    assert said(tmp_path, home)[0] == "environment -m kale_magic.cli.main manager start"


def test_folder_of_environments_and_kale_home_can_be_named(tmp_path, home):
    environment(home / "it's" / "x")
    found = said(tmp_path, home, venvs="~/it's/x", home="/a b")
    assert found == ["environment -m kale_magic.cli.main manager start", "KALE_HOME=/a b"]


def test_named_python_comes_first_if_it_has_kale(tmp_path, home):
    environment(home / ".local" / "share" / "kale")
    assert said(tmp_path, home, python=program(home / "my python", "mine"))[0] == "mine -m kale_magic.cli.main manager start"
    assert said(tmp_path, home, python=program(home / "bare", "bare", code=1))[0].startswith("environment ")


def test_environment_that_is_half_made_is_passed_over(tmp_path, home):
    program(home / "bin" / "jupyter-kale", "path")
    environment(home / ".local" / "share" / "kale")
    (home / ".local" / "share" / "kale" / "real" / "kale-environment.json").unlink()
    assert said(tmp_path, home)[0] == "path manager start"
