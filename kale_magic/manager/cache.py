"""Which steps of a submit need not run, because an earlier run computed the same; and why the others do.

A step is unchanged if its code, parameters, sweep, kernel, environment, the content of its inputs and of the files
it names are those of an earlier run that completed it, and what that run left is still there. Decided before
anything runs, so a step after one that runs, runs too. Reads files; no state. Called by
:mod:`kale_magic.manager.requests`, in a thread.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.manager.surroundings import digest_of, digest_of_bytes, surrounding_differences
from kale_magic.model.difference import step_differences
from kale_proxy import pack, values
from kale_proxy.attempt import FILES_EDITED, FILES_READ

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kale_magic.manager.context import StepBody
    from kale_magic.model.dataflow import PlannedStep
    from kale_magic.model.step import Step

NEVER_RAN = "never ran"
_SAME_MOMENT_S = 2.0  # clocks of hosts and of a file server differ


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """A step that an earlier run completed: how it was declared, where what it left is, whose values it used."""

    run: str
    step: Step
    common: str
    body: StepBody
    folder: str
    producers: Mapping[str, str]
    surroundings: Mapping[str, Any]
    used_at: str  # when it took its values, or was found unchanged


@dataclass(frozen=True, slots=True)
class Decision:
    """``source`` is the folder of what an earlier run left, None if the step runs; ``why`` says it in words."""

    source: str | None
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A step that is to run, or to be found unchanged."""

    step: Step
    planned: PlannedStep
    common: str
    files: Mapping[str, str]
    is_fresh: bool  # it runs whatever was before


