"""The report of a run: one page with everything in it, and nothing that runs or loads."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kale_magic.api import mirror
from kale_magic.api.report import last_image, report, write_report
from kale_magic.errors import UsageError
from kale_magic.formats import native
from kale_magic.model.step import Axis, Step
from kale_magic.model.workflow import Workflow
from kale_magic.render.report import bars
from kale_magic.render.timeline import timeline
from tests.fakes.far_host import FarHost

PNG = "iVBORw0KGgo="
HERE: Any = SimpleNamespace(host="")  # a manager of this machine


class Tags(HTMLParser):
    """Notes elements and what they would load."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.loads += [value or "" for key, value in attrs if key in {"src", "href"} or key.startswith("on")]


@pytest.fixture
def status(tmp_path: Path) -> dict[str, Any]:
    """A run of a sweep and a step that failed, with what they left."""
    workflow = Workflow(
        name="eos",
        description="Energy **curves**, $E(V)$ <script>alert(1)</script>",
        steps={
            "curve": Step(name="curve", code="e = 1\n", outputs=("e",), each=(Axis("metal", ("Al", "Cu"), "['Al', 'Cu']"),)),
            "fit": Step(name="fit", code="1/0 < e\n", params={"n": 3}, inputs=("e",)),
        },
    )
    run = tmp_path / ".kale/runs/eos-1"
    for path in ("steps/curve/0", "steps/curve/1", "steps/fit"):
        (run / path).mkdir(parents=True)
    (run / "workflow.yaml").write_text(native.dump(workflow))
    (run / "environment.json").write_text(json.dumps({"python": "/usr/bin/python3", "kept": ["HOME"], "stripped": ["SLURM_JOB_ID"], "packages": {"numpy": "2.1"}, "git": {"commit": "3f2a", "branch": "main", "changed": ["a.py"]}, "modules": ["gcc/12"]}))
    (run / "steps/curve/0/stdout.log").write_text("begin\n10%\r50%\r100%\n\x1b[31mred\x1b[0m <b>\n")
    (run / "steps/curve/0/metrics.jsonl").write_text("".join(json.dumps({"at": "x", "step": n, "energy": -n}) + "\n" for n in range(5)))
    outputs = [{"output_type": "display_data", "data": {"image/png": PNG}, "metadata": {}}]
    (run / "steps/curve/1/step.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "outputs": outputs}]}))
    job = {"queued_at": "2026-11-28T10:00:00Z", "started_at": "2026-11-28T10:00:10Z", "ended_at": "2026-11-28T10:00:30Z", "state": "completed", "node": "n1"}
    failed = {**job, "state": "failed", "reason": "ZeroDivisionError: division by zero", "error": {"ename": "Z", "evalue": "d", "traceback": ["\x1b[31mZ\x1b[0m"]}}
    return {
        "run": "eos-1", "workflow": "eos", "state": "failed", "executor": "local", "submitted_at": "2026-11-28T10:00:00Z",
        "ended_at": "2026-11-28T10:00:30Z", "folder": str(run), "workflow_folder": str(tmp_path),
        "steps": {"curve": {**job, "points": {"0": job, "1": job}}, "fit": failed},
    }  # fmt: skip


def test_page_has_text_picture_timeline_figures_logs_and_origin(status: dict[str, Any]) -> None:
    page = report(status)
    assert "<strong>curves</strong>" in page
    assert "<math" in page
    assert 'data-kale-step="fit"' in page
    assert "curve[metal=Cu]: completed; waited 10 s, ran 20 s" in page
    assert 'aria-label="energy: ' in page
    assert f"data:image/png;base64,{PNG}" in page
    assert '<span class="ansi-red-fg">red</span> &lt;b&gt;' in page
    assert "100%\n" in page
    assert "50%" not in page
    assert "ZeroDivisionError: division by zero" in page
    assert "1/0 &lt; e" in page
    assert re.search(r"[0-9a-f]{64}", page)
    for words in ("SLURM_JOB_ID", "numpy 2.1", "3f2a (main), with 1 changed file: a.py", "gcc/12", "2026-11-28 10:00:30 UTC", "<th>waited</th><td>10 s</td>", "<th>ran</th><td>20 s</td>"):
        assert words in page


def test_page_runs_nothing_and_loads_nothing(status: dict[str, Any]) -> None:
    tags = Tags()
    tags.feed(report(status))
    assert "script" not in tags.names
    assert "link" not in tags.names
    assert all(load.startswith("data:image/") for load in tags.loads)


def test_run_whose_folder_was_removed_still_has_a_report(status: dict[str, Any]) -> None:
    page = report({**status, "folder": "/nowhere"})
    assert "ZeroDivisionError" in page


def test_page_is_written_whole_or_not_at_all(status: dict[str, Any], tmp_path: Path) -> None:
    write_report(HERE, status, tmp_path / "out.html")
    assert (tmp_path / "out.html").read_text().endswith("</body></html>")
    with pytest.raises(UsageError, match="can't be written"):
        write_report(HERE, status, tmp_path / "no" / "out.html")
    assert [path.name for path in tmp_path.glob("*.html*")] == ["out.html"]


def test_of_a_run_on_a_login_host_only_the_ends_of_its_logs_are_brought(status: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, here, host = Path(status["folder"]), tmp_path / "here", FarHost()
    (run / "steps/fit/stderr.log").write_text("".join(f"line {n}\n" for n in range(200_000)))

    def run_folder(_: object, folder: str, *patterns: str) -> Path:
        for path in {path for pattern in patterns for path in Path(folder).glob(pattern)}:
            copy = here / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        return here

    monkeypatch.setattr(mirror, "run_folder", run_folder)
    write_report(host, status, tmp_path / "far.html")  # type: ignore[arg-type] # as much of a client as is needed
    page = (tmp_path / "far.html").read_text()
    assert "line 199940\n" in page
    assert "line 199939\n" not in page
    assert f"login:{run}" in page
    assert "curve[metal=Al]: stdout" in page
    assert f"data:image/png;base64,{PNG}" in page
    assert not list(here.rglob("*.log"))
    assert host.came < 20_000


def test_timeline_tells_waiting_and_running_apart(status: dict[str, Any]) -> None:
    found = bars(status)
    assert [(bar.queued, bar.start, bar.end) for bar in found] == [(0.0, 10.0, 30.0)] * 3
    drawing = timeline(found)
    waits = [float(width) for width in re.findall(r'class="wait"[^>]*? width="([\d.]+)"', drawing)]
    runs = [float(width) for width in re.findall(r'class="run"[^>]*? width="([\d.]+)"', drawing)]
    assert all(run == pytest.approx(2 * wait, rel=0.01) for wait, run in zip(waits, runs, strict=True))


def test_job_that_waits_still_has_no_running_bar(status: dict[str, Any]) -> None:
    waiting = {"queued_at": "2026-11-28T10:00:00Z", "state": "queued"}
    [bar] = bars({**status, "steps": {"a": waiting}}, now=datetime(2026, 11, 28, 10, 1, tzinfo=UTC))
    assert (bar.start, bar.end) == (None, 60.0)
    assert timeline([]) == ""


def test_last_image_of_a_broken_notebook_is_none(tmp_path: Path) -> None:
    assert last_image(tmp_path) == ""
    (tmp_path / "step.ipynb").write_text("{")
    assert last_image(tmp_path) == ""
