"""What changed between two declarations of a step, in words; and what a run was computed in."""

from __future__ import annotations

from pathlib import Path

import pytest

from kale_magic import _packages
from kale_magic.manager.surroundings import named_files, surrounding_differences, surroundings
from kale_magic.model.difference import first_difference, step_differences
from kale_magic.model.resources import Resources
from kale_magic.model.step import Axis, Step, StepKind

BASE = Step(name="fit", code="a = 1\nb = 2\n", outputs=("b",), params={"n": 1})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"code": "a = 1\nb = 3\n"}, ["code changed: line 2"]),
        ({"code": "a = 1\nb = 2\nc = 3\n"}, ["code changed: line 3"]),
        ({"params": {"n": 2}}, ["parameter n changed: 1 -> 2"]),
        ({"params": {"n": 1.0}}, ["parameter n changed: 1 -> 1.0"]),
        ({"params": {"m": 1}}, ["parameter n is gone", "parameter m is new"]),
        ({"each": (Axis("k", (1, 2), "[1, 2]"),)}, ["sweep changed"]),
        ({"kind": StepKind.KERNEL, "kernel": "ir"}, ["kernel changed: python -> ir"]),
        ({"outputs": ("b", "a")}, ["output `a` is new"]),
        ({"files_in": ("x",)}, ["--files-in changed"]),
        ({"resources": Resources(modules=("gcc",))}, ["--modules changed"]),
        ({"resources": Resources(cpus=4, memory_bytes=1 << 30), "retries": 3, "tags": ("t",), "description": "text"}, []),
    ],
)
def test_only_what_results_depend_on_is_a_difference(change, said):
    fields = {name: getattr(BASE, name) for name in BASE.__dataclass_fields__}
    assert step_differences(BASE, Step(**{**fields, **change})) == said


def test_common_code_counts_for_python_steps_only():
    assert step_differences(BASE, BASE, old_common="x", new_common="y") == ["common code changed: line 1"]
    shell = Step(name="s", code="true\n", kind=StepKind.SHELL)
    assert step_differences(shell, shell, old_common="x", new_common="y") == []


def test_the_first_different_line_is_counted_from_one():
    assert first_difference("a\nb", "a\nb") == 0
    assert first_difference("", "a") == 1
    assert first_difference("a\n", "a") == 1  # the line's end alone


def test_only_variables_that_may_matter_are_compared():
    old = surroundings("/py", {"PATH": "/a", "SSH_CLIENT": "x", "OMP_NUM_THREADS": "1"}, {"numpy": "1"})
    assert surrounding_differences(old, surroundings("/py", {"PATH": "/a", "SSH_CLIENT": "y", "OMP_NUM_THREADS": "1"}, {"numpy": "1"})) == []
    assert surrounding_differences(old, surroundings("/other", {"PATH": "/b"}, {"numpy": "2"})) == [
        "interpreter changed: /py -> /other", "installed packages changed", "environment changed: OMP_NUM_THREADS, PATH",
    ]  # fmt: skip


def test_files_that_code_names_are_followed_and_none_outside_is_read(tmp_path: Path):
    (tmp_path / "mod.py").write_text("from pack import part\nopen('deep.txt')\n")
    (tmp_path / "pack").mkdir()
    for name in ("pack/__init__.py", "pack/part.py", "deep.txt", "a.csv", "b.csv"):
        (tmp_path / name).write_text("x = 1\n")
    step = Step(name="s", code=f"import mod\nopen('a.csv')\nopen('../x')\nopen({str(tmp_path / 'b.csv')!r})\n")
    assert sorted(named_files(step, "", tmp_path)) == ["a.csv", "deep.txt", "mod.py", "pack/__init__.py", "pack/part.py"]
    shell = Step(name="s", code="cat a.csv | python ./mod.py > b.csv\n", kind=StepKind.SHELL)
    assert sorted(named_files(shell, "", tmp_path)) == ["a.csv", "mod.py"]
    assert named_files(Step(name="s", code="%matplotlib inline\n"), "", tmp_path) == {}


def test_the_names_of_folders_give_packages_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("numpy-2.1.0.dist-info", "kale_magic-0.1.0.dev3+g1.dist-info", "old-1.2-py3.11.egg-info", "numpy"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path), str(tmp_path / "missing.zip")])
    assert _packages.installed() == {"numpy": "2.1.0", "kale_magic": "0.1.0.dev3+g1", "old": "1.2"}
