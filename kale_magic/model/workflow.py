"""A workflow: named steps, the common code before them, and its narrative."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kale_magic.model.step import Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Workflow:
    """A DAG of steps as declared; edges are worked out by :mod:`kale_magic.model.dataflow`.

    ``steps`` keeps the order of declaration. ``common`` holds named blocks of Python put before every
    Python step. ``markdown`` holds narrative blocks by step name, ``""`` for the workflow itself.
    """

    name: str
    description: str = ""
    executor: str | None = None
    host: str | None = None
    directory: str | None = None
    share: str | None = None
    common: Mapping[str, str] = field(default_factory=dict)
    markdown: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)

    def common_code(self) -> str:
        """Return all common blocks as one piece of Python, in order of declaration."""
        return "\n".join(block.rstrip("\n") + "\n" for block in self.common.values())

    def with_step(self, step: Step) -> Workflow:
        """Return a copy in which ``step`` is added, or replaces the step of its name in place."""
        return replace(self, steps={**self.steps, step.name: step})
