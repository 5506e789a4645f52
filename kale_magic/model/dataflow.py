"""From declared steps to a plan: which step waits for which, and which value comes from where.

Owns the rules by which names become edges, and the sentences that say what does not fit. Pure and quick
(1,000 steps in a fraction of a second). Called before a submit by the client, and again by the manager.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kale_magic.errors import CycleError, DuplicateOutputError, StepSyntaxError, UnknownStepError, WorkflowError
from kale_magic.model._hints import did_you_mean, listed, never_assigned
from kale_magic.model.names import CellNames, analyse
from kale_magic.model.step import Step, StepKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from kale_magic.model.workflow import Workflow

_MODULE_NAMES = sys.stdlib_module_names | {"np", "pd", "plt", "mpl", "sns", "xr", "sp", "numpy", "pandas", "scipy", "ase"}
_PARAMS = "_params"


@dataclass(frozen=True, slots=True)
class Binding:
    """Variable ``name`` of a step is output ``output`` of ``producer``; ``gather``: the list over a sweep's points."""

    name: str
    producer: str
    output: str
    gather: bool = False


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step with what it waits for (``parents``, in order) and the values it gets."""

    name: str
    parents: tuple[str, ...]
    bindings: tuple[Binding, ...]
    point_count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a workflow; ``order`` puts parents first and else keeps the order of declaration."""

    steps: Mapping[str, PlannedStep]
    order: tuple[str, ...]

    def children(self) -> dict[str, list[str]]:
        """Return the steps that wait for each step, in plan order."""
        found: dict[str, list[str]] = {name: [] for name in self.steps}
        for name in self.order:
            for parent in self.steps[name].parents:
                found[parent].append(name)
        return found


def resolve(
    workflow: Workflow, *, notebook_names: Collection[str] = frozenset(), wanted: Collection[str] = ()
) -> Plan:
    """Return the plan of a workflow.

    Parameters
    ----------
    workflow : Workflow
        As declared.
    notebook_names : collection of str
        Names that the notebook's own namespace has, for the message about a name that no step makes.
    wanted : collection of str
        Plan these steps and what they need, so that a fault elsewhere does not stand in their way; all if empty.

    Raises
    ------
    CycleError
        Steps wait for each other.
    DuplicateOutputError
        Several steps make a name that another uses, and nothing says which is meant.
    UnknownStepError
        ``--after`` or ``--inputs`` names a step that is not there.
    WorkflowError
        A name is made by nobody, or the steps don't fit together in another way.
    """
    return _Resolver(workflow, frozenset(notebook_names)).plan(wanted)


def wanted_by(only: Collection[str], from_: Collection[str], to: Collection[str]) -> Collection[str]:
    """Return the steps that a selection ends in, for :func:`resolve`; empty (all) when that depends on the whole."""
    return () if from_ else only or to


