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
from typing import TYPE_CHECKING

from kale_proxy import attempt, languages, values
from kale_proxy.kernelrun import KernelRun
from kale_proxy.notebookfile import INJECTED, RAISES, SKIPPED, SOURCE, NotebookError, cells, read
from kale_proxy.recorder import Recorder

if TYPE_CHECKING:
    import socket

    from kale_proxy.spec import JobResult, JobSpec


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
        language = (metadata.get("kernelspec") or {}).get("language") or (metadata.get("language_info") or {}).get("name") or "python"
        if spec.container is not None and language != "python":
            self._problem = f"the notebook {spec.notebook} is for {language}, and the kernel of a container is its python3"
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
        try:
            prelude = self._prelude()
        except values.ValueFileError as exc:
            return self._result("failed", f"step `{spec.step}` could not get its inputs: {exc}")
        if prelude is None:
            return self._result("failed", f"--params and --inputs can't be given to a {self.language} kernel yet: use --env and --files-in")
        self._inject("" if self.language == "python" else languages.assignments(self.language, spec.params) or "")
        if prelude:
            reply = self._execute(prelude, is_silent=True)
            if said := languages.failure(spec) or (reply["status"] != "ok" and (reply.get("evalue") or reply.get("ename") or "it failed")):
                return self._result("failed", f"step `{spec.step}` could not get its inputs: {said}")
        if spec.is_gate and (failure := self._wait_at_gate()) is not None:
            return failure
        for number, cell in enumerate(self.recorder.cells, 1):
            if cell.kind != "code" or not cell.source.strip() or SKIPPED in cell.tags:
                continue
            reply = self._execute(cell.source, msg_id=cell.msg_id)
            if reply["status"] != "ok" and RAISES not in cell.tags:
                found = self._raised(reply)
                return replace(found, reason=f"cell {number}: {found.reason}") if found.state == "failed" else found
        try:
            index = self._collect() if spec.outputs else {}
            files = attempt.check_files(spec)
        except values.ValueFileError as exc:
            return self._result("failed", f"step `{spec.step}`: {exc}")
        return self._result("completed", "", exit_code=0, outputs=index, files=tuple(files))

    def _inject(self, source: str) -> None:
        """Give the injected cell its source in a language that is known only now."""
        for cell in self.recorder.cells:
            if INJECTED in cell.tags and source:
                cell.source = source
