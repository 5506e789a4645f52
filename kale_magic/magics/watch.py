"""``%kale_status``, ``%kale_runs``, ``%kale_wait``, ``%kale_logs``, ``%kale_stop``, ``%kale_cancel``, ``%kale_queue``."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kale_magic.api import files
from kale_magic.api.find import Target, find_run, one_job, points_of, where_in
from kale_magic.api.run import bundle_of
from kale_magic.errors import KaleError, UnknownRunError, UsageError
from kale_magic.magics.mistakes import named
from kale_magic.magics.submit import edges_of
from kale_magic.magics.waiting import wait_for_run, wait_for_step
from kale_magic.model import dataflow
from kale_magic.model.address import describe_point
from kale_magic.model.states import StepState
from kale_magic.render import text
from kale_magic.render.tables import table
from kale_magic.render.view import elapsed_s, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics

_FOLLOW_S = 0.2
_ASKED_S = 3.0
_FINAL = frozenset({"completed", "failed", "cancelled"})


def status(session: KaleMagics, request: Request) -> None:
    """Show how a run goes."""
    found = session.client.status(find_run(session.client, request.args.run, session.scope), brief=True)
    now = None if found["state"] in _FINAL else datetime.now(UTC)
    session.show(bundle_of(found, _edges(session, found), now=now))


def runs(session: KaleMagics, request: Request) -> None:
    """List the runs of this notebook's folder, or tell in what two of them differ."""
    args = request.args
    if args.diff or args.a:
        if not (args.diff and args.a and args.b):
            raise UsageError("%kale_runs takes two runs, with --diff.", "Write %kale_runs --diff A B.")
        from kale_magic.api.lineage import differences, told

        a, b = (find_run(session.client, name, session.scope) for name in (args.a, args.b))
        print(told(differences(session.client, a, b), a, b))
        return
    found = session.client.runs(session.folder)
    if not found:
        print(f"No runs in {session.folder} yet.")
        return
    now = datetime.now(UTC)
    rows = []
    for run in found:
        counts: dict[str, int] = run.get("steps") or {}
        done = counts.get("completed", 0) + counts.get("cached", 0)
        took = format_duration(elapsed_s(run, now))
        rows.append([run["run"], run["workflow"], run["state"], f"{done}/{sum(counts.values())}", _clock(run), took])
    heads = ["run", "workflow", "state", "steps", "submitted", "elapsed"]
    session.show(table(heads, rows, text=text.runs_table(found, now=now)))


def wait(session: KaleMagics, request: Request) -> None:
    """Wait until a run or a step has ended."""
    run, target = _run_or_step(session, request.args.run)
    timeout = request.args.timeout
    if target is not None:
        target = wait_for_step(session, target, timeout)
        print(f"{target} {target.doing}")
        return
    print(text.run_line(wait_for_run(session, run, timeout)))


def logs(session: KaleMagics, request: Request) -> None:
    """Print what a step printed; of a sweep without a point, that of each point under a heading."""
    args = request.args
    target = session.find(args.step)
    name = "job.sh" if args.script else "stderr.log" if args.stderr else "stdout.log"
    if args.follow and not args.script:
        _follow(session, one_job(session.client, target), name, args.tail)
        return
    points = [] if target.point is not None else points_of(session.client, target.run, target.step)
    if args.script and (target.files / name).exists():  # of a whole sweep, which is one array
        points = []
    spoke = files.points_with(target.files, name) if points else None  # of a sweep whose points share kernels
    for number in range(len(points)) if spoke is None else spoke:
        job = where_in(session.client, target.run, target.step, number)
        print(f"==> {job.label} ({describe_point(points[number])}) <==")
        _print_log(session, job, name, args.tail)
    if not points or spoke == []:
        _print_log(session, target, name, args.tail)


