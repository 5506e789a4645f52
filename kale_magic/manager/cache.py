"""Which steps of a submit need not run, because an earlier run computed the same; and why the others do.

A step is unchanged if its code, parameters, sweep, kernel, environment, the content of its inputs and of the files
it names are those of an earlier run that completed it, and what that run left is still there. Decided before
anything runs, so a step after one that runs, runs too. Of a sweep this is decided for each point, by its parameters.
Reads files; no state. Called by :mod:`kale_magic.manager.requests`, in a thread.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.manager import cache_points
from kale_magic.manager.surroundings import digest_of, digest_of_bytes, surrounding_differences
from kale_magic.model.difference import param_differences, step_differences
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
    """A step that an earlier run completed: how it was declared, where what it left is, whose values it used.

    ``done`` are the points of a sweep that completed, None: all of them.
    """

    run: str
    step: Step
    common: str
    body: StepBody
    folder: str
    producers: Mapping[str, str]
    surroundings: Mapping[str, Any]
    used_at: str  # when it took its values, or was found unchanged
    done: frozenset[int] | None = None

    def folders(self) -> Sequence[str]:
        """Return the folders that its jobs had, whether or not they are there."""
        return cache_points.folders(self.folder, self.body.point_count, dict(self.body.points))


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with a step, and ``why``, in words.

    ``source`` is the folder of what an earlier run left, None if the step runs, or takes its points from several places:
    ``points`` are the folders of those that are cached, then. ``runs`` counts those that run.
    """

    source: str | None
    why: str
    points: Mapping[int, str] = field(default_factory=dict)
    runs: int = 1

    @property
    def is_cached(self) -> bool:
        """Whether nothing of it runs."""
        return self.source is not None or not self.runs


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
        self._sources: dict[str, Sequence[str]] = {name: _folders(folder) for name, folder in made.items()}
        self._indexes: dict[str, dict[str, dict[str, Any]]] = {}

    def decide(self, wanted: Iterable[Wanted]) -> dict[str, Decision]:
        """Return what is done with each step; ``wanted`` has parents before children."""
        with pack.looked_at_once():
            return self._decide_all(wanted)

    def _decide_all(self, wanted: Iterable[Wanted]) -> dict[str, Decision]:
        found: dict[str, Decision] = {}
        for item in wanted:
            name = item.step.name
            running = [parent for parent in item.planned.parents if parent in found and not found[parent].is_cached]
            decided = found[name] = self._decide(item, running)
            if decided.source is not None:
                self._sources[name] = _folders(decided.source)
            elif decided.is_cached:
                self._sources[name] = [decided.points[number] for number in sorted(decided.points)]
        return found

    def _decide(self, item: Wanted, running: Sequence[str]) -> Decision:
        step = item.step
        if step.idle_s is not None or step.is_gate:
            return Decision(None, "a person decides in it" if step.is_gate else "it is the kernel of a notebook")
        if step.no_cache or item.is_fresh:
            return Decision(None, "it is to run (--no-cache)")
        if step.is_sweep:
            return self._decide_sweep(item, running)
        first = NEVER_RAN
        for number, earlier in enumerate(known for known in self._earlier.get(step.name, ()) if known.done is None):
            reasons = self._differences(item, earlier, running)
            if not reasons:
                return Decision(earlier.folder, f"unchanged since {earlier.run}")
            if number == 0:
                first = "; ".join(reasons[:3])
        if first == NEVER_RAN and running:
            first += f"; `{running[0]}` before it runs"
        return Decision(None, first)

    def _decide_sweep(self, item: Wanted, running: Sequence[str]) -> Decision:
        step, keys = item.step, cache_points.keys_of(item.step)
        found: dict[int, tuple[Earlier, int]] = {}
        reasons: list[str] = []  # of the newest, for all points that are not found
        own: dict[int, str] = {}
        for earlier in (known := self._earlier.get(step.name, ())):
            common = self._common_differences(item, earlier, running)
            if earlier is known[0]:
                reasons = common + _constants_changed(earlier.step, step)
            if not common:
                self._find(item.step, keys, earlier, found, own)
            if len(found) == len(keys):
                break
        missing = {point: own.get(point) or "; ".join(reasons[:3]) or cache_points.NEW for point in range(len(keys)) if point not in found}
        if not known:
            return Decision(None, f"{NEVER_RAN}; `{running[0]}` before it runs" if running else NEVER_RAN, runs=len(keys))
        if not found:
            if not reasons and len(set(missing.values())) == 1:
                reasons = [missing[0]]
            return Decision(None, "; ".join(reasons[:3]) or cache_points.words(step, missing, {}), runs=len(missing))
        runs = {point: earlier.run for point, (earlier, _) in found.items()}
        if missing:
            return Decision(None, cache_points.words(step, missing, runs), _places(found), len(missing))
        first = found[0][0]
        if all(earlier is first and point == number for point, (earlier, number) in found.items()) and _is_whole(first, len(keys)):
            return Decision(first.folder, f"unchanged since {first.run}", runs=0)
        return Decision(None, f"unchanged {cache_points.since(runs.values())}", _places(found), 0)

    def _common_differences(self, item: Wanted, earlier: Earlier, running: Sequence[str]) -> list[str]:
        """Return what is another for all points, whatever their parameters."""
        old, new = (replace(step, params={}, each=(), is_zipped=False) for step in (earlier.step, item.step))
        found = step_differences(old, new, old_common=earlier.common, new_common=item.common)
        found += surrounding_differences(earlier.surroundings, self._surroundings)
        found += self._files(item, earlier)
        if running:
            return [*found, f"`{running[0]}` before it runs"]
        return found or self._inputs(item, earlier)

    def _find(
        self, step: Step, keys: Sequence[object], earlier: Earlier, found: dict[int, tuple[Earlier, int]], reasons: dict[int, str]
    ) -> None:
        """Look for points in an earlier run; note those that are there, and why others are not to be had."""
        there = {key: number for number, key in enumerate(cache_points.keys_of(earlier.step))}
        folders, times = earlier.folders(), _times(earlier) if step.files_out else (0.0, 0.0)
        for point, key in enumerate(keys):
            number = None if point in found else there.get(key)  # type: ignore[call-overload]
            if number is None:
                continue
            if earlier.done is not None and number not in earlier.done:
                reasons.setdefault(point, f"did not complete in {earlier.run}")
            elif lacks := self._lacks(step, folders[number], times[1]):
                reasons.setdefault(point, lacks)
            else:
                found[point] = earlier, number

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
            if name in item.files and any(self._is_edit(folder, name) for folder in earlier.folders()):
                continue
            found.append(f"file {name} changed" if name in item.files else f"file {name} is gone")
        for path, digest in _inputs_on_record(earlier).items() if item.step.files_in else ():
            try:
                is_same = digest_of(self._folder / path) == digest
            except OSError:
                is_same = False
            if not is_same:
                found.append(f"file {path} changed")
        return list(dict.fromkeys(found))

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
            old, news = earlier.producers.get(producer), self._sources.get(producer)
            if old is None or news is None:
                return [f"input `{name}` is not there"]
            olds = _folders(old)
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
        ended = _times(earlier)[1] if step.files_out else 0.0
        return [words for folder in earlier.folders() if (words := self._lacks(step, folder, ended))]

    def _lacks(self, step: Step, folder: str, ended: float) -> str:
        """Return what of the results of one job is no longer there; ``ended`` is when the last job of its step did."""
        index = self._index(folder) if step.outputs else {}
        for name in step.outputs:
            if name not in index or not _has(folder, index[name]):
                return f"output `{name}` is no longer there"
        if not os.path.exists(f"{folder}/result.json") and pack.result(Path(folder)) is None:
            return "what it left is no longer there"
        for name in _result(folder).get("files") or () if step.files_out else ():
            try:
                is_kept = (self._folder / name).stat().st_mtime <= ended + _SAME_MOMENT_S
            except OSError:
                return f"file {name} is no longer there"
            if not is_kept and not self._is_edit(folder, name):
                return f"file {name} was changed after it was made"
        return ""

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
    return [f"{folder}/{number}" for number in pack.numbers(Path(folder))]


