"""What a job on another host says of itself, read from the shared disk: its result, its claim, its events, its kernel.

Runs in a thread: a network disk may take its time. The files are the truth; Slurm's state is a hint of liveness.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.executors.slurm_text import file_name
from kale_proxy import claim
from kale_proxy.record import ENDED_BY_SIGTERM, published, read_result

if TYPE_CHECKING:
    from kale_proxy.spec import JobSpec

_LOG_END = 2000


@dataclass(slots=True)
class Look:
    """What was found. ``result`` is the ended attempt's; ``is_claimed`` says that the attempt has begun.

    ``refusal`` is why the worker would not begin; ``kernel`` what it tells of its kernel, without the key;
    ``states`` are changes of state since the last look, each (state, reason); ``log`` is the end of the script's own output.
    """

    result: dict[str, Any] | None = None
    is_claimed: bool = False
    refusal: str = ""
    kernel: dict[str, Any] = field(default_factory=dict)
    states: list[tuple[str, str]] = field(default_factory=list)
    offset: int = 0
    log: str = ""


def look(spec: JobSpec, keys: str, offset: int, *, is_thorough: bool) -> Look:
    """Read what is there.

    ``keys`` is where it tells of its kernel, ``offset`` how far the events have been read. Claim and log are read only
    when ``is_thorough``.
    """
    spec = replace(spec, keys=keys)
    folder = Path(spec.folder)
    found = Look(offset=offset)
    if (result := read_result(spec)) is not None:
        published(spec).unlink(missing_ok=True)
        found.result, found.is_claimed = {**asdict(result), **_of_failed_rank(folder, result.reason)}, True
        return found
    found.kernel = _kernel(spec)
    _events(folder / "events.jsonl", spec, found)
    if is_thorough:
        found.is_claimed = (claim.owner_of(spec) or {}).get("uuid") == spec.uuid
        found.log = _log(folder / file_name(spec, "slurm.log")) or _log(folder / file_name(spec, "job.log"))
    return found


def _of_failed_rank(folder: Path, reason: str) -> dict[str, Any]:
    """Return how a rank of an MPI step failed, for which the launcher ended the first one."""
    if reason != ENDED_BY_SIGTERM:
        return {}
    for path in sorted(folder.glob("ranks/*/result.json"), key=lambda path: int(path.parent.name)):
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if found.get("state") == "failed":
            words = f"rank {path.parent.name}: {found.get('reason')}"
            return {"state": "failed", "reason": words, "error": found.get("error"), "exit_code": found.get("exit_code")}
    return {}


def _kernel(spec: JobSpec) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(published(spec).read_bytes())
    except (OSError, ValueError):
        return {}
    for secret in ("key", "door"):
        data.pop(secret, None)
    return data


def _events(path: Path, spec: JobSpec, found: Look) -> None:
    try:
        with path.open("rb") as stream:
            stream.seek(found.offset)
            data = stream.read()
    except OSError:
        return
    whole = data[: data.rfind(b"\n") + 1]
    found.offset += len(whole)
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("attempt") != spec.attempt if spec.lane is None else event.get("kernel") != spec.lane:
            continue
        name, reason = str(event.get("event")), str(event.get("reason") or "")
        if name == "refused" and event.get("uuid") == spec.uuid:
            found.refusal = reason
        elif name in {"paused", "gated", "running", "resumed"}:
            found.states.append(("running" if name == "resumed" else name, reason))
        elif name == "warned" and event.get("state") == "running":
            found.states.append(("running", reason))


def _log(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _LOG_END))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "; ".join(line.strip() for line in text.splitlines()[-5:] if line.strip())
