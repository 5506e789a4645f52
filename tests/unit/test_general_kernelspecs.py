"""The general kernelspecs: installed with this interpreter, where Jupyter looks."""

import json
import os

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from kale_magic.kernels import first, general
from kale_magic.kernels.__main__ import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # else the one that is installed with Kale comes first
    monkeypatch.delenv("KALE_HOME", raising=False)
    return tmp_path / "data/kernels"


def test_user_install_is_what_jupyter_starts(folder, capsys):
    assert main(["install", "--user"]) == 0
    assert capsys.readouterr().out == f"kale: {folder / 'kale'}\nkale-local: {folder / 'kale-local'}\nkale-slurm: {folder / 'kale-slurm'}\n"
    spec = KernelSpecManager().get_kernel_spec("kale-local")
    assert spec.argv == [*first.command(), "job", "local", "-f", "{connection_file}"]
    assert (spec.language, spec.interrupt_mode) == ("python", "message")
    front = KernelSpecManager().get_kernel_spec("kale")
    assert front.argv == [*first.command(), "front", "-f", "{connection_file}"]
    assert (front.display_name, front.interrupt_mode) == ("Kale (attach to a step)", "message")
    assert sorted(os.listdir(spec.resource_dir)) == ["kernel.json", "logo-32x32.png", "logo-64x64.png", "logo-svg.svg"]
    assert main(["install", "--user"]) == 0


def test_prefix_and_home(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KALE_HOME", "/elsewhere")
    assert main(["install", "--prefix", str(tmp_path / "env")]) == 0
    spec = json.loads((tmp_path / "env/share/jupyter/kernels/kale-local/kernel.json").read_text())
    assert spec["env"] == {"KALE_HOME": "/elsewhere"}
    assert [one.name for one in general.installed(tmp_path / "env")] == ["kale", "kale-local", "kale-slurm"]


def test_what_is_not_kales_is_left_alone_and_a_place_that_cannot_be_written_is_said(folder, tmp_path, capsys):
    (folder / "kale-local").mkdir(parents=True)
    assert main(["install", "--user"]) == 2
    assert "is not Kale's" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["install", "--prefix", str(tmp_path / "file")]) == 2
    err = capsys.readouterr().err
    assert "can't be installed" in err
    assert err.count("\n") == 1


def test_install_wants_to_know_where(capsys):
    with pytest.raises(SystemExit):
        main(["install"])
    with pytest.raises(SystemExit):
        main(["install", "--user", "--sys-prefix"])
    assert "--sys-prefix" in capsys.readouterr().err


def test_each_folder_that_is_shipped_says_what_it_is():
    assert [path.name for path in general.shipped()] == ["kale", "kale-local", "kale-slurm"]
    for path in general.shipped():
        assert general.General.read(path) is not None
        assert json.loads((path / "kernel.json").read_text())["argv"][0] == "python"
        assert sum(file.stat().st_size for file in path.iterdir()) < 20_000


@pytest.mark.parametrize("text", ["", "{}", '{"key": "k"}', "[]"])
@pytest.mark.parametrize("command", [["job", "local"], ["front"]])
def test_file_that_is_no_connection_file_is_one_sentence(folder, tmp_path, kale_home_only, capsys, monkeypatch, command, text):
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    (tmp_path / "c.json").write_text(text)
    assert main([*command, "-f", str(tmp_path / "c.json")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("kale: ")
    assert err.count("\n") == 1


@pytest.fixture
def kale_home_only(monkeypatch, tmp_path):
    monkeypatch.setenv("KALE_HOME", str(tmp_path / "k"))
