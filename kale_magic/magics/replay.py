"""What a step's kernel shows, shown here: messages of a visit as they come, outputs of an executed step."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kale_magic.api.find import Target
    from kale_magic.api.run import Step
    from kale_magic.magics.session import KaleMagics

_WIDGET = "application/vnd.jupyter.widget-view+json"


class Inline:
    """Publishes a visit's messages under the cell that visits, and keeps the traceback for its end."""

    def __init__(self, session: KaleMagics) -> None:
        self.traceback: list[str] = []
        self._session = session
        self._publisher = session.shell.display_pub
        self._has_waited = False

    def message(self, msg_type: str, content: dict[str, Any], metadata: dict[str, Any], buffers: list[bytes]) -> None:
        """Show one message; called by the visitor."""
        del metadata, buffers  # of comm messages, which have no use without their kernel's own front end
        if msg_type == "stream":
            stream = sys.stderr if content.get("name") == "stderr" else sys.stdout
            stream.write(content["text"])
            stream.flush()
        elif msg_type in {"display_data", "execute_result", "update_display_data"}:
            data = {kind: value for kind, value in content["data"].items() if kind != _WIDGET}
            self._publisher.publish(
                data=data,
                metadata=content.get("metadata") or {},
                transient=content.get("transient") or {},
                update=msg_type == "update_display_data",
            )
        elif msg_type == "clear_output":
            self._publisher.clear_output(wait=bool(content.get("wait")))
        elif msg_type == "error":
            self.traceback = list(content.get("traceback") or [])

    def waiting(self, target: Target) -> None:
        """Say why the step has not started; the line goes when it does."""
        self._wait(f"{target} {target.doing} ...")

    def waiting_for_names(self, target: Target, names: str) -> None:
        """Say which names the step has not made yet."""
        self._wait(f"{target} has not made {names} yet ...")

    def done_waiting(self) -> None:
        """Take the line of :meth:`waiting` away as soon as something else is shown."""
        if self._has_waited and self._session.is_rich:
            self._publisher.clear_output(wait=True)

    def _wait(self, line: str) -> None:
        if self._has_waited and self._session.is_rich:
            self._publisher.clear_output(wait=True)
        self._has_waited = True
        print(line, flush=True)

    def note(self, sentence: str) -> None:
        """Show how a visit here is less than usual."""
        print(sentence, file=sys.stderr, flush=True)


def show_outputs(session: KaleMagics, step: Step) -> None:
    """Show the outputs of an executed step (of each point of a sweep), as its notebook has them."""
    folders = [step.folder]
    if not (step.folder / "step.ipynb").exists() and step.folder.is_dir():
        folders = sorted((path for path in step.folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    inline = Inline(session)
    for folder in folders:
        for output in _outputs(folder / "step.ipynb"):
            if output.get("output_type") != "error":  # the cell ends with it anyhow
                inline.message(output.get("output_type", ""), _joined(output), {}, [])


def _joined(output: dict[str, Any]) -> dict[str, Any]:
    """Return an output with texts in one piece, where a notebook file has lists of lines."""
    if "text" in output:
        return {**output, "text": "".join(output["text"])}
    data = {kind: "".join(value) if isinstance(value, list) else value for kind, value in output.get("data", {}).items()}
    return {**output, "data": data}


def _outputs(path: Any) -> list[dict[str, Any]]:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return []
    return [output for cell in cells for output in cell.get("outputs", [])]
