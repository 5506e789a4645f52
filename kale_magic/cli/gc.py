"""``gc``: removes the folders of runs that ended long ago.

Only what the manager knows as ended, only below this folder, and not what a run that stays has its cached outputs from.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.cli.console import Console, now, write
from kale_magic.cli.exits import Exit
from kale_magic.cli.follow import RUN_ENDED
from kale_magic.cli.scope import here
from kale_magic.client import Client
from kale_magic.errors import UsageError
from kale_magic.render.text import format_bytes
from kale_magic.render.view import parse_time

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from datetime import datetime

_SHOWN = 20


def collect(arguments: argparse.Namespace, console: Console) -> int:
    """Find them, ask, remove them."""
    with Client.connect() as client:
        known = here(client).runs(client)
    old = [run for run in known if is_old(run, arguments.older_than, now())]
    old = unused(old, [run for run in known if run not in old])
    sizes = {str(run["run"]): folder_bytes(Path(run["folder"])) for run in old}
    if old and not arguments.yes:
        _ask(old, sizes, console)
        if not console.is_asking:
            raise UsageError("There is nobody to ask.", "Give --yes to remove them.")
        write(sys.stderr, "Remove them? [y/N] ")
        if input().strip().lower() not in {"y", "yes"}:
            console.note("kale: nothing was removed")
            return Exit.OK
    for run in old:
        shutil.rmtree(run["folder"])
    if console.is_json:
        console.data(
            {"removed": [{"run": name, "bytes": size} for name, size in sizes.items()], "bytes": sum(sizes.values())}
        )
    console.say(f"{len(old)} run{'' if len(old) == 1 else 's'} removed, {format_bytes(sum(sizes.values()))}")
    return Exit.OK


def is_old(run: dict[str, Any], age_s: float, moment: datetime) -> bool:
    """Whether a run ended more than ``age_s`` seconds ago and its folder is there, and is a run's."""
    folder = Path(str(run.get("folder") or "/"))
    ended = parse_time(run.get("ended_at"))
    return (
        run.get("state") in RUN_ENDED
        and ended is not None
        and (moment - ended).total_seconds() >= age_s
        and folder.parts[-3:-1] == (".kale", "runs")  # whatever a damaged store says, nothing else is removed
        and folder.is_dir()
        and not folder.is_symlink()
    )


def unused(old: list[dict[str, Any]], kept: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of old runs whose outputs no kept run uses, as its own ``cached`` steps."""
    from kale_magic.api.lineage import lineage

    known = [lineage(Path(str(run.get("folder")))) for run in kept]
    sources = [Path(source) for found in known for source in [*(found.get("sources") or {}).values(), *(found.get("sources_of_points") or ())]]
    return [run for run in old if not any(source.is_relative_to(str(run["folder"])) for source in sources)]


def folder_bytes(folder: Path) -> int:
    """Return how much the files in a folder take; one that is no longer there counts nothing."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _ask(old: Iterable[dict[str, Any]], sizes: dict[str, int], console: Console) -> None:
    lines = [
        f"  {run['run']}  ended {str(run['ended_at'])[:10]}  {format_bytes(sizes[str(run['run'])])}" for run in old
    ]
    console.note("\n".join(lines[:_SHOWN]) + (f"\n  ... {len(lines)} in all" if len(lines) > _SHOWN else ""))