def stop(session: KaleMagics, request: Request) -> None:
    """Interrupt a step's code."""
    target = one_job(session.client, session.find(request.args.step, is_acting=True))
    if not StepState(target.state).is_live:
        raise UsageError(f"{target} {target.doing}: there is no code to stop.", f"End it: %kale_cancel {target}")
    session.client.stop(target.run, target.step, target.point)
    if _comes(lambda: where_in(session.client, target.run, target.step, target.point).state != "running"):
        target = where_in(session.client, target.run, target.step, target.point)
        if target.is_final:  # a point of a sweep that shares kernels leaves none
            print(f"{target} {target.doing}.")
            return
        print(f"{target} {target.doing}. Look inside: %%kale_attach {target}. End it: %kale_cancel {target}")
    else:
        print(f"{target} was asked to stop; it does when its present call returns. End it: %kale_cancel {target}")


def cancel(session: KaleMagics, request: Request) -> None:
    """End a step or a run."""
    run, target = _run_or_step(session, request.args.step, is_acting=True)
    if target is not None:
        gone = session.client.cancel(target.run, target.step, target.point)
    else:
        gone = session.client.cancel(run)
    where = target or run
    if not gone:
        print(f"{where}: nothing to cancel, it is over.")
    elif _comes(lambda: _is_over(session, run, target)):
        print(f"{where}: cancelled {', '.join(gone)}")
    else:
        print(f"{where}: {', '.join(gone)} will end in a moment")


def _run_or_step(session: KaleMagics, word: str | None, *, is_acting: bool = False) -> tuple[str, Target | None]:
    """Return the run, or the step, that a word means; a step's name goes first."""
    if word is None:
        return find_run(session.client, None, session.scope), None
    if any(run["run"] == word for run in session.client.runs(None, 1000)):
        return word, None
    try:
        target = session.find(word, is_acting=is_acting)
    except KaleError as no_step:
        try:
            return find_run(session.client, word, session.scope), None
        except UnknownRunError:
            raise no_step from None
    return target.run, target


def _is_over(session: KaleMagics, run: str, target: Target | None) -> bool:
    if target is None:
        return str(session.client.status(run)["state"]) in _FINAL
    return where_in(session.client, target.run, target.step, target.point).is_final


def _comes(condition: Callable[[], bool]) -> bool:
    """Wait for a short while until what was asked for has happened; say whether it has."""
    deadline = time.monotonic() + _ASKED_S
    while not (is_there := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_there


def _edges(session: KaleMagics, found: dict[str, Any]) -> list[tuple[str, str]]:
    declared = session.submitted.get(found["run"], session.declarations.workflow)
    if declared.name != found["workflow"]:
        return []
    try:
        return edges_of(dataflow.resolve(declared, wanted=list(found["steps"])))
    except KaleError:  # the cells were changed since
        return []


def _print_log(session: KaleMagics, job: Target, name: str, tail: int | None) -> None:
    shown = files.log(job.files, name, tail)
    if shown:
        sys.stdout.write(shown if shown.endswith("\n") else shown + "\n")
    else:
        print(_nothing(job, name))
    if job.state == "failed" and name != "job.sh":
        step = session.client.status(job.run)["steps"][job.step]
        error = (step if job.point is None else step["points"][str(job.point)]).get("error") or {}
        if error.get("traceback"):
            print("\n".join(error["traceback"]))


def _follow(session: KaleMagics, target: Target, name: str, tail: int | None) -> None:
    done = 0
    if tail is not None:
        done = files.since(target.files, name, 0)[1]
        sys.stdout.write(files.log(target.files, name, tail))
    try:
        while True:
            target = where_in(session.client, target.run, target.step, target.point)
            text, done = files.since(target.fetched(is_fresh=target.is_final), name, done)
            if text:
                sys.stdout.write(text)
                sys.stdout.flush()
            if target.is_final:
                return
            time.sleep(_FOLLOW_S)
    except KeyboardInterrupt:
        raise named("KeyboardInterrupt", f"Stopped following; {target} goes on.") from None


def _nothing(target: Target, name: str) -> str:
    if name == "job.sh":
        return f"{target} {target.doing}: it has no job script yet."
    return f"{target} {target.doing}: it has printed nothing on {name.removesuffix('.log')}."


def _clock(run: dict[str, Any]) -> str:
    at = run.get("submitted_at")
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""
