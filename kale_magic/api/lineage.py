"""What differs between two runs: steps, parameters, code, packages, host, git state, states and results.

Reads the runs' folders only; called by ``%kale_runs --diff`` and ``jupyter kale runs --diff``.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from kale_magic.api import edits, mirror
from kale_magic.api.find import where_in
from kale_magic.api.rerun import workflow_of
from kale_magic.model.difference import step_differences
from kale_proxy import values

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kale_magic.client import Client

_SAME = ("python", "kale_version", "submitted_on", "rerun_of")
_MOST_PACKAGES = 20
_SHOWN_BYTES = 200  # of a JSON value that is told, not merely named
_ENDED = frozenset({"completed", "cached"})


def lineage(folder: Path) -> dict[str, Any]:
    """Return in what a run was computed: interpreter, packages, modules, git state, host; empty if it was not kept."""
    try:
        found: dict[str, Any] = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def differences(client: Client, a: str, b: str) -> dict[str, list[str]]:
    """Return what differs from run ``a`` to run ``b``, in sentences, by step; ``""`` is the run as a whole.

    Raises
    ------
    UnknownRunError
        There is no such run.
    UsageError
        Its folder is gone.
    """
    one, other = client.status(a), client.status(b)
    kept = [lineage(mirror.run_folder(client, str(run["folder"]), "environment.json")) for run in (one, other)]
    found = {"": _surroundings(*kept)}
    before, after = workflow_of(client, one), workflow_of(client, other)
    for name in dict.fromkeys([*one["steps"], *other["steps"]]):
        if name not in other["steps"] or name not in one["steps"]:
            found[name] = [f"only in {a if name in one['steps'] else b}"]
            continue
        said = step_differences(
            before.steps[name], after.steps[name], old_common=before.common_code(), new_common=after.common_code()
        )
        states = one["steps"][name], other["steps"][name]
        if (old := states[0]["state"]) != (new := states[1]["state"]) and {old, new} != _ENDED:
            said.append(f"state: {old} -> {new}")
        if (old := states[0].get("node")) != (new := states[1].get("node")) and old and new:
            said.append(f"node: {old} -> {new}")
        if all(state["state"] in _ENDED for state in states):
            said += _results(where_in(client, a, name).files, where_in(client, b, name).files)
        found[name] = said
    return {name: said for name, said in found.items() if said}


def told(found: Mapping[str, list[str]], a: str, b: str) -> str:
    """Return differences as lines of text."""
    if not found:
        return f"{a} and {b}: nothing differs."
    lines = [f"from {a} to {b}:"]
    for name, said in found.items():
        lines += [f"  {name}: {sentence}" if name else f"  {sentence}" for sentence in said]
    return "\n".join(lines)


def _surroundings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in _SAME if old.get(key) != new.get(key)]
    before, after = old.get("packages") or {}, new.get("packages") or {}
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    found += [f"package {name}: {before.get(name, 'none')} -> {after.get(name, 'none')}" for name in names[:_MOST_PACKAGES]]
    if len(names) > _MOST_PACKAGES:
        found.append(f"and {len(names) - _MOST_PACKAGES} more packages")
    if old.get("modules") != new.get("modules"):
        found.append(f"modules: {', '.join(old.get('modules') or []) or 'none'} -> {', '.join(new.get('modules') or []) or 'none'}")
    git = old.get("git") or {}, new.get("git") or {}
    for key in ("commit", "branch", "changed"):
        if git[0].get(key) != git[1].get(key):
            found.append(f"git {key}: {_word(git[0].get(key))} -> {_word(git[1].get(key))}")
    return found


def _word(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value[:5])) or "none"
    return str(value)[:12] if value else "none"


def _results(old: Path, new: Path) -> list[str]:
    """Return which values of a step differ in content; small ones are told."""
    if old == new:
        return []
    before, after = values.read_index(old / "outputs"), values.read_index(new / "outputs")
    found = []
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            continue
        paths = old / "outputs" / before[name]["file"], new / "outputs" / after[name]["file"]
        try:
            digests = [_digest(path) for path in paths]
        except OSError:
            continue
        if digests[0] != digests[1]:
            small = all(path.suffix == ".json" and path.stat().st_size <= _SHOWN_BYTES for path in paths)
            shown = f": {paths[0].read_text()} -> {paths[1].read_text()}" if small else ""
            found.append(f"output {name} differs{shown}")
    return found + edits.told(new)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
