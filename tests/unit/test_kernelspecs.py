"""Kernelspecs of steps as folders: names, what front ends read, sweeping, folders of others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from kale_magic.api.find import Target
from kale_magic.errors import UsageError
from kale_magic.kernels import first, specs
from kale_magic.kernels.__main__ import main


class Runs:
    """A manager that knows runs."""

    host = ""

    def __init__(self, **states):
        self.states = states

    def runs(self, folder=None, limit=100):
        return [{"run": run.replace("_", "-"), "state": state} for run, state in self.states.items()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("KALE_HOME", raising=False)
    return tmp_path / "kernels"


def target(step="Fit", run="eos-1", point=None):
    return Target(run=run, step=step, point=point, state="running", reason="", folder=Path("/w"), live=None, kind="python")


def test_jupyter_finds_it_under_a_name_it_takes(folder):
    spec = specs.install(Runs(eos_1="running"), target())
    assert spec.name == "kale-eos-1-fit"
    found = KernelSpecManager().get_kernel_spec(spec.name)
    assert found.argv == [*first.command(), "attach", "eos-1/Fit", "-f", "{connection_file}"]
    assert found.display_name == "Kale: eos-1/Fit"
    assert found.interrupt_mode == "message"
    assert found.metadata["kale"]["step"] == "eos-1/Fit"


def test_point_and_step_of_the_same_letters_have_two_names(folder):
    runs = Runs(eos_1="running", eos="running")
    names = {specs.install(runs, one).name for one in (target("fit-2"), target("fit", point=2), target("1-fit-2", run="eos"))}
    assert len(names) == 3
    assert len(specs.installed()) == 3


def test_mode_and_home_are_kept(folder, monkeypatch):
    monkeypatch.setenv("KALE_HOME", "/elsewhere")
    spec = specs.install(Runs(eos_1="running"), target(), mode="write")
    written = json.loads((spec.path / "kernel.json").read_text())
    assert written["argv"][-1] == "--write"
    assert written["env"] == {"KALE_HOME": "/elsewhere"}
    assert written["display_name"].endswith("(write)")


def test_making_it_again_replaces_it(folder):
    runs = Runs(eos_1="running")
    assert specs.install(runs, target()).path == specs.install(runs, target(), mode="main").path
    assert [spec.mode for spec in specs.installed()] == ["main"]


def test_those_of_runs_that_are_over_or_gone_are_swept_and_nothing_else(folder, monkeypatch):
    for run in ("over", "gone", "live"):
        specs.install(Runs(over="running", gone="running", live="running"), target(run=run))
    monkeypatch.setenv("KALE_HOME", "/elsewhere")
    specs.install(Runs(other="running"), target(run="other"))
    monkeypatch.delenv("KALE_HOME")
    (folder / "kale-mine").mkdir()
    (folder / "kale-mine" / "kernel.json").write_text(json.dumps({"argv": [], "metadata": {}}))
    (folder / "broken").mkdir()
    (folder / "broken" / "kernel.json").write_text("{")
    specs.install(Runs(over="completed", live="running", new="running"), target(run="new"))
    assert sorted(path.name for path in folder.iterdir()) == ["broken", "kale-live-fit", "kale-mine", "kale-new-fit", "kale-other-fit"]


def test_folder_of_somebody_else_is_not_overwritten_or_removed(folder):
    (folder / "kale-eos-1-fit").mkdir(parents=True)
    spec = specs.install(Runs(eos_1="running"), target())
    assert spec.name.startswith("kale-eos-1-fit-")
    with pytest.raises(UsageError, match="There are: kale-eos-1-fit-"):
        specs.remove("kale-eos-1-fit")
    specs.remove("eos-1/Fit")
    assert specs.installed() == []


def test_prefix_and_a_folder_that_cannot_be_written(folder, tmp_path):
    spec = specs.install(Runs(eos_1="running"), target(), prefix=tmp_path / "env")
    assert spec.path == tmp_path / "env/share/jupyter/kernels/kale-eos-1-fit"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be installed"):
        specs.install(Runs(eos_1="running"), replace(target()), prefix=tmp_path / "file")


@pytest.mark.parametrize("words", [["attach", "no step", "-f", "x"], ["attach", "a/b", "-f", "/nowhere/x"]])
def test_what_a_kernelspec_runs_says_in_one_line_what_is_wrong(words, capsys, monkeypatch):
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("kale: ")
    assert err.count("\n") == 1
