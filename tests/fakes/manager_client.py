"""A manager that lives in memory: what the magics ask of a client, answered from plain dicts."""

from __future__ import annotations

import threading
from typing import Any, Self

from kale_magic.errors import UnknownRunError, UnknownStepError
from kale_magic.model.codec import workflow_from_dict
from kale_magic.model.dataflow import resolve, select
from kale_magic.model.events import Event

FINAL = {"completed", "failed", "cancelled"}


class FakeStream:
    """Gives the events it was made with, then none."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def next(self, timeout: float | None) -> Event | None:
        """Let the next scripted change happen."""
        if self._client.changes:
            self._client.changes.pop(0)()
            self._client.seq += 1
            return Event(self._client.seq, "", None, None, "", "state", "")
        self._client.over.wait(min(timeout or 0.01, 0.01))
        return None


class FakeClient:
    """``runs_by_id`` holds status objects; a submit makes one whose steps are all ``submitted_state``."""

    host = ""

    def __init__(self, folder: str = "/w", submitted_state: str = "waiting") -> None:
        self.folder = folder
        self.submitted_state = submitted_state
        self.runs_by_id: dict[str, dict[str, Any]] = {}
        self.places: dict[tuple[str, str, int | None], dict[str, Any]] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.changes: list[Any] = []
        self.seq = 0
        self.over = threading.Event()

    def end(self) -> None:
        """End every run, so that whoever follows one stops."""
        for status in self.runs_by_id.values():
            status["state"] = status["state"] if status["state"] in FINAL else "cancelled"
        self.over.set()

    def add(self, run: str, steps: dict[str, dict[str, Any]], *, workflow: str = "eos", state: str = "running") -> dict[str, Any]:
        """Add a run, newer than all before it."""
        full = {name: {"state": "waiting", "reason": "", "error": None, **step} for name, step in steps.items()}
        status = {
            "run": run, "workflow": workflow, "state": state, "executor": "local", "submitted_at": "2026-11-22T10:00:00+00:00",
            "ended_at": None, "steps": full, "folder": f"{self.folder}/.kale/runs/{run}", "workflow_folder": self.folder, "seq": self.seq,
        }  # fmt: skip
        self.runs_by_id = {run: status, **self.runs_by_id}
        return status

    def submit(self, workflow: dict[str, Any], **fields: Any) -> dict[str, Any]:
        self.asked.append(("submit", workflow, fields))
        plan = resolve(workflow_from_dict(workflow))
        chosen = select(plan, fields.get("only", ()), fields.get("from_", ()), fields.get("to", ()), made=frozenset(plan.steps))
        if fields.get("dry"):
            return {"steps": {name: {"state": "runs", "why": "never ran"} for name in plan.order if name in chosen}}
        run = fields.get("name") or f"{workflow['name']}-{len(self.runs_by_id) + 1}"
        state = self.submitted_state
        final = {"completed": "completed", "failed": "failed"}.get(state, "running")
        self.add(run, {name: {"state": state} for name in plan.order if name in chosen}, workflow=workflow["name"], state=final)
        return {"run": run, "folder": self.runs_by_id[run]["folder"], "seq": self.seq}

    def status(self, run: str | None = None, *, brief: bool = False) -> dict[str, Any]:
        if run is None or run not in self.runs_by_id:
            raise UnknownRunError(f"No run {run!r}.")
        return self.runs_by_id[run]

    def runs(self, folder: object = None, limit: int = 100) -> list[dict[str, Any]]:
        found = []
        for status in self.runs_by_id.values():
            counts: dict[str, int] = {}
            for step in status["steps"].values():
                counts[step["state"]] = counts.get(step["state"], 0) + 1
            found.append({**status, "steps": counts, "steps_of": list(status["steps"])})
        return [run for run in found if folder is None or str(folder) == run["workflow_folder"]][:limit]

    def where(self, run: str | None, step: str, point: int | None = None) -> dict[str, Any]:
        status = self.status(run)
        if step not in status["steps"]:
            raise UnknownStepError(f"Run {run} has no step {step}.")
        item = status["steps"][step]
        if point is not None:
            item = item["points"][str(point)]
        tail = "" if point is None else f"/{point}"
        place = {"live": None, "kind": "python", "folder": f"{status['folder']}/steps/{step}{tail}"}
        return {
            "run": run, "step": step, "point": point, "state": item["state"], "reason": item.get("reason", ""), "job": None,
            **place, **self.places.get((str(run), step, point), {}),
        }  # fmt: skip

    def find(self, step: str, workflow: str | None = None, folder: object = None, *, is_below: bool = False) -> list[dict[str, Any]]:
        found = []
        for run in self.runs(None if is_below else folder):
            home = str(run.get("workflow_folder"))
            is_inside = folder is None or not is_below or home == str(folder) or home.startswith(f"{folder}/")
            if (workflow is None or run["workflow"] == workflow) and is_inside and step in run["steps_of"]:
                found.append(self.where(run["run"], step))
        ended = [item for item in found if self.runs_by_id[item["run"]]["state"] in FINAL]
        return [item for item in found if item not in ended[1:]]

    def wait(self, run: str, *, timeout: float | None = None, on_event: Any = None) -> dict[str, Any]:
        while self.changes:
            self.changes.pop(0)()
        status = self.status(run)
        if status["state"] not in FINAL:
            raise TimeoutError(f"run {run} has not ended within {timeout} s")
        return status

    def events(self, since: int = 0, run: str | None = None) -> FakeStream:
        return FakeStream(self)

    def cancel(self, run: str, step: str | None = None, point: int | None = None) -> list[str]:
        self.asked.append(("cancel", run, step, point))
        steps = self.runs_by_id[run]["steps"]
        gone = [name for name in ([step] if step else steps) if steps[name]["state"] not in FINAL]
        for name in gone:
            steps[name].update(state="cancelled", reason="cancelled by the user")
        if all(one["state"] in FINAL for one in steps.values()):
            self.runs_by_id[run]["state"] = "cancelled"
        return gone

    def stop(self, run: str, step: str, point: int | None = None) -> dict[str, Any]:
        self.asked.append(("stop", run, step, point))
        self.runs_by_id[run]["steps"][step].update(state="paused", reason="stopped")
        return {}

    def queue(self) -> list[dict[str, Any]]:
        return []

    def close(self) -> None:
        pass
