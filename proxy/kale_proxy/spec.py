"""The job specification: the one file a worker reads to know what it runs, and the result it leaves.

The executor writes it, the worker reads it; both sides use these classes so that the form has one
home. Values of parameters cross as Python literals (``repr``), so that floats and tuples are exact.
"""

from __future__ import annotations

import ast
import json
import math
import sys
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SPEC_VERSION = 1
_ONE_VERSION = f"they are of two versions of Kale. Have one in the manager and in {sys.executable}, then: jupyter kale manager stop, and submit again"
WARN_S = 120.0  # before its walltime ends a step is told, if it does not say when; at most a quarter of the walltime


def read_literal(text: str) -> object:
    """Return the value of a Python literal; ``nan``, which has none, counts as one.

    Raises
    ------
    ValueError
        The text is no literal.
    """
    tree = ast.parse(text.strip(), mode="eval")
    return ast.literal_eval(_NameNan().visit(tree))


class _NameNan(ast.NodeTransformer):
    """Puts the number where the name stands."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        values = {"nan": math.nan, "nanj": complex(0, math.nan)}
        return ast.Constant(values[node.id]) if node.id in values else node


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """One value a step uses: variable ``name`` is output ``output`` of the folders in ``folders``.

    ``gather`` says whether the producer is a sweep: the value is then a list in point order.
    """

    name: str
    producer: str
    output: str
    folders: tuple[str, ...]
    gather: bool = False
    gather_params: tuple[str, ...] = ()  # repr of each point's parameters, for NAME_params


@dataclass(frozen=True, kw_only=True, slots=True)
class ParentSpec:
    """A step that must have completed: its folder, and how many points it has (None: it is no sweep)."""

    step: str
    folder: str
    point_count: int | None = None

    def folders(self) -> list[str]:
        """Return the folders of its jobs."""
        return [self.folder] if self.point_count is None else [f"{self.folder}/{point}" for point in range(self.point_count)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitSpec:
    """What the job may use; ``None`` is no limit. ``gpus`` are device numbers given to the job."""

    walltime_s: int | None = None
    memory_bytes: int | None = None
    cpus: int = 1
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerSpec:
    """An image in which the step's code runs; ``runtime`` empty: what there is on the node. ``binds`` are folders that it sees besides the step's."""

    image: str
    runtime: str = ""
    binds: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PointSpec:
    """One point of a sweep for a kernel that runs many: what differs from point to point."""

    point: int
    uuid: str
    attempt: int
    params: dict[str, str]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """One attempt of one step (or point). Paths are absolute on the node."""

    run: str
    step: str
    point: int | None
    attempt: int
    uuid: str
    folder: str  # steps/STEP or steps/STEP/N: everything the job leaves is in here
    cwd: str
    kind: str  # python | shell | kernel | script | notebook
    code: str
    kernel: str | None = None
    notebook: str | None = None  # of kind notebook: its path, relative to cwd
    common: str = ""
    description: str = ""
    params: dict[str, str] = field(default_factory=dict)  # name -> repr
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    formats: dict[str, str] = field(default_factory=dict)  # of outputs: declared forms, see kale_proxy.values
    files_in: tuple[str, ...] = ()
    files_out: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)  # added to the worker's own
    limits: LimitSpec = field(default_factory=LimitSpec)
    container: ContainerSpec | None = None
    is_gate: bool = False  # it waits for a person before its code
    hold_s: float = 600.0  # how long a stopped step's kernel stays for a look
    hold_on_failure_s: float = 0.0  # the same after its code has failed
    warn_s: float | None = None  # so long before its walltime ends it is told; None: see WARN_S
    restart: int = 0  # how often its kernel was started afresh within the attempt
    idle_s: float | None = None  # its kernel stays after the code, until nobody has used it for so long
    parents: tuple[ParentSpec, ...] = ()  # checked by the job itself where a queue's word for it is not enough
    keys: str = ""  # folder on the shared disk where it tells where its kernel is, and its key; empty: nowhere
    lane: int | None = None  # it is the kernel of this number of a --reuse-kernel sweep, whose ``folder`` is the step's
    points: tuple[PointSpec, ...] = ()  # of such a kernel: those to begin with; more are handed to it while it runs
    is_share: bool = False  # ``points`` are all that such a kernel gets, and what it is told later comes by a file
    listens: bool = False  # on TCP too, by CURVE, where visitors have no other way to its node
    version: int = SPEC_VERSION

    def to_json(self) -> str:
        """Return the text of ``job.json``."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> JobSpec:
        """Read ``job.json``.

        Raises
        ------
        ValueError
            The text is of another version or has not this form.
        """
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> JobSpec:
        """Build from the JSON object of :meth:`to_json`; raises ValueError as there."""
        if data.get("version") != SPEC_VERSION:
            message = f"the manager's job specification is of version {data.get('version')!r}, this worker reads version {SPEC_VERSION}: {_ONE_VERSION}"
            raise ValueError(message)
        known = {f.name for f in fields(cls)}
        if unknown := data.keys() - known:
            message = f"the manager's job specification says {', '.join(sorted(unknown))}, which this worker does not know: {_ONE_VERSION}"
            raise ValueError(message)
        inputs = tuple(
            InputSpec(**{**item, "folders": tuple(item["folders"]), "gather_params": tuple(item["gather_params"])})
            for item in data["inputs"]
        )
        limits = LimitSpec(**{**data["limits"], "gpus": tuple(data["limits"]["gpus"])})
        lists: dict[str, Any] = {name: tuple(data[name]) for name in ("outputs", "files_in", "files_out")}
        parents = tuple(ParentSpec(**item) for item in data.get("parents", ()))
        if (box := data.get("container")) is not None:
            lists["container"] = ContainerSpec(**{**box, "binds": tuple(box["binds"])})
        points = tuple(PointSpec(**item) for item in data.get("points", ()))
        return cls(**{**data, **lists, "inputs": inputs, "limits": limits, "parents": parents, "points": points})

    @classmethod
    def outline(cls, data: dict[str, Any]) -> JobSpec:
        """Build from what is known of a specification of another version, so that its failure can be told; raises ValueError, KeyError, TypeError."""
        known = {f.name for f in fields(cls)}
        return cls.from_dict({**{name: value for name, value in data.items() if name in known}, "version": SPEC_VERSION})

    @property
    def is_warm(self) -> bool:
        """Whether its kernel is forked from a warm process, and not started as a program of its own."""
        return self.kind == "python" and self.container is None

    def warn_before_s(self) -> float:
        """Return how many seconds before its end it is told of it."""
        if self.warn_s is not None:
            return self.warn_s
        limit = self.limits.walltime_s
        return WARN_S if limit is None else min(WARN_S, limit / 4)

    def parameters(self) -> dict[str, object]:
        """Return the parameters as Python values."""
        return {name: read_literal(text) for name, text in self.params.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """How one attempt ended: the content of ``result.json``, which is the truth about the job.

    ``state`` is completed, failed or cancelled. ``reason`` is one sentence for a person. ``error``
    has ``ename``, ``evalue``, ``traceback`` (list of str, ANSI-coloured) when code raised.
    ``outputs`` describes each saved value: file, type, shape, dtype, bytes.
    """

    uuid: str
    attempt: int
    state: str
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    error: dict[str, Any] | None = None
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    started_at: str = ""
    ended_at: str = ""
    node: str = ""
    pid: int | None = None
    cpu_s: float | None = None
    peak_rss_bytes: int | None = None

    def to_json(self) -> str:
        """Return the text of ``result.json``."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> JobResult:
        """Read ``result.json``; fields of later versions are ignored."""
        data = json.loads(text)
        known = {f.name for f in fields(cls)}
        kept = {name: value for name, value in data.items() if name in known}
        return cls(**{**kept, "files": tuple(kept.get("files", ()))})
