"""What a dashboard's buttons submit: from where, and with which files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kale_magic.model.step import Step
from kale_magic.model.workflow import Workflow
from kale_magic.widgets import acts


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is submitted, instead of its being so."""
    found: list[dict[str, Any]] = []

    def submit(workflow: Workflow, **more: Any) -> SimpleNamespace:
        found.append({"workflow": workflow, **more})
        return SimpleNamespace(name="r-2")

    monkeypatch.setattr("kale_magic.api.workflow.submit", submit)
    return found


def desk(host: str, declared: Workflow | None) -> Any:
    seen = SimpleNamespace(
        run="r-1", workflow=Workflow(name="w", steps={"a": Step(name="a", code="1"), "b": Step(name="b", code="2")}),
        states={"a": "completed", "b": "failed"}, status={"workflow_folder": "/there/w", "executor": "slurm"},
    )  # fmt: skip
    book = SimpleNamespace(client=SimpleNamespace(host=host), declared=lambda: declared, submitted={})
    return SimpleNamespace(seen=seen, book=book, follow_newest=lambda: None)


@pytest.mark.parametrize(("name", "steps", "chosen"), [("run", ["a"], {"only": ["a"]}), ("from", ["a"], {"from_": ["a"]}), ("again", [], {"from_": ["b"]})])
def test_a_run_of_another_host_runs_again_where_its_files_are(asked: list[dict[str, Any]], name: str, steps: list[str], chosen: dict[str, Any]) -> None:
    at = desk("login", None)
    assert acts._submit(at, name, steps, {}) == "Submitted r-2."
    assert (asked[0]["home"], asked[0]["executor"]) == ("/there/w", "slurm")
    assert {key: asked[0][key] for key in ("only", "from_") if key in asked[0]} == chosen
    assert list(at.book.submitted) == ["r-2"]


def test_a_run_of_this_host_runs_again_in_its_folder(asked: list[dict[str, Any]]) -> None:
    acts._submit(desk("", None), "run", ["a"], {})
    assert asked[0]["folder"] == Path("/there/w")
    assert "home" not in asked[0]


def test_what_the_notebook_declares_is_sent_as_it_is(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    declared = Workflow(name="w", steps={"a": Step(name="a", code="3")})
    acts._submit(desk("login", declared), "run", [], {})
    assert asked[0]["workflow"] is declared
    assert asked[0]["folder"] == tmp_path
    assert "home" not in asked[0]
