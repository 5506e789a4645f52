"""``push``, ``pause``, ``resume``, ``continue``, ``rerun``: the hand on a step while it runs, and after."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.cli.exits import Exit
from kale_magic.cli.scope import here
from kale_magic.client import Client
from kale_magic.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from kale_magic.cli.console import Console


def pause(arguments: argparse.Namespace, console: Console) -> int:
    """Hold a step still."""
    from kale_magic.api import pause as pausing
    from kale_magic.api.find import find_step, one_job
    from kale_magic.api.visits import Visits

    with Client.connect(host=arguments.host) as client, contextlib.closing(Visits(client)) as visits:
        target = one_job(client, find_step(client, arguments.step, here(client), is_acting=True))
        lease_s = pausing.LONGEST_S if arguments.for_ is None else arguments.for_
        said = pausing.pause(visits, target, lease_s=lease_s, is_freezing=arguments.freeze)
    console.say(f"{target} {said}; go on: jupyter kale resume {target}")
    return Exit.OK


def resume(arguments: argparse.Namespace, console: Console) -> int:
    """Let a step go on."""
    from kale_magic.api.find import find_step, one_job
    from kale_magic.api.pause import resume as let_go
    from kale_magic.api.visits import Visits

    with Client.connect(host=arguments.host) as client, contextlib.closing(Visits(client)) as visits:
        target = one_job(client, find_step(client, arguments.step, here(client), is_acting=True))
        console.say(f"{target} {let_go(visits, target)}".replace("%kale_rerun", "jupyter kale rerun"))
    return Exit.OK


def proceed(arguments: argparse.Namespace, console: Console) -> int:
    """Let a step go on that waits for a person."""
    from kale_magic.api.find import find_step, one_job
    from kale_magic.api.gate import go_on
    from kale_magic.api.visits import Visits
    from kale_magic.cli.act import ask_here

    with Client.connect(host=arguments.host) as client, contextlib.closing(Visits(client)) as visits:
        target = one_job(client, find_step(client, arguments.step, here(client), is_acting=True))
        ask = ask_here if console.is_asking else None
        console.say(f"{target} {go_on(visits, target, dict(arguments.set), answer=arguments.answer, ask=ask)}")
    return Exit.OK


def rerun(arguments: argparse.Namespace, console: Console) -> int:
    """Run a step again."""
    from kale_magic.api.find import find_step
    from kale_magic.api.rerun import rerun as again

    with Client.connect(host=arguments.host) as client:
        target = find_step(client, arguments.step, here(client))
        run, _ = again(
            client,
            target,
            dict(arguments.params),
            is_downstream=arguments.downstream,
            has_checkpoint=not arguments.from_start,
            executor=arguments.executor,
            pool=arguments.pool,
        )
    at = f" --host {arguments.host}" if arguments.host else ""
    if console.is_json:
        console.data({"run": run.name})
    else:
        console.say(f"{run.name}: {target} again; wait for it: jupyter kale wait {run.name}{at}")
    return Exit.OK


def push(arguments: argparse.Namespace, console: Console) -> int:
    """Give values to a step."""
    from kale_magic.api.find import find_step, one_job
    from kale_magic.api.push import is_file_name, who
    from kale_magic.api.push import push as push_into
    from kale_magic.api.push_there import pushed_by
    from kale_magic.api.visits import Visits

    files = {name: str(path) for name, path in arguments.values if is_file_name(name)}
    given = {name: value for name, value in arguments.values if name not in files}
    if arguments.staged:
        given |= _staged(Path(arguments.staged))
    by = pushed_by(Path(arguments.staged), who()) if arguments.staged else who()
    if not given and not files:
        raise UsageError("There is nothing to push.", "Write NAME=VALUE, or NAME=FILE for a file that the step made.")
    with Client.connect(host=arguments.host) as client, contextlib.closing(Visits(client)) as visits:
        target = one_job(client, find_step(client, arguments.step, here(client), is_acting=True))
        done = push_into(visits, target, given, files, by)
    if arguments.staged:
        shutil.rmtree(arguments.staged, ignore_errors=True)
    if console.is_json:
        console.data({"pushed": list(done.names), "edited": done.is_edit, "stale": list(done.stale)})
    else:
        how = "replaced in" if done.is_edit else "pushed into"
        console.say(f"{', '.join(done.names)}: {how} {target}")
        if done.stale:
            console.say(f"stale now: {', '.join(done.stale)}; run them again: jupyter kale rerun {done.stale[0]} --downstream")
    return Exit.OK


def _staged(folder: Path) -> dict[str, object]:
    """Return the values in a folder of values."""
    from kale_proxy import values

    try:
        return {name: values.load(folder, name) for name in values.read_index(folder)}
    except (OSError, values.ValueFileError) as exc:
        raise UsageError(f"{folder} can't be read: {exc}.") from exc
