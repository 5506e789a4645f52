"""Run a whole notebook as a step, by papermill's convention; it need know nothing of Kale.

Parameters go into a cell of their own after the one tagged ``parameters`` (or at the top); cells run in order until one
fails that is not tagged ``raises-exception``; one tagged ``skip-execution`` is passed over. The kernel is the step's
``--kernel``, else the one that the notebook names. What ran is the record, and a copy of the notebook as it was stays
beside it. Sources: papermill.readthedocs.io (parameterize), nbformat 4.5, nbclient's tags.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy import steprun, values
from kale_proxy.kernelrun import KernelRun
from kale_proxy.record import SOURCE
from kale_proxy.recorder import CELL_PREFIX, Cell, Recorder

if TYPE_CHECKING:
    import socket

    from kale_proxy.spec import JobResult, JobSpec

INJECTED = "injected-parameters"
PARAMETERS = "parameters"
_RAISES = "raises-exception"
_SKIPPED = "skip-execution"


class NotebookError(Exception):
    """The notebook can't be read; the message says why."""


class NotebookRun(KernelRun):
    """One attempt of a notebook. Parameters as :class:`kale_proxy.kernelrun.KernelRun`."""

    def __init__(self, spec: JobSpec, live: Path, link: socket.socket) -> None:
        super().__init__(spec, live, link)
        self._problem = ""
        try:
            data = read(Path(spec.cwd) / (spec.notebook or ""))
        except NotebookError as exc:
            self._problem, data = str(exc), {"cells": [], "metadata": {}}
        metadata = data.get("metadata") or {}
        named = (metadata.get("kernelspec") or {}).get("name")
        self.spec = replace(spec, kernel=spec.kernel or named or "python3")
        self._data = data
        kale = self.recorder.metadata.get("kale")
        self.recorder = Recorder(self.folder, cells(spec, data), {**metadata, "kale": kale})

    def _lacking(self) -> JobResult | None:
        if self._problem:
            return self._result("failed", self._problem)
        values.write_atomic(self.folder / SOURCE, json.dumps(self._data).encode())
        return super()._lacking()

    def _cells(self) -> JobResult:
        spec = self.spec
        prelude = self._prelude()
        if prelude is None:
            return self._result("failed", f"--params and --inputs can't be given to a {self.language} kernel yet: use --env and --files-in")
        self._inject(prelude if not spec.inputs and self.language != "python" else "")
        if prelude and (spec.inputs or self.language == "python"):
            reply = self._execute(prelude, is_silent=True)
            if reply["status"] != "ok":
                return self._result("failed", f"step `{spec.step}` could not get its inputs: {reply.get('evalue', '')}")
        if spec.is_gate and (failure := self._wait_at_gate()) is not None:
            return failure
        for number, cell in enumerate(self.recorder.cells, 1):
            if cell.kind != "code" or not cell.source.strip() or _SKIPPED in cell.tags:
                continue
            reply = self._execute(cell.source, msg_id=cell.msg_id)
            if reply["status"] != "ok" and _RAISES not in cell.tags:
                found = self._raised(reply)
                return replace(found, reason=f"cell {number}: {found.reason}") if found.state == "failed" else found
        try:
            index = self._collect() if spec.outputs else {}
            files = steprun.check_files(spec)
        except values.ValueFileError as exc:
            return self._result("failed", f"step `{spec.step}`: {exc}")
        return self._result("completed", "", exit_code=0, outputs=index, files=tuple(files))

    def _inject(self, source: str) -> None:
        """Give the injected cell its source in a language that is known only now."""
        for cell in self.recorder.cells:
            if INJECTED in cell.tags and source:
                cell.source = source


def read(path: Path) -> dict[str, Any]:
    """Return a notebook of format 4.

    Raises
    ------
    NotebookError
        The file can't be read, or is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise NotebookError(f"the notebook {path} can't be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise NotebookError(f"{path} is no notebook: {exc}") from exc
    if not isinstance(data, dict) or data.get("nbformat") != 4 or not isinstance(data.get("cells"), list):
        raise NotebookError(f"{path} is no notebook of format 4; convert it: jupyter nbconvert --to notebook --nbformat 4")
    return data


def cells(spec: JobSpec, data: dict[str, Any]) -> list[Cell]:
    """Return the cells of the record, with the injected one if there are parameters."""
    found: list[Cell] = []
    for number, item in enumerate(data["cells"]):
        source = item.get("source", "")
        metadata = dict(item.get("metadata") or {})
        tags = tuple(map(str, metadata.pop("tags", None) or ()))
        if INJECTED in tags:  # of an earlier run by papermill
            continue
        kind = str(item.get("cell_type", "code"))
        msg_id = f"{CELL_PREFIX}{number}-{spec.uuid}" if kind == "code" else ""
        text = source if isinstance(source, str) else "".join(source)
        found.append(Cell(kind, text, tags=tags, msg_id=msg_id, metadata=metadata, attachments=item.get("attachments")))
    if spec.params:
        at = next((number + 1 for number, cell in enumerate(found) if PARAMETERS in cell.tags), 0)
        source = "\n".join(["# Parameters", *(f"{name} = {text}" for name, text in spec.params.items())])
        found.insert(at, Cell("code", source, tags=(INJECTED,), msg_id=f"{CELL_PREFIX}injected-{spec.uuid}"))
    if not any(cell.kind == "code" for cell in found):
        found.append(Cell("code", "", msg_id=f"{CELL_PREFIX}none-{spec.uuid}"))
    return found


def recorded_cells(spec: JobSpec) -> list[Cell]:
    """Return the cells of the record of a notebook that began, from the copy in the step's folder."""
    try:
        return cells(spec, read(Path(spec.folder) / SOURCE))
    except NotebookError:
        return [Cell("code", "", msg_id=f"{CELL_PREFIX}none-{spec.uuid}")]