class Cache:
    """What is known for one submit.

    Parameters
    ----------
    folder : Path
        The workflow's.
    surroundings : mapping
        Of the run to be.
    earlier : mapping of str to sequence of Earlier
        By step, newest first.
    made : mapping of str to str
        Folders of steps that are not chosen, but used.
    """

    def __init__(
        self, folder: Path, surroundings: Mapping[str, Any], earlier: Mapping[str, Sequence[Earlier]], made: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._surroundings = surroundings
        self._earlier = earlier
        self._sources = dict(made)
        self._indexes: dict[str, dict[str, dict[str, Any]]] = {}

    def decide(self, wanted: Iterable[Wanted]) -> dict[str, Decision]:
        """Return what is done with each step; ``wanted`` has parents before children."""
        found: dict[str, Decision] = {}
        for item in wanted:
            name = item.step.name
            running = [parent for parent in item.planned.parents if parent in found and found[parent].source is None]
            found[name] = self._decide(item, running)
            if (source := found[name].source) is not None:
                self._sources[name] = source
        return found

    def _decide(self, item: Wanted, running: Sequence[str]) -> Decision:
        step = item.step
        if step.idle_s is not None or step.is_gate:
            return Decision(None, "a person decides in it" if step.is_gate else "it is the kernel of a notebook")
        if step.no_cache or item.is_fresh:
            return Decision(None, "it is to run (--no-cache)")
        first = NEVER_RAN
        for number, earlier in enumerate(self._earlier.get(step.name, ())):
            reasons = self._differences(item, earlier, running)
            if not reasons:
                return Decision(earlier.folder, f"unchanged since {earlier.run}")
            if number == 0:
                first = "; ".join(reasons[:3])
        if first == NEVER_RAN and running:
            first += f"; `{running[0]}` before it runs"
        return Decision(None, first)

    def _differences(self, item: Wanted, earlier: Earlier, running: Sequence[str]) -> list[str]:
        found = step_differences(earlier.step, item.step, old_common=earlier.common, new_common=item.common)
        found += surrounding_differences(earlier.surroundings, self._surroundings)
        found += self._files(item, earlier)
        if running:
            return [*found, f"`{running[0]}` before it runs"]
        return found or self._inputs(item, earlier) or self._outputs(item.step, earlier)

    def _files(self, item: Wanted, earlier: Earlier) -> list[str]:
        before: dict[str, str] = dict(earlier.body.files)
        found = []
        for name in dict.fromkeys([*before, *item.files]):
            if before.get(name) == item.files.get(name):
                continue
            if name in item.files and self._is_written_by(self._folder / name, earlier):
                continue
            if name in item.files and any(self._is_edit(folder, name) for folder in _jobs_of(earlier)):
                continue
            found.append(f"file {name} changed" if name in item.files else f"file {name} is gone")
        for path, digest in _inputs_on_record(earlier).items() if item.step.files_in else ():
            try:
                is_same = digest_of(self._folder / path) == digest
            except OSError:
                is_same = False
            if not is_same:
                found.append(f"file {path} changed")
        return found

    def _is_written_by(self, path: Path, earlier: Earlier) -> bool:
        """Whether the step itself wrote a file that its code names, so that its change is no reason to run again.

        Where clocks differ, it may be taken for changed by another: then the step runs once too often.
        """
        if path.suffix == ".py":
            return False
        started, ended = _times(earlier)
        try:
            return started <= path.stat().st_mtime <= ended
        except OSError:
            return False

    def _is_edit(self, folder: str, name: str) -> bool:
        """Whether a file that a job made is what a person has pushed in its place."""
        edited = _read(f"{folder}/{FILES_EDITED}").get(name)
        try:
            return edited is not None and digest_of(self._folder / name) == edited["digest"]
        except OSError:
            return False

    def _inputs(self, item: Wanted, earlier: Earlier) -> list[str]:
        now = [(b.name, b.producer, b.output, b.gather) for b in item.planned.bindings]
        if sorted(now) != sorted(earlier.body.bindings):
            return ["its inputs come from other steps"]
        for name, producer, output, _ in now:
            old, new = earlier.producers.get(producer), self._sources.get(producer)
            if old is None or new is None:
                return [f"input `{name}` is not there"]
            olds, news = _folders(old), _folders(new)
            if not olds or len(olds) != len(news):
                return [f"input `{name}` changed"]
            for was, is_ in zip(olds, news, strict=True):
                if not self._is_same(was, is_, output, earlier):
                    return [f"input `{name}` changed"]
        return []

    def _is_same(self, was: str, is_: str, output: str, earlier: Earlier) -> bool:
        """Whether a value is the one the step used then: the same file, not edited since, or the same content."""
        before = self._index(was).get(output)
        now = self._index(is_).get(output)
        if before is None or now is None:
            return False
        file = before["file"]
        edited = before.get("edited")
        if edited and _seconds(edited["at"]) > _seconds(earlier.used_at):
            file = edited["old"]
        elif was == is_:
            return True
        try:
            return _digest(was, output, file) == _digest(is_, output, now["file"])
        except OSError:
            return False

    def _outputs(self, step: Step, earlier: Earlier) -> list[str]:
        """Return what of the earlier results is no longer there."""
        for folder in _jobs_of(earlier):
            index = self._index(folder) if step.outputs else {}
            for name in step.outputs:
                if name not in index or not _has(folder, index[name]):
                    return [f"output `{name}` is no longer there"]
            if not os.path.exists(f"{folder}/result.json") and pack.result(Path(folder)) is None:
                return ["what it left is no longer there"]
            if step.files_out:
                _, ended = _times(earlier)
                for name in _result(folder).get("files") or ():
                    try:
                        is_kept = (self._folder / name).stat().st_mtime <= ended + _SAME_MOMENT_S
                    except OSError:
                        return [f"file {name} is no longer there"]
                    if not is_kept and not self._is_edit(folder, name):
                        return [f"file {name} was changed after it was made"]
        return []

    def _index(self, folder: str) -> dict[str, dict[str, Any]]:
        if folder not in self._indexes:
            try:
                self._indexes[folder] = values.read_index(Path(folder, "outputs"))
            except (OSError, ValueError):
                self._indexes[folder] = {}
        return self._indexes[folder]


def _digest(folder: str, name: str, file: str) -> str:
    """Return the digest of a value of a job, wherever that keeps it; raises OSError."""
    path = f"{folder}/outputs/{file}"
    if not os.path.exists(path) and (packed := pack.value(Path(folder, "outputs"), name)) is not None:
        return digest_of_bytes(packed.data)
    return digest_of(path)


def _has(folder: str, info: Mapping[str, Any]) -> bool:
    """Whether a value that a job's index names is still there."""
    if os.path.exists(f"{folder}/outputs/{info['file']}"):
        return True
    return "pack" in info and os.path.exists(f"{os.path.dirname(folder)}/{info['pack']}")


def _folders(folder: str) -> list[str]:
    """Return the folders of a step's jobs as they are on the disk: itself, or for a sweep one for each point; none if it is gone."""
    if os.path.exists(f"{folder}/result.json"):
        return [folder]
    if (packed := pack.of_step(Path(folder))) is not None:
        return [f"{folder}/{number}" for number in packed.points()]
    count = sum(name.isdigit() for name in os.listdir(folder)) if os.path.isdir(folder) else 0
    return [f"{folder}/{number}" for number in range(count)]


def _jobs_of(earlier: Earlier) -> list[str]:
    """Return the folders that the jobs of an earlier step had, whether or not they are there."""
    count = earlier.body.point_count
    return [earlier.folder] if count is None else [f"{earlier.folder}/{number}" for number in range(count)]


def _inputs_on_record(earlier: Earlier) -> dict[str, str]:
    """Return the digests of the files of ``--files-in`` as the step's jobs found them."""
    found: dict[str, str] = {}
    for folder in _jobs_of(earlier) if pack.of_step(Path(earlier.folder)) is None else [earlier.folder]:
        found |= _read(f"{folder}/{FILES_READ}")
    return found


def _times(earlier: Earlier) -> tuple[float, float]:
    """Return when the first job of a step began and the last one ended, in seconds since the epoch."""
    results = [_result(folder) for folder in _jobs_of(earlier)]
    started = min((_seconds(result.get("started_at", "")) for result in results), default=0.0)
    return started, max((_seconds(result.get("ended_at", "")) for result in results), default=0.0)


def _result(folder: str) -> dict[str, Any]:
    return _read(f"{folder}/result.json") or pack.result(Path(folder)) or {}


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            found: dict[str, Any] = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found


def _seconds(at: str) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return 0.0