def _constants_changed(old: Step, new: Step) -> list[str]:
    """Return which parameters changed that are the same for all points."""
    swept = {axis.name for step in (old, new) for axis in step.each}
    before, after = ({name: value for name, value in step.params.items() if name not in swept} for step in (old, new))
    return param_differences(before, after)


def _places(found: Mapping[int, tuple[Earlier, int]]) -> dict[int, str]:
    folders: dict[str, Sequence[str]] = {}
    places = {}
    for point, (earlier, number) in found.items():
        if earlier.run not in folders:
            folders[earlier.run] = earlier.folders()
        places[point] = folders[earlier.run][number]
    return places


def _is_whole(earlier: Earlier, count: int) -> bool:
    """Whether all points of an earlier step are in its own folder, and no more than ``count``."""
    return earlier.body.point_count == count and not earlier.body.points


def _inputs_on_record(earlier: Earlier) -> dict[str, str]:
    """Return the digests of the files of ``--files-in`` as the step's jobs found them."""
    found: dict[str, str] = {}
    folders = earlier.folders()
    for folder in [*dict.fromkeys(map(os.path.dirname, folders)), *folders]:  # in the first, those of points that shared a kernel
        found |= _read(f"{folder}/{FILES_READ}")
    return found


def _times(earlier: Earlier) -> tuple[float, float]:
    """Return when the first job of a step began and the last one ended, in seconds since the epoch."""
    results = [_result(folder) for folder in earlier.folders()]
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