class _Resolver:
    def __init__(self, workflow: Workflow, notebook_names: frozenset[str]) -> None:
        self.steps = workflow.steps
        self.notebook_names = notebook_names
        self.common = _common_names(workflow)
        self.producers: dict[str, list[str]] = {}
        for step in self.steps.values():
            for output in dict.fromkeys(step.outputs):
                self.producers.setdefault(output, []).append(step.name)
        self._children: dict[str, list[str]] | None = None

    def plan(self, wanted: Collection[str]) -> Plan:
        _check_case(self.steps)
        self.check_common()
        found: dict[str, PlannedStep] = {}
        left = [name for name in reversed(list(wanted or self.steps)) if name in self.steps]
        while left:
            step = self.steps[left.pop()]
            if step.name in found:
                continue
            for name in step.after:
                self.need_step(step, name, "--after")
            found[step.name] = self.planned(step)
            left += found[step.name].parents if wanted else ()
        planned = {name: found[name] for name in self.steps if name in found}
        return Plan(planned, _order(planned))

    def check_common(self) -> None:
        """Refuse a name in the common code that neither it nor any step can give."""
        missing = self.common.free.keys() - self.producers.keys()
        if not missing or self.common.is_open:
            return
        for step in self.steps.values():
            missing -= {*step.params, *(axis.name for axis in step.each), *_names(step).assigned}
        if missing:
            self.refuse("The common code", {name: self.common.free[name] for name in self.common.free if name in missing})

    def planned(self, step: Step) -> PlannedStep:
        bindings = self.bindings(step)
        parents = dict.fromkeys([*step.after, *(binding.producer for binding in bindings)])
        return PlannedStep(step.name, tuple(parents), tuple(bindings), step.point_count)

    def need_step(self, step: Step, name: str, option: str) -> None:
        if name not in self.steps:
            raise UnknownStepError(
                f"{option} of step {step.name} names {name!r}, which is no step of this workflow.",
                did_you_mean(name, self.steps),
            )
        if name == step.name:
            raise CycleError(f"{option} of step {step.name} names the step itself: {name} -> {name}.", "Leave it out.")

    def bindings(self, step: Step) -> list[Binding]:
        found: dict[str, Binding] = {}
        own = {*step.params, *(axis.name for axis in step.each)}
        for text in step.inputs:
            producer, _, name = text.rpartition(".")
            if name in own:
                raise WorkflowError(f"`{name}` of step {step.name} is a parameter and an input.", "Leave one of them out.")
            binding = self.named(step, producer, name) if producer else self.binding(step, name)
            if binding is None:
                raise WorkflowError(
                    f"--inputs of step {step.name} names `{name}`, which no {'other ' * (name in step.outputs)}step outputs.",
                    did_you_mean(name, self.producers),
                )
            if name in found and found[name] != binding:
                raise DuplicateOutputError(
                    f"--inputs of step {step.name} gives `{name}` twice: by {found[name].producer} and {binding.producer}.",
                    "A step has one variable of a name.",
                )
            found[name] = binding
        if step.kind is StepKind.PYTHON:
            self.bind_free(step, own, found)
        return list(found.values())

    def named(self, step: Step, producer: str, name: str) -> Binding:
        self.need_step(step, producer, "--inputs")
        if name not in self.steps[producer].outputs:
            raise WorkflowError(
                f"--inputs of step {step.name} names {producer}.{name}, but step {producer} has no output `{name}`.",
                did_you_mean(name, self.steps[producer].outputs),
            )
        return Binding(name, producer, name, self.steps[producer].is_sweep)

    def bind_free(self, step: Step, own: set[str], found: dict[str, Binding]) -> None:
        names = _names(step)
        missing: dict[str, int] = {}
        for name, line in names.free.items():
            if name in own or name in found or name in self.common.assigned:
                continue
            binding = self.binding(step, name) or self.gathered_params(step, name, found)
            if binding is not None:
                found.setdefault(binding.name, binding)
            else:
                missing[name] = line
        self.check_outputs(step, names, own, found)
        if missing and not (names.is_open or self.common.is_open):
            self.refuse(f"Step {step.name}", missing, step)

    def binding(self, step: Step, name: str) -> Binding | None:
        producers = [other for other in self.producers.get(name, ()) if other != step.name]
        if not producers:
            return None
        producer = producers[0] if len(producers) == 1 else self.nearest(step, name, producers)
        return Binding(name, producer, name, self.steps[producer].is_sweep)

    def gathered_params(self, step: Step, name: str, found: dict[str, Binding]) -> Binding | None:
        if not name.endswith(_PARAMS):
            return None
        output = name.removesuffix(_PARAMS)
        binding = found.get(output) or self.binding(step, output) or self.any_output(step, output, found)
        return binding if binding is not None and binding.gather else None

    def any_output(self, step: Step, producer: str, found: dict[str, Binding]) -> Binding | None:
        """Return a binding to some output of the sweep ``producer``: STEP_params comes with each of them."""
        other = self.steps.get(producer)
        if other is None or other is step or not other.is_sweep or not other.outputs:
            return None
        used = (binding for binding in found.values() if binding.producer == producer)
        return next(used, None) or self.named(step, producer, other.outputs[0])

    def nearest(self, step: Step, name: str, producers: list[str]) -> str:
        """Return the producer reached in the fewest ``--after`` hops upstream, else the only one not downstream."""
        seen, level = {step.name}, [step.name]
        while level:
            parents = dict.fromkeys(p for at in level for p in self.steps[at].after if p in self.steps and p not in seen)
            if hits := [parent for parent in parents if parent in producers]:
                if len(hits) > 1:
                    self.ambiguous(step, name, hits)
                return hits[0]
            seen.update(parents)
            level = list(parents)
        downstream = self.downstream(step.name)
        if len(left := [producer for producer in producers if producer not in downstream]) == 1:
            return left[0]
        return self.ambiguous(step, name, left or producers)

    def ambiguous(self, step: Step, name: str, candidates: list[str]) -> str:
        shown = ", ".join(candidates[:6]) + ", ..." * (len(candidates) > 6)
        first = candidates[0]
        raise DuplicateOutputError(
            f"Step {step.name} uses `{name}`, which several steps output: {shown}.",
            f"Say which: --inputs {first}.{name}, or put one of them right before it: --after {first}.",
        )

    def downstream(self, name: str) -> set[str]:
        if self._children is None:
            self._children = {}
            for step in self.steps.values():
                for parent in step.after:
                    self._children.setdefault(parent, []).append(step.name)
        found, stack = set[str](), [name]
        while stack:
            new = [child for child in self._children.get(stack.pop(), ()) if child not in found]
            found.update(new)
            stack += new
        return found

    def check_outputs(self, step: Step, names: CellNames, own: set[str], found: dict[str, Binding]) -> None:
        if names.is_open or self.common.is_open:
            return
        for name in step.outputs:
            if name not in names.assigned | own | found.keys() | self.common.assigned and name not in names.free:
                raise WorkflowError(*never_assigned(step.name, name, names))

    def refuse(self, who: str, missing: Mapping[str, int], step: Step | None = None) -> None:
        known = {name: line for name, line in missing.items() if name in self.notebook_names}
        shown = listed(known or missing, step.first_line if step else 1)
        if known:
            hint = "Put what makes it into a %%kale_common cell, give it by --params, or let a step output it."
            verb = "is" if len(known) == 1 else "are"
            raise WorkflowError(f"{who} uses {shown}, which {verb} known only to the notebook.", hint)
        name = next(iter(missing))
        if step and name in step.outputs:
            raise WorkflowError(
                f"{who} uses {shown} before it assigns it, and no other step outputs it.",
                f"Assign `{name}` first, or let another step have --outputs {name}.",
            )
        if name in _MODULE_NAMES:
            hint = "Import it in a %%kale_common cell or in the step."
        else:
            own = {*step.params, *(axis.name for axis in step.each)} if step else set[str]()
            close = did_you_mean(name, {*self.producers, *self.common.assigned, *own})
            hint = close or _way_out(name, step, self.steps)
        raise WorkflowError(f"{who} uses {shown}, which no step outputs and nothing defines.", hint)


