"""Letting a step go on that waits for a person, by its own agent; called by the Python API, the magics, the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.api.push import NO_KERNEL, who
from kale_magic.errors import UsageError
from kale_magic.model.literals import to_literal
from kale_proxy import gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kale_magic.api.find import Target
    from kale_magic.api.visits import Visits


def asked(visits: Visits, target: Target) -> dict[str, Any]:
    """Return what a step asks: ``kind`` (gate or input), ``reason``, ``prompt``, ``password``.

    Raises
    ------
    UsageError
        It waits for nobody.
    """
    if target.kind in NO_KERNEL:
        question = gate.look(_files(target))
        if question is None or target.is_final:
            raise UsageError(f"{target} {target.doing}: it waits for nobody.")
        return question
    is_live = target.live is not None or target.reach is not None
    found: dict[str, Any] = visits.ask_agent(target, "gate") if is_live else {"ok": False}
    if not found.get("ok"):
        raise UsageError(f"{target} {target.doing}: it waits for nobody.")
    return dict(found["gate"])


def go_on(
    visits: Visits,
    target: Target,
    values: Mapping[str, object],
    *,
    answer: str | None = None,
    ask: Callable[[str, bool], str | None] | None = None,
) -> str:
    """Open a gate; return a sentence's end.

    Parameters
    ----------
    visits : Visits
        The way into the step.
    target : Target
        One job.
    values : mapping of str to object
        What was decided: variables that the step's code finds.
    answer : str, optional
        What ``input()`` in the step returns.
    ask : callable, optional
        Asks the person here, as ``ask(prompt, is_password)``, for an answer that is not given.

    Raises
    ------
    UsageError
        It waits for nobody, or for something else.
    """
    if target.state == "gated" and target.live is None and not (target.kind in NO_KERNEL and gate.look(_files(target))):  # nothing was allocated for it yet
        if answer is not None:
            raise UsageError(f"{target} is at a gate and asks no question.", "Give it variables: --set x=3.")
        literals = {name: to_literal(value, name) for name, value in values.items()}
        visits.client.proceed(target.run, target.step, target.point, decision=literals, by=who())
        return f"goes on{_shown(literals)}, and is queued"
    what = asked(visits, target)
    decision: dict[str, Any] = {"by": who()}
    if what["kind"] == "input":
        if values:
            raise UsageError(f"{target} {what['reason']}: it takes an answer, no variables.", "Write --answer TEXT.")
        if answer is None and ask is not None:
            answer = ask(str(what.get("prompt", "")), bool(what.get("password")))
        if answer is not None:
            decision["answer"] = answer
    else:
        if answer is not None:
            raise UsageError(f"{target} is at a gate and asks no question.", "Give it variables: --set x=3.")
        decision["set"] = {name: to_literal(value, name) for name, value in values.items()}
    if target.kind in NO_KERNEL:
        is_done = gate.decide(_files(target), decision)
    else:
        is_done = bool(visits.ask_agent(target, "continue", decision=decision).get("ok"))
    if not is_done:
        raise UsageError(f"{target} {target.doing}: somebody else has let it go on.")
    return f"goes on{_shown(decision.get('set', {}))}"


def _files(target: Target) -> Path:
    """Return the folder in which a step without a kernel asks; raises UsageError where it is another host's."""
    if target.client is not None:
        raise UsageError(f"{target} is a shell step on another host.", "Answer it there: jupyter kale continue.")
    return target.folder


def _shown(literals: Mapping[str, str]) -> str:
    shown = ", ".join(f"{name}={text}" for name, text in literals.items())
    return f" with {shown}" if shown else ""
