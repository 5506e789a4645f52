"""``%kale_export``, ``%kale_import`` and ``%kale_report``: the notebook's workflow to a file and from one, a run to a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from kale_magic.api import mirror
from kale_magic.api.find import find_run
from kale_magic.api.workflow import Workflow
from kale_magic.errors import UsageError

if TYPE_CHECKING:
    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics


def export(session: KaleMagics, request: Request) -> None:
    """Write the workflow, or a run's, to a file."""
    args = request.args
    from kale_magic.formats.export import export as write_format  # what few sessions need is loaded by those

    file = Path(args.file).expanduser()
    run_folder = None
    if args.run is not None:
        status = session.client.status(find_run(session.client, args.run, session.scope))
        run_folder = mirror.run_folder(session.client, str(status["folder"]), "workflow.yaml", "steps/*/result.json", "steps/*/*/result.json")
        workflow = Workflow.from_yaml(run_folder / "workflow.yaml")
    else:
        workflow = Workflow.from_model(session.declarations.workflow)
    if not workflow.model.steps:
        raise UsageError(f"Workflow {workflow.name} has no steps to export.", "Declare one with %%kale_step NAME.")
    for warning in write_format(workflow.model, file, args.format or "kale", session.folder, run_folder):
        print(f"warning: {warning}")
    print(f"workflow {workflow.name} ({_count(workflow)}) written to {file}")


def load(session: KaleMagics, request: Request) -> None:
    """Read a workflow and make it the notebook's."""
    file = Path(request.args.file).expanduser()
    workflow = Workflow.from_yaml(file)
    print(session.declarations.take(workflow.model))
    session.show(workflow._repr_mimebundle_())


def report(session: KaleMagics, request: Request) -> None:
    """Write a run as one HTML page, and show a link to it."""
    from kale_magic.api.report import write_report
    from kale_magic.render.words import escape

    status = session.client.status(find_run(session.client, request.args.run, session.scope))
    file = Path(request.args.o or f"{status['run']}.html").expanduser()
    write_report(session.client, status, file)
    text = f"{file} written: {status['run']} {status['state']}"
    html = f'<a href="{escape(quote(str(file)))}" target="_blank">{escape(file)}</a> written: {escape(status["run"])} {escape(status["state"])}'
    session.show({"text/plain": text, "text/html": html})


def _count(workflow: Workflow) -> str:
    number = len(workflow.model.steps)
    return f"{number} step{'s' * (number != 1)}"
