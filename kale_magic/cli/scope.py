"""What a terminal means by a bare name: the runs of workflows in the current folder or below it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api.find import Scope

if TYPE_CHECKING:
    from kale_magic.api.find import Asks

_LOOKED_AT = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Below(Scope):
    """The runs whose workflow is in ``folder`` or in a folder below it."""

    def runs(self, client: Asks, limit: int = _LOOKED_AT) -> list[dict[str, Any]]:
        """Return them, newest first, at most ``limit``."""
        return [run for run in client.runs(None, _LOOKED_AT) if self.has(run)][:limit]

    def find(self, client: Asks, step: str) -> list[dict[str, Any]]:
        """Return where a step is in each live run in scope and in the newest ended one, newest first."""
        return client.find(step, None, self.folder, is_below=True)

    def has(self, run: dict[str, Any]) -> bool:
        """Whether a run of the manager's list is one of them."""
        home = run.get("workflow_folder")
        return home is not None and self.folder is not None and Path(str(home)).is_relative_to(self.folder)

    def __str__(self) -> str:
        """Return the words for a message."""
        return f"a workflow in {self.folder} or below"


def here(client: Asks) -> Scope:
    """Return the scope of the current folder; all runs where the manager, and so its folders, are on another host."""
    return Scope() if client.host else Below(folder=Path.cwd())
