"""Read a WfFormat instance (WfCommons, schema 1.5 and 1.6) as a workflow of dummy work of the same shape and sizes.

Each task becomes a step that reads its files, computes as long as the task did, and writes files of the same sizes into
``files``. ``--params speed=100 size=0.01`` make it shorter and smaller. Nothing of the file is run at import.
"""

from __future__ import annotations

import json
import re
from typing import Any

from kale_magic.errors import FormatError
from kale_magic.formats._yaml_read import Document
from kale_magic.model.literals import to_literal
from kale_magic.model.resources import Resources
from kale_magic.model.step import Step, clean_code
from kale_magic.model.stepname import STEP_NAME
from kale_magic.model.workflow import Workflow

VERSIONS = ("1.5", "1.6")
MAX_TASKS = 100_000
_STAGE = "stage_in"
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_COMMON = '''\
import os
import time


def work(seconds, cpu, reads, writes):
    """Read files, compute for `cpu` of `seconds` and wait for the rest, write files of so many bytes."""
    for path in reads:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
    busy_until = time.process_time() + seconds * cpu
    end = time.monotonic() + seconds
    while time.process_time() < busy_until and time.monotonic() < end:
        sum(range(1000))
    time.sleep(max(0.0, end - time.monotonic()))
    for path, size in writes.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.truncate(round(size))
'''


