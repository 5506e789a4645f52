"""What one point of a ``--reuse-kernel`` sweep prints and shows, the notebook of all of them, and what a crash left.

Used by the process that runs the points, and by the one that writes down how it crashed.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy import pack
from kale_proxy.job import crash_lines
from kale_proxy.record import cells_of, notebook_metadata, write_event, write_result
from kale_proxy.recorder import CELL_PREFIX, Cell, Recorder, _Output
from kale_proxy.spec import JobResult

if TYPE_CHECKING:
    from kale_proxy.job import Job
    from kale_proxy.spec import JobSpec

_SHOWN_POINTS = 100  # with outputs of their own in the notebook


class PointRecorder(Recorder):
    """The record of one point: its text goes into the file of its kernel and, under a heading, into the step's logs.

    Parameters
    ----------
    spec : JobSpec
        The point; the kernel's own for the common cell.
    writer : pack.Writer or None
        Where to; None writes no part ahead of the end.
    """

    def __init__(self, spec: JobSpec, writer: pack.Writer | None) -> None:
        name = "common" if spec.point is None else "step"
        cell = Cell("code", "", msg_id=f"{CELL_PREFIX}{name}-{spec.uuid}")
        super().__init__(Path(spec.folder), [cell], {})
        self._spec = spec
        self._writer = writer
        self._texts: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def _log(self, name: str, text: str) -> None:
        with self._lock:
            self._texts.setdefault(name, []).append(text)

    def save(self, *, is_durable: bool = False) -> None:
        """Write what was printed since the last time, ahead of the end."""
        del is_durable
        self.is_dirty = False
        texts = self._take()
        if texts and self._writer is not None and self._spec.point is not None:
            self._writer.printed(self._spec.point, self._spec.uuid, self._spec.attempt, texts)

    def ended(self) -> dict[str, Any]:
        """Return what belongs into the record of the point's end."""
        shown = [output.text for output in self.cells[0].outputs if not output.stream and '"output_type": "error"' not in output.text[:40]]
        return {**self._take(), **({"display": shown} if shown else {})}

    def _take(self) -> dict[str, str]:
        """Return what was printed since the last time; it goes into the logs of the step too."""
        with self._lock:
            texts = {name: "".join(parts) for name, parts in self._texts.items()}
            self._texts.clear()
        folder = self.folder if self._spec.point is None else self.folder.parent
        heading = f"==> {label(self._spec)} <==\n"
        for name, text in texts.items():
            with contextlib.suppress(OSError):  # a full disk must not stop the points
                fd = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    os.write(fd, f"{heading}{text}{'' if text.endswith(chr(10)) else chr(10)}".encode("utf-8", "replace"))
                finally:
                    os.close(fd)
        return texts


def label(spec: JobSpec) -> str:
    """Return how people call a point: ``fit[3] (n=3)``; the common cell of a kernel: ``fit, kernel 2``."""
    if spec.point is None:
        return f"{spec.step}, kernel {spec.lane}"
    return f"{spec.step}[{spec.point}] ({', '.join(f'{name}={text}' for name, text in spec.params.items())})"[:200]


def write_notebook(spec: JobSpec) -> None:
    """Write the step's ``step.ipynb``: its cells, and what the first points that showed something have shown."""
    folder = Path(spec.folder)
    found = pack.of_step(folder)
    recorder = Recorder(folder, cells_of(spec), {**notebook_metadata(spec)}, writes_logs=False)
    for number in found.points() if found is not None else ():
        assert found is not None
        record = found.end(number)
        if record is None:
            continue
        error = record["result"].get("error")
        texts = {name: found.text(number, name) for name in ("stdout", "stderr")}
        if not (error or record.get("display") or any(texts.values())):
            continue
        cell = Cell("code", f"# {spec.step}[{number}]", msg_id=f"point-{number}", tags=("kale-point",))
        recorder.cells.append(cell)
        recorder._by_id[cell.msg_id] = cell
        for name, text in texts.items():
            if text:
                recorder.content(cell.msg_id, "stream", {"name": name, "text": text})
        cell.outputs += [_Output(text=text) for text in record.get("display") or ()]
        if error:
            recorder.content(cell.msg_id, "error", error)
        if len(recorder.cells) >= _SHOWN_POINTS:
            break
    recorder.save()


def write_crash(job: Job, result: JobResult) -> None:
    """Write down how a kernel of a sweep ended that could not say so itself: the point that it was at failed by it."""
    from kale_proxy.journal import JournalReader

    spec = job.spec
    assert spec.lane is not None
    report = crash_lines(job.raw_log())
    error = {"ename": "StepEnded", "evalue": result.reason, "traceback": report}
    writer = pack.Writer(Path(spec.folder), spec.lane)
    begun = _begun(spec)
    if begun is not None:
        at = {"uuid": begun["uuid"], "attempt": begun["attempt"], "started_at": begun["at"]}
        final = {**asdict(result), **at, "error": error}
        cell = Cell("code", "", msg_id=f"{CELL_PREFIX}step-{begun['uuid']}")
        recorder = Recorder(Path(spec.folder), [cell], {}, writes_logs=False)
        texts: dict[str, str] = {}
        recorder._log = lambda name, text: texts.__setitem__(name, texts.get(name, "") + text)  # type: ignore[method-assign]
        reader, seq = JournalReader(job.live), 0
        while records := reader.read(seq):
            for number, parts in records:
                recorder.message(parts)
                seq = number
        said = {name: text.removeprefix(begun.get(name, "")) for name, text in texts.items()}
        if report:
            said["stderr"] = "\n".join([said.get("stderr", ""), *report, ""]).lstrip("\n")
        writer.end(begun["begin"], begun["uuid"], begun["attempt"], {"result": final, **said})
    writer.close()
    with contextlib.suppress(OSError):
        write_notebook(spec)
    write_event(spec, "ended", state=result.state, reason=result.reason)
    write_result(spec, JobResult.from_json(json.dumps({**asdict(result), "error": error})))


def told(spec: JobSpec) -> list[dict[str, Any]]:
    """Return what a kernel was told by its file (:func:`kale_proxy.pack.told_file`), oldest first; half a line is no message yet."""
    assert spec.lane is not None
    try:
        data = Path(pack.told_file(spec.folder, spec.lane)).read_bytes()
    except OSError:
        return []
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def stop_mark(spec: JobSpec) -> str:
    """Return which point is meant by an interrupt that came as a signal; empty if that of a step of the usual kind."""
    if spec.lane is None:
        return ""
    return next((str(message["stop"]) for message in reversed(told(spec)) if "stop" in message), "")


def _begun(spec: JobSpec) -> dict[str, Any] | None:
    """Return the begin of the point that a kernel was at, with what that has printed; None if it was at none."""
    assert spec.lane is not None
    begun: dict[str, Any] | None = None
    with open(pack.points_file(spec.folder, spec.lane), encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if line.startswith('{"begin"'):
                begun = json.loads(line)
            elif line.startswith('{"end"'):
                begun = None
            elif line.startswith('{"out"') and begun is not None:
                record = json.loads(line)
                for name in ("stdout", "stderr"):
                    begun[name] = begun.get(name, "") + record.get(name, "")
    return begun