def _names(step: Step) -> CellNames:
    if step.kind is not StepKind.PYTHON:
        return CellNames({}, frozenset(), is_open=True)
    try:
        return analyse(step.code)
    except StepSyntaxError as exc:
        line = exc.line + step.first_line - 1
        raise StepSyntaxError(f"Step {step.name}, line {line}: {exc.message}", line=line, column=exc.column) from exc


def _common_names(workflow: Workflow) -> CellNames:
    free, assigned, is_open = dict[str, int](), set[str](), False
    for name, block in workflow.common.items():
        try:
            names = analyse(block)
        except StepSyntaxError as exc:
            raise StepSyntaxError(f"Common block {name}, line {exc.line}: {exc.message}", line=exc.line) from exc
        free |= {name: line for name, line in names.free.items() if name not in assigned}
        assigned |= names.assigned
        is_open |= names.is_open
    return CellNames({name: line for name, line in free.items() if name not in assigned}, frozenset(assigned), is_open)


def _way_out(name: str, step: Step | None, steps: Mapping[str, Step]) -> str:
    makers = [other.name for other in steps.values() if other is not step and _makes(other, name)]
    if makers:
        return f"Step {makers[0]} assigns it: give that step --outputs {name}."
    return f"Give it by --params {name}=..., let another step have --outputs {name}, or define it in a %%kale_common cell."


