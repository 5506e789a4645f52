"""``%kale_workflow``, ``%%kale_common``, ``%%kale_step``, ``%%kale_markdown``, ``%kale_show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.api.workflow import picture

if TYPE_CHECKING:
    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics


def workflow(session: KaleMagics, request: Request) -> None:
    """Start or select a workflow; bare: show it."""
    print(session.declarations.apply("workflow", request.line))
    if not request.line.strip():
        show(session, request)


def common(session: KaleMagics, request: Request) -> None:
    """Keep the cell as common code."""
    print(_declare(session, "common", request))


def markdown(session: KaleMagics, request: Request) -> None:
    """Keep the cell as text."""
    print(_declare(session, "markdown", request))


def step(session: KaleMagics, request: Request) -> object:
    """Declare the cell as a step, and with ``--run`` run it now."""
    print(_declare(session, "step", request))
    if not request.args.run:
        return None
    from kale_magic.magics.submit import run_step

    return run_step(session, request.args.name)


def show(session: KaleMagics, request: Request) -> None:  # noqa: ARG001 - called like the others
    """Show the workflow as a picture and as text."""
    declared = session.declarations.workflow
    if not declared.steps:
        print(f"Workflow {declared.name} has no steps yet: declare one with %%kale_step NAME.")
        return
    session.show(picture(declared))


def _declare(session: KaleMagics, magic: str, request: Request) -> str:
    return session.declarations.apply(magic, request.line, request.body, first_line=session.lines_above + 2)
