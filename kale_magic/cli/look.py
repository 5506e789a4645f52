"""``status``, ``runs``, ``queue``, ``logs`` and ``wait``: commands that change nothing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from kale_magic.cli.console import Console, now, write
from kale_magic.cli.exits import Exit
from kale_magic.cli.scope import here
from kale_magic.cli.shapes import run_object, step_object
from kale_magic.client import Client

if TYPE_CHECKING:
    import argparse

    from kale_magic.api.find import Target

_GOOD = frozenset({"completed", "cached"})
_LOOKS_S = 0.2  # how often a log that is followed is read


def status(arguments: argparse.Namespace, console: Console) -> int:
    """Show a run; exits 0 whatever its state."""
    from kale_magic.api.find import find_run

    with Client.connect(host=arguments.host) as client:
        found = client.status(find_run(client, arguments.run, here(client)))
    if console.is_json:
        console.data(run_object(found))
    else:
        show_run(found, console)
    return Exit.OK


def runs(arguments: argparse.Namespace, console: Console) -> int:
    """List runs, newest first, or tell in what two of them differ."""
    from kale_magic.render.text import runs_table

    if arguments.diff:
        return _tell_difference(arguments, console)
    with Client.connect(host=arguments.host) as client:
        found = client.runs(None, arguments.limit) if arguments.all else here(client).runs(client, arguments.limit)
    if console.is_json:
        console.data(found)
    else:
        console.say(runs_table(found, now=now(), is_ascii=console.is_ascii()))
    return Exit.OK


def _tell_difference(arguments: argparse.Namespace, console: Console) -> int:
    from kale_magic.api.find import find_run
    from kale_magic.api.lineage import differences, told

    with Client.connect(host=arguments.host) as client:
        a, b = (find_run(client, name, here(client)) for name in arguments.diff)
        found = differences(client, a, b)
    if console.is_json:
        console.data({"a": a, "b": b, "run": found.pop("", []), "steps": found})
    else:
        console.say(told(found, a, b))
    return Exit.OK


def queue(arguments: argparse.Namespace, console: Console) -> int:
    """Show what is queued and running of our runs, or a batch system's whole queue."""
    from kale_magic.render.text import queue_table, survey_table

    with Client.connect(host=arguments.host) as client:
        found = client.survey(arguments.executor, is_all=arguments.all) if arguments.all or arguments.executor else client.queue()
    shown = survey_table if arguments.all or arguments.executor else queue_table
    if console.is_json:
        console.data(found)
    else:
        console.say(shown(found, is_ascii=console.is_ascii()))
    return Exit.OK


def wait(arguments: argparse.Namespace, console: Console) -> int:
    """Wait for a run, or for a step."""
    from kale_magic.api.find import find_run, find_step
    from kale_magic.cli.follow import Progress, follow_run, wait_for_step
    from kale_magic.render.view import told

    with Client.connect(host=arguments.host) as client:
        if is_run(client, arguments.what):
            run = find_run(client, arguments.what, here(client))
            first = client.status(run)
            found = follow_run(
                client, run, first["seq"], Progress(console, is_quiet=console.is_json), arguments.timeout
            )
            if console.is_json:
                console.data(run_object(found))
            else:
                show_run(found, console)
            return Exit.OK if found["state"] == "completed" else Exit.FAILED
        target = wait_for_step(client, find_step(client, arguments.what, here(client)), arguments.timeout)
        step = client.status(target.run)["steps"][target.step]
    if console.is_json:
        console.data(step_object(step if target.point is None else step["points"][str(target.point)]))
    else:
        console.say(f"{target.run}/{target.label} {told(target.state, target.reason)}")
    return Exit.OK if target.state in _GOOD else Exit.FAILED