def _makes(step: Step, name: str) -> bool:
    return step.kind is StepKind.PYTHON and name in _names(step).assigned


def _check_case(steps: Mapping[str, Step]) -> None:
    clash = [name for name, count in Counter(name.lower() for name in steps).items() if count > 1]
    if clash:
        names = [name for name in steps if name.lower() == clash[0]]
        raise WorkflowError(f"Steps {names[0]} and {names[1]} differ only in case.", "Rename one of them.")


def _order(planned: Mapping[str, PlannedStep]) -> tuple[str, ...]:
    """Sort topologically, keeping the order of declaration where it can be kept (depth first, without recursion)."""
    done: dict[str, None] = {}
    on_path: dict[str, None] = {}
    for start in planned:
        stack = [(start, iter(planned[start].parents))] if start not in done else []
        on_path = {start: None} if stack else {}
        while stack:
            name, parents = stack[-1]
            parent = next((p for p in parents if p not in done), None)
            if parent is None:
                stack.pop()
                done[name] = None
                on_path.pop(name)
            elif parent in on_path:
                circle = [*list(on_path)[list(on_path).index(parent) :], parent]
                shown = " -> ".join(reversed(circle))
                raise CycleError(f"Steps wait for each other in a circle: {shown}.", "Take one of these edges out.")
            else:
                on_path[parent] = None
                stack.append((parent, iter(planned[parent].parents)))
    return tuple(done)


def select(
    plan: Plan,
    only: Collection[str] = (),
    from_: Collection[str] = (),
    to: Collection[str] = (),
    *,
    made: Collection[str] = frozenset(),
) -> set[str]:
    """Return the steps that ``--only``, ``--from`` and ``--to`` choose together; all if none is given.

    Parameters
    ----------
    plan : Plan
        Of the whole workflow.
    only, from_, to : collection of str
        These alone; these and all that waits for them; these and all they wait for.
    made : collection of str
        Steps whose outputs an earlier run has, so that they need not run again.

    Raises
    ------
    UnknownStepError
        A name is no step.
    WorkflowError
        Nothing is left, or a chosen step needs a value of one that is not chosen and that no earlier run has made.
    """
    for option, names in (("--only", only), ("--from", from_), ("--to", to)):
        for name in names:
            if name not in plan.steps:
                raise UnknownStepError(f"{option} names {name!r}, which is no step.", did_you_mean(name, plan.steps))
    chosen = set(plan.steps)
    if only:
        chosen &= set(only)
    if from_:
        chosen &= _reach(from_, plan.children())
    if to:
        chosen &= _reach(to, {name: step.parents for name, step in plan.steps.items()})
    if not chosen:
        raise WorkflowError("No step is chosen by --only, --from and --to together.")
    for name in plan.order:
        for binding in plan.steps[name].bindings if name in chosen else ():
            if binding.producer not in chosen and binding.producer not in made:
                raise WorkflowError(
                    f"Step {name} needs `{binding.output}` of step {binding.producer}, which is not chosen and which no earlier run has.",
                    f"Choose {binding.producer} too.",
                )
    return chosen


def _reach(start: Iterable[str], edges: Mapping[str, Iterable[str]]) -> set[str]:
    found, stack = set(start), list(start)
    while stack:
        new = [name for name in edges[stack.pop()] if name not in found]
        found.update(new)
        stack += new
    return found
