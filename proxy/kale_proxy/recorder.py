"""The record of a step: its executed notebook and its stdout and stderr files, from iopub messages.

One recorder per step process. It is fed each iopub message as the kernel sends it (or from the
journal, when a crashed step's notebook is rebuilt) and keeps only those that the step's own cells
caused: a visitor's output is not the step's. Outputs are kept encoded, so that saving a notebook
again costs a join, not an encoding. Format: nbformat 4.5.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CELL_PREFIX = "kale-cell-"
STREAM_MAX_CHARS = 16 << 20
_DELIMITER = b"<IDS|MSG>"
_KEPT = frozenset({"stream", "display_data", "execute_result", "error", "execute_input", "clear_output", "update_display_data"})


@dataclass(slots=True)
class _Output:
    """One output of a cell: encoded whole, or a stream that still grows."""

    text: str = ""
    stream: str = ""
    chunks: list[str] = field(default_factory=list)
    display_id: str | None = None

    def encoded(self) -> str:
        if self.stream:
            return f'{{"name":"{self.stream}","output_type":"stream","text":[{",".join(self.chunks)}]}}'
        return self.text


@dataclass(slots=True)
class Cell:
    """One cell of the record; ``kind`` is markdown or code."""

    kind: str
    source: str
    tags: tuple[str, ...] = ()
    msg_id: str = ""
    count: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)  # besides the tags
    attachments: dict[str, Any] | None = None
    outputs: list[_Output] = field(default_factory=list)


class Recorder:
    """Builds ``step.ipynb``, ``stdout.log`` and ``stderr.log`` in ``folder``.

    Parameters
    ----------
    folder : Path
        The step's folder.
    cells : list of Cell
        The notebook's cells in order; messages find theirs by ``msg_id``.
    metadata : dict
        The notebook's metadata (kernelspec, language_info, kale).
    writes_logs : bool
        False when the logs are complete already (rebuilding from the journal).
    """

    def __init__(self, folder: Path, cells: list[Cell], metadata: dict[str, Any], *, writes_logs: bool = True) -> None:
        self.folder = folder
        self.cells = cells
        self.metadata = metadata
        self.error: dict[str, Any] | None = None
        self.is_dirty = False
        self._by_id = {cell.msg_id: cell for cell in cells if cell.msg_id}
        self._displays: dict[str, list[_Output]] = {}
        self._clear_next: set[str] = set()
        self._chars = 0
        self._logs: dict[str, int] = {}
        self._writes_logs = writes_logs

    def message(self, parts: Sequence[bytes | memoryview]) -> None:
        """Take one iopub message as sent: ``[topic, delimiter, signature, header, parent, metadata, content, ...]``."""
        frames = [bytes(part) for part in parts]
        try:
            start = frames.index(_DELIMITER) + 2
            parent = frames[start + 1]
        except (ValueError, IndexError):
            return
        if CELL_PREFIX.encode() not in parent:
            return
        kind = json.loads(frames[start])["msg_type"]
        if kind in _KEPT:
            self.content(json.loads(parent).get("msg_id", ""), kind, json.loads(frames[start + 3]))

    def content(self, msg_id: str, kind: str, content: dict[str, Any]) -> None:
        """Take one decoded message caused by the request ``msg_id``; unknown ids are ignored."""
        cell = self._by_id.get(msg_id)
        if cell is None:
            return
        self.is_dirty = True
        if kind == "execute_input":
            cell.count = content.get("execution_count")
        elif kind == "stream":
            self._stream(cell, content["name"], content["text"])
        elif kind == "clear_output":
            if content.get("wait"):
                self._clear_next.add(msg_id)
            else:
                cell.outputs.clear()
        elif kind == "update_display_data":
            self._update(content)
        else:
            self._add(cell, kind, content)

    def _stream(self, cell: Cell, name: str, text: str) -> None:
        self._log(name, text)
        self._cleared(cell)
        if self._chars > STREAM_MAX_CHARS:
            return
        self._chars += len(text)
        if self._chars > STREAM_MAX_CHARS:
            text = f"\n[the notebook keeps the first {STREAM_MAX_CHARS >> 20} MB that a step prints; all of it is in {name}.log]\n"
        last = cell.outputs[-1] if cell.outputs else None
        if last is None or last.stream != name:
            last = _Output(stream=name)
            cell.outputs.append(last)
        last.chunks.append(json.dumps(text))

    def _add(self, cell: Cell, kind: str, content: dict[str, Any]) -> None:
        self._cleared(cell)
        output: dict[str, Any] = {"output_type": kind}
        display_id = None
        if kind == "error":
            self.error = {key: content.get(key) for key in ("ename", "evalue", "traceback")}
            output |= self.error
        else:
            output |= {"data": content["data"], "metadata": content.get("metadata", {})}
            display_id = (content.get("transient") or {}).get("display_id")
            if kind == "execute_result":
                output["execution_count"] = content.get("execution_count")
        entry = _Output(text=json.dumps(output), display_id=display_id)
        cell.outputs.append(entry)
        if display_id:
            self._displays.setdefault(display_id, []).append(entry)

    def _update(self, content: dict[str, Any]) -> None:
        display_id = (content.get("transient") or {}).get("display_id")
        for entry in self._displays.get(display_id or "", ()):
            output = json.loads(entry.text)
            output |= {"data": content["data"], "metadata": content.get("metadata", {})}
            entry.text = json.dumps(output)

    def _cleared(self, cell: Cell) -> None:
        if self._clear_next and cell.msg_id in self._clear_next:
            self._clear_next.discard(cell.msg_id)
            cell.outputs.clear()

    def _log(self, name: str, text: str) -> None:
        if not self._writes_logs:
            return
        fd = self._logs.get(name)
        try:
            if fd is None:
                path = self.folder / f"{'stderr' if name == 'stderr' else 'stdout'}.log"
                fd = self._logs[name] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(fd, text.encode("utf-8", "replace"))
        except OSError:
            return  # a full disk must not stop the step; the journal still has the text

    def error_output(self, ename: str, evalue: str, traceback: list[str]) -> None:
        """Record an error that no message brought (a crash), at the last code cell."""
        code = [cell for cell in self.cells if cell.kind == "code"]
        self._add(code[-1], "error", {"ename": ename, "evalue": evalue, "traceback": traceback})

    def notebook(self) -> str:
        """Return the notebook as JSON text, nbformat 4.5."""
        cells = []
        for number, cell in enumerate(self.cells):
            metadata = {**cell.metadata, **({"tags": list(cell.tags)} if cell.tags else {})}
            head = f'"id":"kale-{number}","metadata":{json.dumps(metadata)},"source":{json.dumps(cell.source)}'
            if cell.attachments:
                head += f',"attachments":{json.dumps(cell.attachments)}'
            if cell.kind == "code":
                outputs = ",\n".join(output.encoded() for output in cell.outputs)
                cells.append(f'{{"cell_type":"code","execution_count":{json.dumps(cell.count)},{head},"outputs":[{outputs}]}}')
            else:
                cells.append(f'{{"cell_type":"{"raw" if cell.kind == "raw" else "markdown"}",{head}}}')
        body = ",\n".join(cells)
        return f'{{"cells":[\n{body}],\n"metadata":{json.dumps(self.metadata)},\n"nbformat":4,"nbformat_minor":5}}\n'

    def save(self, *, is_durable: bool = False) -> None:
        """Write ``step.ipynb``; raises OSError when the folder can't be written."""
        self.is_dirty = False
        write_atomic(self.folder / "step.ipynb", self.notebook().encode("utf-8", "surrogatepass"), is_durable=is_durable)

    def close(self) -> None:
        """Close the log files, made durable."""
        for fd in self._logs.values():
            os.fsync(fd)
            os.close(fd)
        self._logs.clear()
