"""Which run and which step a person means, when several could be meant.

A bare step name means the newest run of the workflow at hand that has it; where a command acts on
something live and several live runs have it, the candidates are listed instead of guessing. Used by
the Python API, the magics and the command line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kale_magic.errors import UnknownRunError, UnknownStepError, UsageError
from kale_magic.model.states import StepState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kale_proxy.tunnel.route import Reach

_LOOKED_AT = 50  # runs that a bare name is looked for in
_SHOWN = 8
NO_KERNEL = frozenset({"shell", "script"})  # kinds of steps
OVER = frozenset({"failed", "cancelled"})


class Asks(Protocol):
    """The part of :class:`kale_magic.client.Client` that is used here."""

    @property
    def host(self) -> str:
        """The login host whose manager this is; empty for this machine's."""

    def status(self, run: str | None = None, *, brief: bool = False) -> dict[str, Any]:
        """Return a run's status."""

    def runs(self, folder: str | Path | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return runs, newest first."""

    def where(self, run: str | None, step: str, point: int | None = None, *, rank: int = 0) -> dict[str, Any]:
        """Return where a step is."""

    def release(self, run: str, step: str, point: int | None = None) -> dict[str, Any]:
        """End the look at a stopped step."""

    def proceed(
        self, run: str, step: str, point: int | None = None, *, decision: Mapping[str, str], by: str = ""
    ) -> dict[str, Any]:
        """Queue a step that waits for a person before it is queued."""

    def freeze(self, run: str, step: str, point: int | None = None, *, is_on: bool) -> dict[str, Any]:
        """Stop all processes of a running step, or let them go on."""

    def find(
        self, step: str, workflow: str | None = None, folder: str | Path | None = None, *, is_below: bool = False
    ) -> list[dict[str, Any]]:
        """Return where a step is in each live run that has it and in the newest ended one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One step (or one point of a sweep) of one run; the rest is how it was when it was looked up.

    ``live`` is the folder of its kernel while there is one; ``folder`` is where it keeps its files. Both are on
    the step's host, which is another one if there is a ``reach``.
    """

    run: str
    step: str
    point: int | None
    state: str
    reason: str
    folder: Path
    live: Path | None
    kind: str
    reach: Reach | None = None
    client: Asks | None = None  # of the host that has its files, if that is another one
    rank: int = 0  # of an MPI step, whose kernel is meant

    @property
    def kernel(self) -> Path | Reach | None:
        """What a visitor connects to, if its kernel is ready."""
        if self.reach is not None:
            return self.reach if self.reach.key else None
        return self.live if self.live is not None and (self.live / "kernel.json").exists() else None

    @property
    def files(self) -> Path:
        """Its folder, to read from; of a step on a login host, a copy of it here, without the values that it left.

        Raises UsageError if the files can't be fetched.
        """
        return self.fetched()

    def fetched(self, *patterns: str, is_fresh: bool = False) -> Path:
        """Return its folder with those files in it that match; where they are here anyway, it has them all."""
        if self.client is None:
            return self.folder
        from kale_magic.api import mirror  # a visit needs no files
        from kale_proxy import pack

        packed = ("points-*.jsonl", "metrics.jsonl", pack.ELSEWHERE, "values/*.bin")[: 4 if patterns else 3]
        if self.point is not None:  # the points of a sweep may keep their files together
            mirror.fetch(self.client, str(self.folder.parent), packed, is_fresh=is_fresh)  # type: ignore[arg-type]
        elif patterns:
            patterns = (*patterns, *packed)
        deeper = tuple(f"*/{pattern}" for pattern in mirror.SMALL) if self.point is None else ()
        here = mirror.fetch(self.client, str(self.folder), patterns or (*mirror.SMALL, *deeper), is_fresh=is_fresh)  # type: ignore[arg-type]
        for folder in sorted({place.parent for place in pack.elsewhere(here).values()}):  # points that an earlier run has computed
            mirror.fetch(self.client, os.path.normpath(self.folder / os.path.relpath(folder, here)), packed, is_fresh=is_fresh)  # type: ignore[arg-type]
        return here

    @property
    def label(self) -> str:
        """``fit`` or ``fit[2]``."""
        return self.step if self.point is None else f"{self.step}[{self.point}]"

    @property
    def is_final(self) -> bool:
        """Whether the step has ended for good."""
        return self.state in _FINAL

    @property
    def doing(self) -> str:
        """``is waiting (waits for ...)``, ``has failed (...)``, ``was cancelled by the user``: what a sentence goes on with."""
        if self.state == StepState.CANCELLED and self.reason.startswith("cancelled"):
            return f"was {self.reason}"
        verb = {"failed": "has failed", "completed": "has completed", "cancelled": "was cancelled"}
        return verb.get(self.state, f"is {self.state}") + (f" ({self.reason})" if self.reason else "")

    def __str__(self) -> str:
        """Return ``RUN/fit[2]``, which names it from anywhere."""
        return f"{self.run}/{self.label}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """Where a bare name is looked for: a workflow's runs, in one folder; None is no restriction."""

    workflow: str | None = None
    folder: Path | None = None

    def runs(self, client: Asks, limit: int = _LOOKED_AT) -> list[dict[str, Any]]:
        """Return the runs in scope, newest first."""
        found = client.runs(self.folder, limit)
        return [run for run in found if self.workflow is None or run.get("workflow") == self.workflow]

    def find(self, client: Asks, step: str) -> list[dict[str, Any]]:
        """Return where a step is in each live run in scope and in the newest ended one, newest first."""
        return client.find(step, self.workflow, self.folder)

    def __str__(self) -> str:
        """Return the words for a message."""
        if self.workflow is not None:
            return f"workflow {self.workflow}"
        return f"{self.folder}" if self.folder is not None else "this user"


def find_run(client: Asks, name: str | None, scope: Scope) -> str:
    """Return the id of a run: ``name`` itself, the newest of a workflow of that name, the only one that begins so.

    None is the newest in scope.

    Raises
    ------
    UnknownRunError
        There is none.
    UsageError
        Several runs begin so.
    """
    if name is None:
        runs = scope.runs(client, 1) or scope.runs(client)
        if not runs:
            raise UnknownRunError(f"There is no run of {scope} yet.", "Start one with %kale_submit or: jupyter kale run.")
        return str(runs[0]["run"])
    runs = client.runs(None, 1000)
    known = [str(run["run"]) for run in runs]
    if name in known:
        return name
    of_workflow = [str(run["run"]) for run in [*scope.runs(client), *runs] if run.get("workflow") == name]
    if of_workflow:
        return of_workflow[0]
    matches = [run for run in known if run.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(f"{len(matches)} runs begin with {name!r}.", f"Say which: {_listed(matches)}")
    raise UnknownRunError(f"No run {name!r}.", _suggest(name, known))


def find_step(client: Asks, text: str, scope: Scope, *, is_acting: bool = False) -> Target:
    """Return the step that ``text`` (``fit``, ``fit[2]``, ``fit[metal=Al]``, ``RUN/fit``) means.

    Parameters
    ----------
    client : Client
        The manager.
    text : str
        What the person wrote.
    scope : Scope
        Where a name without a run is looked for.
    is_acting : bool
        Whether the command acts on something live: then one live run must be the only one.

    Raises
    ------
    UsageError
        The text is no name of a step, or means several.
    UnknownStepError, UnknownRunError
        There is no such step, point or run.
    """
    from kale_magic.model.address import parse_address, resolve_point  # not needed to find a run

    address = parse_address(text)
    run = find_run(client, address.run, scope) if address.run is not None else None
    found = where_in(client, run, address.step) if run else _newest_with(client, address.step, scope, is_acting=is_acting)
    if address.selector is None:
        return found
    points = points_of(client, found.run, address.step)
    if not points and run is None and (older := _newest_sweep(client, address.step, scope)) is not None:
        found, points = older  # one point was run again since, as a run of its own
    if not points:
        raise UsageError(f"{address.step} is no sweep.", f"Write {address.step}.")
    return where_in(client, found.run, address.step, resolve_point(address.selector, points, step=address.step))


def _newest_sweep(client: Asks, step: str, scope: Scope) -> tuple[Target, list[dict[str, object]]] | None:
    """Return the step in the newest run in which it has points, and these."""
    for item in scope.runs(client):
        try:
            found = where_in(client, str(item["run"]), step)
            points = points_of(client, found.run, step)
        except (UnknownStepError, UsageError):
            continue
        if points:
            return found, points
    return None


def one_job(client: Asks, target: Target) -> Target:
    """Return ``target`` if it is one job; a sweep without a point is refused, and its points are listed.

    Raises
    ------
    UsageError
        It is a sweep of several points.
    """
    if target.point is not None:
        return target
    points = points_of(client, target.run, target.step)
    if not points:
        return target
    if len(points) == 1:
        return where_in(client, target.run, target.step, 0)
    from kale_magic.model.address import describe_point

    names = [f"{target.step}[{describe_point(point)}]" for point in points]
    raise UsageError(f"{target.step} has {len(points)} points.", f"Say which: {_listed(names)}")


def refuse_without_kernel(target: Target) -> None:
    """Raise UsageError if the step has no kernel and won't get one; the hint says where to look instead."""
    if target.kind in NO_KERNEL:
        raise UsageError(f"{target} is a {target.kind} step: it has no kernel.", f"See what it prints: %kale_logs {target}")
    if target.is_final and target.state in OVER:
        raise UsageError(f"{target} {target.doing}: its kernel is gone.", f"See what it printed: %kale_logs {target}")
    if target.is_final:
        from kale_magic.api import files

        names = list(files.saved(target.folder)) if target.reach is None else []
        look = f"%kale_pull {target} {' '.join(names)}" if names else f"%kale_logs {target}"
        raise UsageError(f"{target} {target.doing}: its kernel is gone.", f"Look at what it left: {look}")


def points_of(client: Asks, run: str, step: str) -> list[dict[str, object]]:
    """Return the swept parameters of each point of a step in a run, in point order; empty when it is no sweep."""
    status = client.status(run, brief=True)
    if step not in status["steps"]:
        raise UnknownStepError(f"Run {run} has no step {step}.", _suggest(step, status["steps"]))
    if "points" not in status["steps"][step]:
        return []
    from kale_magic.api import mirror

    return _points(mirror.run_folder(client, str(status["folder"]), "workflow.yaml") / "workflow.yaml", step)


@lru_cache(maxsize=64)
def _points(path: Path, step: str) -> list[dict[str, object]]:
    """Read a run's sweep from its workflow, which never changes."""
    from kale_magic.formats import native

    return native.load(path.read_text(encoding="utf-8"), source=str(path)).steps[step].points()


def where_in(client: Asks, run: str, step: str, point: int | None = None, rank: int = 0) -> Target:
    """Ask the manager where a step of a run is; raises UnknownStepError with a suggestion."""
    try:
        found = client.where(run, step, point, rank=rank) if rank else client.where(run, step, point)
    except UnknownStepError as exc:
        if exc.hint:
            raise
        raise UnknownStepError(exc.message, _suggest(step, client.status(run).get("steps", {}))) from exc
    return replace(_target(found, client), rank=rank)


def _target(found: Mapping[str, Any], client: Asks) -> Target:
    live = found.get("live")
    return Target(
        run=str(found["run"]),
        step=str(found["step"]),
        point=found.get("point"),
        state=str(found.get("state", "")),
        reason=str(found.get("reason") or ""),
        folder=Path(str(found["folder"])),
        live=Path(str(live)) if live else None,
        kind=str(found.get("kind") or "python"),
        reach=_reach(found),
        client=client if client.host else None,
    )


def _reach(found: Mapping[str, Any]) -> Reach | None:
    """Return the way to a step whose kernel is on another host; None if it is on this one."""
    if not found.get("login") and not found.get("node"):
        return None
    from kale_proxy.tunnel.route import Door, Reach

    words = {name: str(found.get(name) or "") for name in ("login", "node", "job_id")}
    return Reach.of(str(found.get("live") or ""), str(found.get("key") or ""), python=str(found.get("python") or "python3"), door=Door.of(found.get("door")), **words)


def _newest_with(client: Asks, step: str, scope: Scope, *, is_acting: bool) -> Target:
    found = [_target(item, client) for item in scope.find(client, step)]
    if not found:
        runs = scope.runs(client)
        if not runs:
            raise UnknownRunError(f"There is no run of {scope} yet, so no step {step}.", "Start one with %kale_submit.")
        recent = [client.status(str(run["run"]))["steps"] for run in runs[:_SHOWN]]
        names = dict.fromkeys(name for steps in recent for name in steps)
        raise UnknownStepError(f"No run of {scope} has a step {step}.", _suggest(step, names))
    if not is_acting:
        return found[0]
    live = [target for target in found if not target.is_final]
    if len(live) > 1:
        candidates = _listed([f"{target.run}/{target.label} ({target.state})" for target in live])
        raise UsageError(f"{step} is live in {len(live)} runs.", f"Say which: {candidates}")
    return live[0] if live else found[0]


def _suggest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = _closest(word, names)
    if close:
        return f"Did you mean {close}?"
    return f"There are: {_listed(names)}." if names else "There are none."


def _closest(word: str, names: Sequence[str]) -> str:
    folded: Callable[[str], str] = str.casefold
    by_fold = {folded(name): name for name in names}
    import difflib  # only for a name that is none

    found = difflib.get_close_matches(folded(word), list(by_fold), 1, 0.6)
    return by_fold[found[0]] if found else ""


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


_FINAL = frozenset(state.value for state in StepState if state.is_final)