def logs(arguments: argparse.Namespace, console: Console) -> int:
    """Print what a step printed; of a sweep without a point, that of each point under a heading."""
    from kale_magic.api.find import find_step

    name = "job.sh" if arguments.script else "stderr.log" if arguments.stderr else "stdout.log"
    with Client.connect(host=arguments.host) as client:
        target = find_step(client, arguments.step, here(client))
        jobs = [target] if arguments.script and (target.files / name).exists() else _jobs(client, target, name)
        if arguments.follow and len(jobs) == 1:
            return _follow_log(client, jobs[0], name, arguments.tail)
        if arguments.follow:
            from kale_magic.api.find import one_job

            one_job(client, target)  # which says which points there are
        for number, job in enumerate(jobs):
            if len(jobs) > 1 or job != target:
                console.say(f"\n==> {job.label} <==" if number else f"==> {job.label} <==")
            _print_log(job, name, arguments.tail, console)
    return Exit.OK


def is_run(client: Client, text: str | None) -> bool:
    """Whether a word means a run: none given, or a run's id or the beginning of one that no step name could be."""
    if text is None:
        return True
    if "/" in text or "[" in text:
        return False
    known = [str(run["run"]) for run in client.runs(None, 1000)]
    return text in known or (any(run.startswith(text) for run in known) and not _is_step_here(client, text))


def _is_step_here(client: Client, text: str) -> bool:
    from kale_magic.api.find import find_step
    from kale_magic.errors import KaleError

    try:
        find_step(client, text, here(client))
    except KaleError:
        return False
    return True


def show_run(found: dict[str, Any], console: Console) -> None:
    """Print a run's table, and the traceback of each step that failed."""
    from kale_magic.render.text import status_table
    from kale_magic.render.view import tracebacks
    from kale_magic.render.words import plain

    console.say(status_table(found, now=now(), width=console.table_width, is_ascii=console.is_ascii()))
    failures = tracebacks(found)
    for label, text in failures[:3]:
        console.say(f"\n{label}:\n{text if sys.stdout.isatty() else plain(text)}")
    if len(failures) > 3:
        console.say(f"\n... and {len(failures) - 3} more; see: jupyter kale logs {found['run']}/STEP --stderr")


def _jobs(client: Client, target: Target, name: str) -> list[Target]:
    """Return the target itself, or every point of a sweep; of one that keeps its logs together, every point that is in that log."""
    from kale_magic.api import files
    from kale_magic.api.find import where_in

    points = client.status(target.run)["steps"][target.step].get("points") if target.point is None else None
    if points is None:
        return [target]
    spoke = files.points_with(target.files, name)  # where one kernel runs many points, there are more than one wants to see
    chosen = map(int, points) if spoke is None else spoke
    return [where_in(client, target.run, target.step, number) for number in chosen] or [target]


def _print_log(job: Target, name: str, tail: int | None, console: Console) -> None:
    from kale_magic.api import files

    text = files.log(job.files, name, tail)
    if text or (job.files / name).exists():
        write(sys.stdout, text if text.endswith("\n") or not text else text + "\n")
    else:
        what = (
            "it has no script"
            if name == "job.sh"
            else "it has printed nothing" + (" to stderr" if name == "stderr.log" else "")
        )
        console.note(f"kale: {job.run}/{job.label} is {job.state}: {what}.")


def _follow_log(client: Client, job: Target, name: str, tail: int | None) -> int:
    from kale_magic.api import files
    from kale_magic.api.find import where_in
    from kale_magic.cli.follow import STEP_ENDED

    at = 0
    if tail is not None:
        at = files.since(job.files, name, 0)[1]
        write(sys.stdout, files.log(job.files, name, tail))
    while True:
        state = where_in(client, job.run, job.step, job.point).state  # before reading, so that nothing is missed
        text, at = files.since(job.fetched(is_fresh=state in STEP_ENDED), name, at)
        if text:
            write(sys.stdout, text)
        if state in STEP_ENDED:
            return Exit.OK
        time.sleep(_LOOKS_S)
