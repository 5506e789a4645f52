"""What a notebook has declared so far: its workflows, and the one it works on.

Owns the effect of each declaring magic, and the line that says what it did. The live notebook and the
notebook reader both apply cells to it, which is why they give the same YAML. Runs nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kale_magic.dsl.build import build_step, check_name
from kale_magic.dsl.options import parse
from kale_magic.errors import StepSyntaxError, UnknownStepError, UsageError, WorkflowError
from kale_magic.model.names import analyse
from kale_magic.model.step import clean_code
from kale_magic.model.workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kale_magic.model.step import Step

DECLARING = frozenset({"workflow", "common", "step", "submit", "markdown"})


class Declarations:
    """The workflows of one notebook.

    Parameters
    ----------
    name : str
        The workflow's name as long as no ``%kale_workflow`` gives one.
    """

    def __init__(self, name: str = "workflow") -> None:
        self._unnamed: str | None = name
        self._current = name
        self._workflows: dict[str, Workflow] = {name: Workflow(name=name)}
        self._hosts: dict[str, str] = {}

    @property
    def workflow(self) -> Workflow:
        """The workflow that cells declare into now."""
        return self._workflows[self._current]

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """All workflows of the notebook, in the order in which they were started."""
        return dict(self._workflows)

    def apply(self, magic: str, line: str, body: str | None = None, *, first_line: int = 2) -> str:
        """Do what a declaring magic says, and return the line that tells of it.

        Parameters
        ----------
        magic : str
            ``workflow``, ``common``, ``step``, ``submit`` (its cell) or ``markdown``.
        line : str
            What stands after the magic.
        body : str or None
            The cell below it; None for a line magic.
        first_line : int
            The line of the cell at which the body begins, for messages.

        Raises
        ------
        StepSyntaxError, UsageError, WorkflowError
            What is wrong; nothing has changed then.
        HelpRequested
            ``-h`` stands on the line.
        """
        name = magic.lstrip("%").removeprefix("kale_")
        if name not in DECLARING:
            raise UsageError(f"{magic} declares nothing.")
        given = parse(name, line, is_cell=name != "workflow")
        if name == "workflow":
            said = self.start(given.name, executor=given.executor, directory=given.dir, description=given.describe, host=given.host)
            return f"{self.remove(given.remove)}; {summary(self.workflow)}" if given.remove else said
        if body is None:
            raise UsageError(f"%kale_{name} needs a cell.", f"Write %%kale_{name} at the top of the cell.")
        if name == "common":
            return self.add_common(given.name or "common", body, first_line=first_line)
        if name == "markdown":
            return self.add_markdown(given.step or "", body)
        return self.add_step(build_step(given, body, first_line=first_line, common=self._common_names()))

    def start(
        self,
        name: str | None,
        *,
        executor: str | None = None,
        directory: str | None = None,
        description: str | None = None,
        host: str | None = None,
    ) -> str:
        """Start or select a workflow, or without a name change the present one; what is None stays as it was.

        ``host`` is the login host whose manager runs it, a Host of the ssh configuration; empty: this machine's. It is
        the person's, so it is not written into the workflow.
        What was declared before the first workflow had a name belongs to it.
        """
        changes = {"executor": executor, "directory": directory, "description": description}
        kept = {key: value for key, value in changes.items() if value is not None}
        if name is None:
            self._workflows[self._current] = replace(self.workflow, **kept)  # type: ignore[arg-type]
            self._set_host(host)
            return summary(self.workflow) + self._on_host()
        check_name(name, "workflow")
        clash = next((other for other in self._workflows if other.lower() == name.lower() and other != name), None)
        if clash is not None and clash != self._unnamed:
            raise StepSyntaxError(f"Workflows {name} and {clash} differ only in case.", "Name it another way.")
        is_new = name not in self._workflows
        if self._unnamed is not None:
            self._workflows[name] = replace(self._workflows.pop(self._unnamed), name=name)
            is_new, self._unnamed = True, None
        elif is_new:
            self._workflows[name] = Workflow(name=name)
        self._current = name
        self._workflows[name] = replace(self.workflow, **kept)  # type: ignore[arg-type]
        self._set_host(host)
        return f"{summary(self.workflow)} {'started' if is_new else 'selected'}{self._on_host()}"

    @property
    def host(self) -> str:
        """The login host whose manager runs the present workflow; empty: this machine's."""
        return self._hosts.get(self._current, "")

    def _set_host(self, host: str | None) -> None:
        if host is not None:
            self._hosts[self._current] = host

    def _on_host(self) -> str:
        return f", on {self.host}" if self.host else ""

    def add_step(self, step: Step) -> str:
        """Add or replace a step."""
        steps = self.workflow.steps
        clash = next((other for other in steps if other.lower() == step.name.lower() and other != step.name), None)
        if clash is not None:
            raise WorkflowError(f"Steps {step.name} and {clash} differ only in case.", "Name one of them another way.")
        verb = "replaced" if step.name in steps else "declared"
        self._workflows[self._current] = self.workflow.with_step(step)
        points = f" ({step.point_count} points)" if step.is_sweep else ""
        return f"step {step.name} {verb}{points}"

    def remove(self, names: Sequence[str]) -> str:
        """Take steps out; return the line that tells of it. Raises UnknownStepError if there is none of a name."""
        for name in names:
            if name not in self.workflow.steps:
                raise UnknownStepError(
                    f"--remove names {name!r}, which is no step of workflow {self.workflow.name}.",
                    f"There are: {', '.join(self.workflow.steps)}.",
                )
        for name in names:
            self.remove_step(name)
        return f"removed {', '.join(names)}"

    def remove_step(self, name: str) -> None:
        """Take a step out, as after a submit that failed at once."""
        left = {other: step for other, step in self.workflow.steps.items() if other != name}
        self._workflows[self._current] = replace(self.workflow, steps=left)

    def add_common(self, name: str, body: str, *, first_line: int = 2) -> str:
        """Add or replace a block of common code."""
        check_name(name, "block of common code")
        code = clean_code(body)
        if not code:
            raise StepSyntaxError(f"The cell of the common block {name} is empty.", line=first_line)
        try:
            analyse(body)
        except StepSyntaxError as exc:
            line = exc.line + first_line - 1
            raise StepSyntaxError(f"Common block {name}, line {line}: {exc.message}", line=line, column=exc.column) from None
        verb = "replaced" if name in self.workflow.common else "declared"
        self._workflows[self._current] = replace(self.workflow, common={**self.workflow.common, name: code})
        return f"common block {name} {verb}"

    def add_markdown(self, step: str, body: str) -> str:
        """Keep Markdown for a step, or for the workflow where ``step`` is empty."""
        text = clean_code(body)
        if step:
            check_name(step)
        what = f"step {step}" if step else f"workflow {self.workflow.name}"
        if not text:
            raise StepSyntaxError(f"The Markdown for {what} is empty.")
        verb = "replaced" if step in self.workflow.markdown else "kept"
        self._workflows[self._current] = replace(self.workflow, markdown={**self.workflow.markdown, step: text})
        later = f" (step {step} is not declared yet)" if step and step not in self.workflow.steps else ""
        return f"Markdown for {what} {verb}{later}"

    def take(self, workflow: Workflow) -> str:
        """Make an imported workflow the present one; it replaces the one of its name."""
        verb = "replaced" if workflow.name in self._workflows and workflow.name != self._unnamed else "imported"
        if self._unnamed is not None and self._workflows[self._unnamed] == Workflow(name=self._unnamed):
            del self._workflows[self._unnamed]
        self._unnamed = None
        self._workflows[workflow.name] = workflow
        self._current = workflow.name
        return f"{summary(workflow)} {verb}"

    def _common_names(self) -> frozenset[str] | None:
        found: set[str] = set()
        for block in self.workflow.common.values():
            names = analyse(block)
            if names.is_open:
                return None
            found |= names.assigned
        return frozenset(found)


def summary(workflow: Workflow) -> str:
    """Return ``workflow eos (2 steps)``."""
    count = len(workflow.steps)
    return f"workflow {workflow.name} ({count} step{'s' * (count != 1)})"
