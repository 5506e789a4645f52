"""What a job writes into its step's folder besides its outputs: events, result, and the notebook's cells."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy import pack
from kale_proxy.recorder import CELL_PREFIX, Cell
from kale_proxy.spec import JobResult
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from kale_proxy.spec import JobSpec

RESULT = "result.json"
_LAST_LINE_MAX = 1 << 20
ENDED_BY_SIGTERM = "ended by the batch system (SIGTERM)"  # by which a cancelled job's result is told from one that a person ended


def now() -> str:
    """Return the time as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_event(spec: JobSpec, event: str, **data: object) -> None:
    """Append one line to ``events.jsonl`` and make it durable."""
    folder, point = Path(spec.folder), dict[str, int]()
    if spec.lane is not None:  # of a kernel that runs many
        folder, point = (folder, {}) if spec.point is None else (folder.parent, {"point": spec.point})
        data = {**data, "kernel": spec.lane}
    line = json.dumps({"at": now(), "attempt": spec.attempt, "event": event, **point, **data}) + "\n"
    fd = os.open(folder / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, line.encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def write_sample(spec: JobSpec, cpu_s: float, rss_bytes: int, **data: Any) -> None:
    """Append one line to ``resources.jsonl``; a full disk loses samples, not the step."""
    kernel = {} if spec.lane is None else {"kernel": spec.lane}
    line = json.dumps({"at": now(), "cpu_s": cpu_s, "rss_bytes": rss_bytes, **kernel, **data}) + "\n"
    with contextlib.suppress(OSError):
        fd = os.open(Path(spec.folder) / "resources.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


def publish(spec: JobSpec, live: Path) -> None:
    """Tell on the shared disk where the job's kernel is and its key, 0600, where the job asks for that.

    A manager on another host could not read it from the node's own disk, and to start a program there takes
    longer than a visit may.
    """
    if not spec.keys:
        return
    key = ""
    with contextlib.suppress(OSError, ValueError, KeyError):
        key = str(json.loads((live / "kernel.json").read_bytes())["key"])
    host = socket.gethostname()
    found: dict[str, Any] = {
        "live": str(live), "key": key, "host": host, "node": os.environ.get("SLURMD_NODENAME", host),
        "job_id": os.environ.get("SLURM_JOB_ID", ""), "pid": os.getpid(), "python": sys.executable, "at": now(),
    }  # fmt: skip
    if spec.listens:
        from kale_proxy import door

        found["door"] = door.known(live)
    with contextlib.suppress(OSError):  # without it the step can't be visited from afar, but it runs
        write_atomic(published(spec), json.dumps(found).encode())


def published(spec: JobSpec) -> Path:
    """Return the file of :func:`publish`."""
    return Path(spec.keys) / f"{spec.uuid}.json"


def write_result(spec: JobSpec, result: JobResult) -> None:
    """Write ``result.json`` durably: from then on the attempt has ended."""
    if spec.lane is not None:
        writer = pack.Writer(Path(spec.folder), spec.lane)
        writer.over(asdict(result))
        writer.close()
        return
    write_atomic(Path(spec.folder) / RESULT, result.to_json().encode(), is_durable=True)


def read_result(spec: JobSpec) -> JobResult | None:
    """Return the result of this very attempt, None when it has not ended (or the file is of another one)."""
    if spec.lane is not None:
        return _lane_result(spec)
    try:
        result = JobResult.from_json((Path(spec.folder) / RESULT).read_bytes())
    except (OSError, ValueError, TypeError):
        return None
    return result if result.uuid == spec.uuid else None


def _lane_result(spec: JobSpec) -> JobResult | None:
    """Return how a kernel that runs many points ended: the last line of its file."""
    assert spec.lane is not None
    try:
        with open(pack.points_file(spec.folder, spec.lane), "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _LAST_LINE_MAX))
            last = json.loads(stream.read().rstrip(b"\n").rpartition(b"\n")[2])
        result = JobResult.from_json(json.dumps(last["over"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return result if result.uuid == spec.uuid else None


def new_result(spec: JobSpec, state: str, started_at: str, **data: Any) -> JobResult:
    """Return a result of this process and host that ends now."""
    return JobResult(
        uuid=spec.uuid, attempt=spec.attempt, state=state, started_at=started_at, ended_at=now(), node=socket.gethostname(), **data
    )


def cells_of(spec: JobSpec, language: str = "python") -> list[Cell]:
    """Return the cells of the record: description, what was given, the common cell, the step's own cell; or a notebook's."""
    if spec.kind == "notebook":
        from kale_proxy.notebookfile import recorded_cells

        return recorded_cells(spec)
    cells = []
    if spec.description:
        cells.append(Cell("markdown", spec.description))
    if spec.kind == "python" and (spec.params or spec.inputs):
        cells.append(Cell("code", given_source(spec), tags=("injected-parameters",)))
    if spec.kind == "python" and spec.common.strip():
        cells.append(Cell("code", spec.common.rstrip("\n"), tags=("kale-common",), msg_id=f"{CELL_PREFIX}common-{spec.uuid}"))
    source = spec.code.rstrip("\n")
    if spec.kind in {"shell", "script"} and language == "python":
        source = f"%%bash\n{source}"
    cells.append(Cell("code", source, tags=("kale-step",), msg_id=f"{CELL_PREFIX}step-{spec.uuid}"))
    return cells


def given_source(spec: JobSpec) -> str:
    """Return Python that, run from the step's folder, gives the parameters and inputs that the step got."""
    lines = [f"{name} = {text}" for name, text in spec.params.items()]
    if spec.inputs:
        lines += ["from pathlib import Path", "from kale_proxy.values import load"]
    for item in spec.inputs:
        folders = [os.path.relpath(folder, spec.folder) for folder in item.folders]
        if item.gather:
            lines.append(f"{item.name} = [load(Path(folder), {item.output!r}) for folder in {folders!r}]")
            lines.append(f"{item.name}_params = [{', '.join(item.gather_params)}]")
        else:
            lines.append(f"{item.name} = load(Path({folders[0]!r}), {item.output!r})")
    return "\n".join(lines)


def notebook_metadata(spec: JobSpec) -> dict[str, Any]:
    """Return the notebook metadata: which kernel, and which run and step it records."""
    name = spec.kernel or "python3"
    kale = {"run": spec.run, "step": spec.step, "point": spec.point, "attempt": spec.attempt}
    metadata: dict[str, Any] = {"kernelspec": {"name": name, "display_name": name}, "kale": kale}
    if spec.kernel is None:
        metadata["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
        metadata["language_info"] = {"name": "python", "version": sys.version.split()[0], "file_extension": ".py", "mimetype": "text/x-python"}
    return metadata
