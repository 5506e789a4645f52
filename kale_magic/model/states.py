"""States of steps and runs: their order, and which are final. The words are those of the interface."""

from __future__ import annotations

from enum import StrEnum


class StepState(StrEnum):
    """State of a step (or of one point of a sweep) in a run."""

    WAITING = "waiting"
    QUEUED = "queued"
    HELD = "held"
    RUNNING = "running"
    PAUSED = "paused"
    GATED = "gated"
    COMPLETED = "completed"
    CACHED = "cached"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """Whether no later event of the same attempt may change it (``lost`` is not final)."""
        return self in _FINAL

    @property
    def is_success(self) -> bool:
        """Whether what depends on the step may run."""
        return self in {StepState.COMPLETED, StepState.CACHED}

    @property
    def is_live(self) -> bool:
        """Whether the step's kernel exists, so that it can be attached to."""
        return self in {StepState.RUNNING, StepState.PAUSED, StepState.GATED}


class RunState(StrEnum):
    """State of a whole run."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self is not RunState.RUNNING


_FINAL = frozenset({StepState.COMPLETED, StepState.CACHED, StepState.FAILED, StepState.CANCELLED})
