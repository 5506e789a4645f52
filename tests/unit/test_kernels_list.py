"""``kernels list``: the general kernelspecs with what they are, and those of steps."""

import json

import pytest

from kale_magic.cli.main import main as cli
from kale_magic.kernels.__main__ import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # else the one that is installed with Kale comes first
    monkeypatch.delenv("KALE_HOME", raising=False)
    return tmp_path / "data/kernels"


def test_list_shows_them_with_what_they_are(folder, capsys):
    main(["install", "--user"])
    capsys.readouterr()
    assert cli(["kernels", "list"]) == 0
    out = capsys.readouterr().out
    assert f"kale-local  {folder / 'kale-local'}: the notebook's own kernel runs in a job of the executor local\n" in out
    assert f"kale        {folder / 'kale'}: attaches to running steps, as %kale_attach says\n" in out
    assert "No step has a kernel" in out
    assert cli(["kernels", "list", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    does = "the notebook's own kernel runs in a job of the executor local"
    assert listed["kale-local"] == {"name": "kale-local", "path": str(folder / "kale-local"), "step": None, "does": does}


def test_list_of_a_prefix_shows_that_place_alone(folder, tmp_path, capsys):
    main(["install", "--user"])
    capsys.readouterr()
    assert cli(["kernels", "list", "--prefix", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
