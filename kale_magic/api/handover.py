"""Values of a step into this process, and from here into a running step; what variables it has.

A running step is asked by a visit; what has ended is read from the files that it left.
"""

from __future__ import annotations

import json
import shutil
import uuid
from typing import TYPE_CHECKING, Any

from kale_magic.api import files
from kale_magic.api.find import NO_KERNEL, OVER, Target
from kale_magic.api.visits import Visits, live_folder
from kale_magic.errors import UsageError
from kale_proxy import pack, values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def pull(visits: Visits, target: Target, names: Sequence[str]) -> list[Any]:
    """Return values: of a running step from its kernel, else from what it left; a sweep's as lists.

    Raises
    ------
    UsageError
        There is no such value, or the step has nothing to pull from yet.
    """
    bad = [name for name in names if not name.isidentifier()]
    if bad:
        raise UsageError(f"{bad[0]!r} is no name of a variable.", "Pull names, and compute here.")
    if target.live is not None and target.kind not in NO_KERNEL:
        return _pull_live(visits, target, names)
    folders = _output_folders(target, names)
    with pack.looked_at_once():
        rows = [[files.load(folder, name, where=str(target)) for folder in folders] for name in names]
    return rows if _is_sweep(target) else [row[0] for row in rows]


def push(visits: Visits, target: Target, found: Mapping[str, object], by: str) -> None:
    """Give a running step values, as its variables and, where it has such, as its parameters.

    Raises
    ------
    UsageError
        A value can't be handed over, or the step has no kernel of Python.
    """
    live = live_folder(target)
    here = live if target.reach is None else target.files / "pulled"  # a node's own disk is not ours
    folder = here / f"push-{uuid.uuid4().hex[:12]}"
    try:
        values.save_all(found, folder)
        arguments = f"getattr(globals(), 'base', globals()), {list(found)!r}, {str(folder)!r}, {by!r}"
        visits.ask(target, f"__import__('kale_proxy.look', fromlist=['_']).take({arguments})")
    except values.ValueFileError as exc:
        raise UsageError(f"{target.label}: {exc}.") from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def variables(visits: Visits, target: Target) -> list[dict[str, Any]]:
    """Return the variables of a running step, or the outputs of a finished one: name, type, shape, bytes."""
    if target.live is None:
        if not target.is_final:
            raise UsageError(f"{target} {target.doing}: it has no variables yet.")
        return [{"name": name, **info} for name, info in files.saved(target.files).items()]
    step = "getattr(globals(), 'base', globals()).copy()"  # without what this visitor has assigned
    text = visits.ask(target, f"print(__import__('kale_proxy.look', fromlist=['_']).describe_json({step}))")
    found: list[dict[str, Any]] = json.loads(text)
    return found


def _pull_live(visits: Visits, target: Target, names: Sequence[str]) -> list[Any]:
    name = f"pull-{uuid.uuid4().hex[:12]}"
    there = live_folder(target) if target.reach is None else target.folder / "pulled"  # a node's own disk is not ours
    folder = there / name
    arguments = f"globals(), {list(names)!r}, {str(folder)!r}"
    try:
        visits.ask(target, f"__import__('kale_proxy.look', fromlist=['_']).save({arguments})")
        here = folder if target.client is None else target.fetched(f"pulled/{name}/*") / "pulled" / name
        try:
            return [files.load(here, wanted, where=str(target)) for wanted in names]
        finally:
            shutil.rmtree(here, ignore_errors=True)
    finally:
        if target.client is not None:
            visits.ask(target, f"__import__('shutil').rmtree({str(folder)!r}, ignore_errors=True)")


def _is_sweep(target: Target) -> bool:
    if target.point is not None or (target.files / "outputs").exists():
        return False
    return pack.of_step(target.files) is not None or bool(pack.numbers(target.files))


def _output_folders(target: Target, names: Sequence[str]) -> list[Path]:
    if not target.is_final:
        raise UsageError(f"{target} {target.doing}: it has no values yet.", f"Wait for it: %kale_wait {target}")
    if target.state in OVER:
        raise UsageError(f"{target} {target.doing}: it has left no values.", f"See what it printed: %kale_logs {target}")
    is_sweep = _is_sweep(target)
    wanted = [f"outputs/{name}.*" for name in (*names, "index")]
    base = target.fetched(*(f"*/{pattern}" for pattern in wanted)) if is_sweep else target.fetched(*wanted)
    if not is_sweep:
        return [base / "outputs"]
    return [base / str(number) / "outputs" for number in pack.numbers(base)]