def load(text: str, source: str) -> Workflow:
    """Return the workflow of an instance.

    Raises
    ------
    FormatError
        It is none; the message names the place.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        where = f", line {exc.lineno}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise FormatError(f"{source}{where}: this is no JSON: {getattr(exc, 'msg', exc)}.") from exc
    return _Reader(data, text, source).workflow()


class _Reader:
    def __init__(self, data: Any, text: str, source: str) -> None:
        self.data = data
        self.text = text
        self.source = source

    def workflow(self) -> Workflow:
        top = self.mapping(self.data, ())
        version = top.get("schemaVersion")
        if version not in VERSIONS:
            raise self.error(("schemaVersion",), f"Kale reads WfFormat {' and '.join(VERSIONS)}, not {version!r}; WfFormat's own tool migrates older ones")
        path = ("workflow", "specification")
        specification = self.mapping(self.mapping(top.get("workflow"), path[:1]).get("specification"), path)
        tasks = self.items(specification.get("tasks"), (*path, "tasks"))
        if not 0 < len(tasks) <= MAX_TASKS:
            raise self.error((*path, "tasks"), f"takes 1 to {MAX_TASKS} tasks, not {len(tasks)}")
        sizes = self.sizes(self.items(specification.get("files", []), (*path, "files")), (*path, "files"))
        times = self.times(top["workflow"].get("execution"))
        names = self.names(tasks, (*path, "tasks"))
        steps = [self.step(task, (*path, "tasks", number), names, sizes, times) for number, task in enumerate(tasks)]
        self.check_cycle(steps, names)
        made = {file for step in steps for file in step.files_out}
        outside = dict.fromkeys(file for step in steps for file in step.files_in if file not in made)
        stage = [self.stage(outside, sizes, {step.name.lower() for step in steps})] if outside else []
        return Workflow(
            name=_name(str(top.get("name") or "workflow"), set()),
            description=str(top.get("description") or ""),
            common={"common": _COMMON},
            steps={step.name: step for step in [*stage, *(self.after_stage(step, stage, outside) for step in steps)]},
        )

    def names(self, tasks: list[Any], path: tuple[str | int, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        taken: set[str] = set()
        for number, task in enumerate(tasks):
            item = self.mapping(task, (*path, number))
            task_id = self.text_of(item.get("id"), (*path, number, "id"))
            if task_id in found:
                raise self.error((*path, number, "id"), f"the task {task_id!r} stands there twice")
            found[task_id] = _name(task_id, taken)
        return found

    def sizes(self, files: list[Any], path: tuple[str | int, ...]) -> dict[str, int]:
        found = {}
        for number, file in enumerate(files):
            item = self.mapping(file, (*path, number))
            size = item.get("sizeInBytes", 0)
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise self.error((*path, number, "sizeInBytes"), f"takes a whole number of bytes, not {str(size)[:40]!r}")
            found[_file(self.text_of(item.get("id"), (*path, number, "id")))] = size
        return found

    def times(self, execution: Any) -> dict[str, dict[str, Any]]:
        if execution is None:
            return {}
        path = ("workflow", "execution")
        tasks = self.items(self.mapping(execution, path).get("tasks", []), (*path, "tasks"))
        found = {}
        for number, task in enumerate(tasks):
            item = self.mapping(task, (*path, "tasks", number))
            for key in ("runtimeInSeconds", "avgCPU", "coreCount", "memoryInBytes"):
                value = item.get(key, 0)
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
                    raise self.error((*path, "tasks", number, key), f"takes a number, not {str(value)[:40]!r}")
            found[self.text_of(item.get("id"), (*path, "tasks", number, "id"))] = item
        return found

    def step(
        self, task: dict[str, Any], path: tuple[str | int, ...], names: dict[str, str], sizes: dict[str, int], times: dict[str, dict[str, Any]]
    ) -> Step:
        parents = self.texts(task.get("parents", []), (*path, "parents"))
        for number, parent in enumerate(parents):
            if parent not in names:
                raise self.error((*path, "parents", number), f"there is no task {parent!r}")
        reads = list(dict.fromkeys(map(_file, self.texts(task.get("inputFiles", []), (*path, "inputFiles")))))
        writes = list(dict.fromkeys(map(_file, self.texts(task.get("outputFiles", []), (*path, "outputFiles")))))
        run = times.get(task["id"], {})
        cpu = min(1.0, float(run.get("avgCPU", 100.0)) / 100.0)
        made = ", ".join(f"{file!r}: {sizes.get(file, 0)} * size" for file in writes)
        code = f"work(seconds / speed, {cpu!r}, {to_literal(reads)}, {{{made}}})\n"
        kind = task.get("name", "")
        return Step(
            name=names[task["id"]],
            code=code,
            description=f"Dummy work for {kind}" if isinstance(kind, str) and kind else "",
            after=tuple(dict.fromkeys(names[parent] for parent in parents)),
            params={"seconds": float(run.get("runtimeInSeconds", 0.0)), "speed": 1.0, "size": 1.0},
            files_in=tuple(reads),
            files_out=tuple(writes),
            resources=Resources(cpus=int(run["coreCount"])) if int(run.get("coreCount", 1)) > 1 else Resources(),
            tags=(kind,) if isinstance(kind, str) and kind else (),
        )

    def stage(self, files: dict[str, None], sizes: dict[str, int], taken: set[str]) -> Step:
        made = ",\n    ".join(f"{file!r}: {sizes.get(file, 0)} * size" for file in files)
        return Step(
            name=_name(_STAGE, taken),
            code=clean_code(f"work(0, 0, [], {{\n    {made},\n}})"),
            description="Makes the files that no task makes.",
            params={"size": 1.0},
            files_out=tuple(files),
        )

    def after_stage(self, step: Step, stage: list[Step], outside: dict[str, None]) -> Step:
        from dataclasses import replace

        needs = stage and any(file in outside for file in step.files_in)
        return replace(step, after=(stage[0].name, *step.after)) if needs else step

    def check_cycle(self, steps: list[Step], names: dict[str, str]) -> None:
        left = {step.name: len(step.after) for step in steps}
        children: dict[str, list[str]] = {}
        for step in steps:
            for parent in step.after:
                children.setdefault(parent, []).append(step.name)
        ready = [name for name, count in left.items() if not count]
        while ready:
            for child in children.get(ready.pop(), ()):
                left[child] -= 1
                if not left[child]:
                    ready.append(child)
        if stuck := [name for name, count in left.items() if count]:
            number = list(names.values()).index(stuck[0])
            raise self.error(("workflow", "specification", "tasks", number), f"the task {stuck[0]!r} waits for itself through its parents")

    def mapping(self, value: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(path, f"takes an object, not {_shown(value)}")
        return value

    def items(self, value: Any, path: tuple[str | int, ...]) -> list[Any]:
        if not isinstance(value, list):
            raise self.error(path, f"takes a list, not {_shown(value)}")
        return value

    def texts(self, value: Any, path: tuple[str | int, ...]) -> list[str]:
        return [self.text_of(item, (*path, number)) for number, item in enumerate(self.items(value, path))]

    def text_of(self, value: Any, path: tuple[str | int, ...]) -> str:
        if not isinstance(value, str) or not value:
            raise self.error(path, f"takes text, not {_shown(value)}")
        return value

    def error(self, path: tuple[str | int, ...], message: str) -> FormatError:
        where = ".".join(map(str, path[-3:]))
        said = f"{where}: {message}." if where else f"{message}."
        try:
            document = Document(self.text, self.source)
        except FormatError:  # JSON that YAML's reader does not take, such as one with tabs
            return FormatError(f"{self.source}: {said}")
        return document.error(said, document.place(path))


def _name(text: str, taken: set[str]) -> str:
    """Return a step's name like ``text`` that is not taken, and take it."""
    base = re.sub(r"[^A-Za-z0-9_-]+", "_", text)
    base = base if base[:1].isalpha() and base[:1].isascii() else f"t_{base}"
    name, number = base[:64], 2
    while name.lower() in taken or not STEP_NAME.fullmatch(name):
        name, number = f"{base[:58]}_{number}", number + 1
    taken.add(name.lower())
    return name


def _file(text: str) -> str:
    """Return the path in ``files`` for a file's id, which may look like a path out of the folder."""
    parts = [_ODD.sub("_", part) for part in text.split("/") if part not in {"", ".", ".."}]
    return "/".join(["files", *(parts or ["_"])])


def _shown(value: Any) -> str:
    return "nothing" if value is None else "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)[:60]
