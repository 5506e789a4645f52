"""The objects that ``--json`` prints: the keys that programs rely on, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_KEYS = ("run", "workflow", "state", "executor", "submitted_at", "ended_at")
STEP_KEYS = (
    "state", "executor", "job", "native_id", "node", "attempt", "queued_at", "started_at", "ended_at", "exit_code",
    "reason", "error", "outputs",
)  # fmt: skip
MANAGER_KEYS = ("pid", "host", "version", "address", "started_at", "runs")


def run_object(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of ``run``, ``status RUN`` and ``wait RUN``."""
    steps = {name: step_object(step) for name, step in (status.get("steps") or {}).items()}
    return {key: status.get(key) for key in RUN_KEYS} | {"steps": steps}


def step_object(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of one step, with its points if it is a sweep."""
    found = {key: step.get(key) for key in STEP_KEYS}
    found["outputs"] = list(step.get("outputs") or ())
    if step.get("points"):
        found["points"] = {
            number: step_object(point) | ({"params": point["params"]} if "params" in point else {})
            for number, point in step["points"].items()
        }
    return found


def manager_object(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of ``manager status``."""
    return {key: answer.get(key) for key in MANAGER_KEYS}
