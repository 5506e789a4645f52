"""A workflow as a notebook whose cells declare it: what ``import`` makes of a file.

The notebook, read again, gives the same YAML. Owns how a step is written as a magic's line; the readers of
those lines are in :mod:`kale_magic.dsl`. Called by the command line and by ``%kale_import``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kale_magic.errors import FormatError
from kale_magic.model.literals import to_literal
from kale_magic.model.resources import format_memory, format_walltime
from kale_magic.model.step import StepKind
from kale_magic.model.words import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kale_magic.model.resources import Resources
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow

_LITERAL_START = re.compile(r"(?:\s*#[^\n]*\n)*\s*(?:[rRuU]?['\"]|\()")


def to_notebook(workflow: Workflow) -> dict[str, Any]:
    """Return the notebook, in format 4.5, as JSON values; running its cells in order declares the workflow.

    Raises
    ------
    FormatError
        A step is a batch script without ``#SBATCH`` or ``#PBS`` lines, which no cell can say.
    """
    cells = [_cell("workflow", f"%load_ext kale_magic\n{workflow_line(workflow)}")]
    if text := workflow.markdown.get(""):
        cells.append(_cell("markdown", f"%%kale_markdown\n{text}"))
    for name, code in workflow.common.items():
        cells.append(_cell(f"common-{name}", f"%%kale_common{'' if name == 'common' else f' {name}'}\n{code}"))
    for name, step in workflow.steps.items():
        if text := workflow.markdown.get(name):
            cells.append(_cell(f"markdown-{name}", f"%%kale_markdown {name}\n{text}"))
        cells.append(_cell(f"step-{name}", step_cell(step)))
    for name, text in workflow.markdown.items():
        if name and name not in workflow.steps:
            cells.append(_cell(f"markdown-{name}", f"%%kale_markdown {name}\n{text}"))
    cells.append(_cell("show", "%kale_show"))
    _number_ids(cells)
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(name: str, text: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": name,
        "metadata": {},
        "outputs": [],
        "source": text.removesuffix("\n"),
    }


def _number_ids(cells: list[dict[str, Any]]) -> None:
    # an id has at most 64 signs, and a step's name alone may have that many
    seen: set[str] = set()
    for number, cell in enumerate(cells):
        short = cell["id"][:56]
        cell["id"] = short if short not in seen else f"{short}-{number}"
        seen.add(cell["id"])


def workflow_line(workflow: Workflow) -> str:
    """Return the ``%kale_workflow`` line."""
    options = (("executor", workflow.executor), ("dir", workflow.directory), ("describe", workflow.description))
    words = [f"--{name} {quote(value)}" for name, value in options if value]
    return " ".join([f"%kale_workflow {workflow.name}", *words])


def step_cell(step: Step) -> str:
    """Return the whole cell that declares a step."""
    line = " ".join(["%%kale_step", step.name, *step_words(step)])
    starts_with_text = _LITERAL_START.match(step.code) is not None
    text = f"{_literal(step.description)}\n" if step.description or starts_with_text else ""
    if step.kind is StepKind.SCRIPT and not re.search(r"^#(?:SBATCH|PBS)\s", step.code, re.MULTILINE):
        raise FormatError(f"Step {step.name} is a batch script without #SBATCH lines, which no cell can say.")
    if step.idle_s is not None:
        raise FormatError(f"Step {step.name} is the kernel of a notebook, which no cell declares.")
    return f"{line}\n{text}{step.code}"


def step_words(step: Step) -> Iterator[str]:
    """Return the options of a step's line, each with its value, in the order of the interface."""
    yield from _lists(("after", step.after), ("inputs", step.inputs), ("outputs", step.outputs))
    if step.formats:
        yield " ".join(["--formats", *(f"{name}={form}" for name, form in step.formats.items())])
    if step.params:
        yield " ".join(["--params", *(f"{name}={to_literal(value)}" for name, value in step.params.items())])
    for axis in step.each:
        is_call = axis.source[:1].isalpha()
        yield f"--each {axis.name}={axis.source if is_call else to_literal(list(axis.values))}"
    if step.is_zipped:
        yield "--zip"
    yield from _lists(("files-in", step.files_in), ("files-out", step.files_out))
    if step.kind is StepKind.NOTEBOOK and step.notebook:
        yield f"--notebook {quote(step.notebook)}"
    if step.kind in {StepKind.KERNEL, StepKind.NOTEBOOK} and step.kernel:
        yield f"--kernel {quote(step.kernel)}"
    if step.kind is StepKind.SHELL:
        yield "--shell"
    if step.is_gate:
        yield "--gate-release" if step.is_gate_release else "--gate"
    yield from _resource_words(step.resources)
    if step.retries:
        yield f"--retries {step.retries}"
    if step.reuse_kernel:
        yield "--reuse-kernel"
    if step.no_cache:
        yield "--no-cache"
    for name, held in (("hold", step.hold_s), ("hold-on-failure", step.hold_on_failure_s), ("warn", step.warn_s)):
        if held is not None:
            yield f"--{name} {format_walltime(held)}"
    if step.executor:
        yield f"--executor {quote(step.executor)}"
    yield from _lists(("tags", step.tags))


def _resource_words(resources: Resources) -> Iterator[str]:
    for name in ("nodes", "ntasks", "cpus", "gpus"):
        if (count := getattr(resources, name)) is not None:
            yield f"--{name} {count}"
    if resources.memory_bytes is not None:
        yield f"--memory {format_memory(resources.memory_bytes)}"
    if resources.walltime_s is not None:
        yield f"--walltime {format_walltime(resources.walltime_s)}"
    for name in ("queue", "account", "qos", "constraint", "reservation"):
        if text := getattr(resources, name):
            yield f"--{name} {quote(text)}"
    yield from (f"--native {quote(line)}" for line in resources.native)
    yield from _lists(("modules", resources.modules))
    if resources.env:
        yield " ".join(["--env", *(f"{name}={quote(value)}" for name, value in resources.env)])
    yield from (f"--setup {quote(line)}" for line in resources.setup)
    if resources.container:
        yield f"--container {quote(resources.container)}"


def _lists(*options: tuple[str, Iterable[str]]) -> Iterator[str]:
    for name, items in options:
        if words := [_item(item) for item in items]:
            yield f"--{name} {','.join(words)}"


def _item(text: str) -> str:
    # inside '...' a comma would still part two items
    return "u" + repr(text) if "," in text else quote(text)


def _literal(text: str) -> str:
    """Return ``'''text'''`` that the reader of cells turns back into ``text``."""
    mark = "'''" if "'''" not in text and not text.endswith("'") else '"""'
    is_plain = mark not in text and not text.endswith(mark[0]) and re.search(r"\\[\\'\"]|\\\Z", text) is None
    if not is_plain:
        text = re.sub(r"([\\'\"])", r"\\\1", text)
    # a newline first keeps the indentation of the lines after the first, which is measured as in a docstring
    return f"{mark}\n{text}\n{mark}" if "\n" in text else f"{mark}{text}{mark}"
