"""``run``, ``export``, ``import`` and ``check``: commands that read a workflow from a file."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.cli.console import Console, write
from kale_magic.cli.exits import Exit, sentence
from kale_magic.errors import KaleError, StepSyntaxError, UsageError, WorkflowError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from kale_magic.client import Client
    from kale_magic.model.workflow import Workflow

_CANCELLED_S = 30.0
_SHOWN_NOTEBOOKS = 20


def read_workflow(name: str, job: str | None = None) -> tuple[Workflow, Path]:
    """Return the workflow in a notebook or workflow file, and the folder in which its steps run.

    ``job`` is a file with values of a CWL workflow's inputs.

    Raises
    ------
    UsageError
        There is no such file, or it can't be read.
    KaleError
        What it says is no workflow.
    """
    path = Path(name)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"{name} {what}.", "Name a notebook (.ipynb) or a workflow file (.yaml).")
    if path.suffix == ".ipynb":
        from kale_magic.dsl.notebook import read_notebook

        workflow = read_notebook(path)
    else:
        from kale_magic.formats.load import load as load_file

        workflow = load_file(path, job)
    return workflow, (path.resolve().parent / (workflow.directory or ".")).resolve()


def refuse_empty(workflow: Workflow, name: str) -> None:
    """Raise WorkflowError if a workflow has no step."""
    if not workflow.steps:
        raise WorkflowError(f"{name} declares no step.", "A step is a cell that begins with %%kale_step NAME.")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Declare, submit, wait with progress, and sum up."""
    from kale_magic.api.workflow import submit
    from kale_magic.client import Client
    from kale_magic.model import dataflow

    try:
        workflow, folder = read_workflow(arguments.file, arguments.job)
        refuse_empty(workflow, arguments.file)
        dataflow.resolve(workflow, wanted=dataflow.wanted_by(arguments.only, arguments.from_, arguments.to))
    except (WorkflowError, StepSyntaxError) as exc:  # the workflow's own fault, also where a step is unknown in it
        console.note(f"kale: {sentence(exc)}")
        return Exit.FAILED
    for option, names in (("--only", arguments.only), ("--from", arguments.from_), ("--to", arguments.to)):
        for name in names:
            if name not in workflow.steps:
                raise UsageError(
                    f"{option} names {name!r}, which is no step.", f"There are: {', '.join(workflow.steps)}."
                )
    if arguments.pool and (arguments.executor or arguments.engine != "kale"):
        raise UsageError("--pool excludes --executor and --engine.", "The executor of a pool was chosen when it was opened.")
    executor = arguments.executor
    if arguments.engine != "kale":
        executor = _engine(workflow, arguments)
        if arguments.gates == "continue":
            workflow = _without_gates(workflow)
    with Client.connect(host=arguments.host) as client:
        if arguments.dry_run:
            return _tell_what_would_run(client, workflow, folder, arguments, console)
        submitted = submit(
            workflow, client=client, folder=folder, name=arguments.name, only=arguments.only, from_=arguments.from_,
            to=arguments.to, params=dict(arguments.params), executor=executor,
            no_cache=arguments.no_cache or arguments.engine != "kale",  # the engine runs the whole workflow
            **({"pool": arguments.pool} if arguments.pool else {}),
        )  # fmt: skip
        return _see_through(client, submitted.name, arguments, console)


def _tell_what_would_run(
    client: Client, workflow: Workflow, folder: Path, arguments: argparse.Namespace, console: Console
) -> int:
    """Print which steps would run and why, and which are cached."""
    from kale_magic.api.workflow import check_params
    from kale_magic.model.codec import workflow_to_dict
    from kale_magic.model.literals import to_literal

    check_params(workflow, dict(arguments.params))
    steps = client.submit(
        workflow_to_dict(workflow), folder=folder, only=arguments.only, from_=arguments.from_, to=arguments.to,
        params={name: to_literal(value, name) for name, value in arguments.params},
        executor=arguments.executor or workflow.executor, no_cache=arguments.no_cache, dry=True,
        **({"pool": arguments.pool} if arguments.pool else {}),
    )["steps"]  # fmt: skip
    if console.is_json:
        console.data({"workflow": workflow.name, "steps": steps})
    for name, found in steps.items():
        console.say(f"{name}: {found['state']} ({found['why']})")
    return Exit.OK


def _engine(workflow: Workflow, arguments: argparse.Namespace) -> str:
    """Return the executor that has another engine run the workflow; raises UsageError for what that can't do."""
    engine: str = arguments.engine
    if arguments.executor:
        raise UsageError("--engine and --executor exclude each other.", f"{engine} runs the whole workflow.")
    if arguments.only or arguments.from_ or arguments.to:
        raise UsageError(f"{engine} runs the whole workflow.", "Leave out --only, --from and --to.")
    own = [step.name for step in workflow.steps.values() if step.executor]
    if own:
        raise UsageError(f"Step {own[0]} has --executor {workflow.steps[own[0]].executor}, but {engine} runs the whole workflow.")
    if not shutil.which(engine, path=f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"):
        raise UsageError(f"{engine} is not installed here.", f"pip install {engine}")
    return engine


def _without_gates(workflow: Workflow) -> Workflow:
    """Return the workflow in which gates are plain steps: the engine that runs it has nobody to ask."""
    steps = {name: replace(step, is_gate=False, is_gate_release=False) for name, step in workflow.steps.items()}
    return replace(workflow, steps=steps)


def _see_through(client: Client, name: str, arguments: argparse.Namespace, console: Console) -> int:
    """Follow a run that was just submitted to its end, and sum up."""
    from kale_magic.cli.follow import Progress, follow_run
    from kale_magic.cli.gates import GateNeedsPerson, Gates
    from kale_magic.cli.shapes import run_object

    progress = Progress(console)
    found = client.status(name)
    console.note(f"kale: run {name} in {found['folder']}")
    try:
        gates = Gates(client, console, arguments.gates)
        found = follow_run(client, name, 0, progress, arguments.timeout, gates.event)
    except GateNeedsPerson as exc:
        console.note(f"kale: {exc} The run is cancelled.")
        client.cancel(name)
        found = client.wait(name, timeout=_CANCELLED_S)
        if console.is_json:
            console.data(run_object(found))
        return Exit.GATE
    except KeyboardInterrupt:
        return _interrupted(client, name, console)
    if console.is_json:
        console.data(run_object(found))
    else:
        _sum_up(_with_notebooks_here(client, found), console)
    return Exit.OK if found["state"] == "completed" else Exit.FAILED


def _sum_up(found: dict[str, Any], console: Console) -> None:
    from kale_magic.cli.look import show_run

    show_run(found, console)
    notebooks = [path for path in executed_notebooks(found) if path.exists()]
    if notebooks:
        console.say("\nexecuted notebooks:")
        for path in notebooks[:_SHOWN_NOTEBOOKS]:
            console.say(f"  {_shortest(path)}")
        if len(notebooks) > _SHOWN_NOTEBOOKS:
            console.say(f"  ... {len(notebooks)} in all, in {_shortest(Path(found['folder']) / 'steps')}")


def _with_notebooks_here(client: Client, found: dict[str, Any]) -> dict[str, Any]:
    """Return a run's status with a folder here that has its executed notebooks."""
    if not client.host:
        return found
    from kale_magic.api import mirror

    return {**found, "folder": str(mirror.fetch(client, found["folder"], ("steps/*/step.ipynb", "steps/*/*/step.ipynb")))}


def executed_notebooks(found: dict[str, Any]) -> Iterator[Path]:
    """Yield where the executed notebook of each job of a run is."""
    for name, step in found["steps"].items():
        folder = Path(found["folder"]) / "steps" / name
        if (folder / "step.ipynb").exists():
            yield folder / "step.ipynb"
            continue
        for part in (folder / number for number in step["points"]) if step.get("points") else (folder,):
            yield part / "step.ipynb"


def _shortest(path: Path) -> str:
    """Return a path as it is shortest from here."""
    inside = Path.cwd()
    return str(path.relative_to(inside)) if path.is_relative_to(inside) else str(path)


def _interrupted(client: Client, name: str, console: Console) -> int:
    """Ask whether to cancel, if there is somebody to ask; else say that the run goes on."""
    goes_on = f"kale: the run goes on; look: jupyter kale status {name}, end it: jupyter kale cancel {name}"
    if console.is_asking:
        write(sys.stderr, f"\nkale: interrupted. Cancel run {name}? [y/N] ")
        try:
            is_cancel = input().strip().lower() in {"y", "yes"}
        except (EOFError, KeyboardInterrupt):
            is_cancel = False
            console.note("")
        if is_cancel:
            done = client.cancel(name)
            console.note(f"kale: cancelled {', '.join(done) or 'nothing: it had ended'}")
            return Exit.INTERRUPTED
    console.note(goes_on)
    return Exit.INTERRUPTED


def export(arguments: argparse.Namespace, console: Console) -> int:
    """Write a workflow in another form; what the form can't hold is said on stderr."""
    from kale_magic.formats.export import export as write_format
    from kale_magic.formats.native import dump

    workflow, folder = read_workflow(arguments.file)
    refuse_empty(workflow, arguments.file)
    run_folder = None
    if arguments.run is not None:
        workflow, run_folder = _of_run(arguments.run)
    if arguments.output == "-":
        if arguments.format != "kale":
            raise UsageError(f"{arguments.format} can't go to stdout.", "Name a file or folder: -o FILE.")
        write(sys.stdout, dump(workflow))
        return Exit.OK
    for warning in write_format(workflow, arguments.output, arguments.format, folder, run_folder):
        console.note(f"kale: warning: {warning}")
    count = len(workflow.steps)
    console.note(f"kale: {arguments.output}: workflow {workflow.name}, {count} step{'' if count == 1 else 's'}")
    return Exit.OK


def _of_run(name: str) -> tuple[Workflow, Path]:
    """Return the workflow as a run has it, and that run's folder."""
    from kale_magic.client import Client
    from kale_magic.formats.native import read

    with Client.connect() as client:
        folder = Path(client.status(name)["folder"])
    return read(folder / "workflow.yaml"), folder


def load(arguments: argparse.Namespace, console: Console) -> int:
    """Make a notebook of a workflow file."""
    import json

    from kale_magic.formats import to_notebook
    from kale_magic.formats.files import write_whole

    target = Path(arguments.output)
    if target.exists() and not arguments.force:
        raise UsageError(f"{target} exists.", "Give another name, or --force to overwrite it.")
    workflow, _ = read_workflow(arguments.file, arguments.job)
    write_whole(target, json.dumps(to_notebook(workflow), indent=1, ensure_ascii=False) + "\n")
    console.note(f"kale: {target}: workflow {workflow.name}")
    return Exit.OK


def check(arguments: argparse.Namespace, console: Console) -> int:
    """Read and resolve a workflow; exit code 1 if it could not be submitted."""
    from kale_magic.cli.advice import losses_of, warnings_of
    from kale_magic.model import dataflow

    workflow: Workflow | None = None
    problem: KaleError | None = None
    advice: list[str] = []
    lost: dict[str, list[str]] = {}
    try:
        workflow, folder = read_workflow(arguments.file)
        refuse_empty(workflow, arguments.file)
        advice = warnings_of(workflow, dataflow.resolve(workflow), folder)
        lost = losses_of(workflow)
    except (WorkflowError, StepSyntaxError) as exc:
        problem = exc
    except UsageError as exc:
        if not Path(arguments.file).is_file():
            raise
        problem = exc  # a word in a cell, not one on the command line
    errors = [sentence(problem)] if problem else []
    steps = list(workflow.steps) if workflow else []
    if console.is_json:
        name = workflow.name if workflow else None
        found = {"file": arguments.file, "workflow": name, "steps": steps, "errors": errors, "warnings": advice}
        console.data({**found, "formats": lost})
    for line in advice:
        console.say(f"warning: {line}")
    for line in (line for lines in lost.values() for line in lines):
        console.say(f"export: {line}")
    for line in errors:
        console.say(f"error: {line}")
    if not errors:
        count = f"{len(steps)} step{'' if len(steps) == 1 else 's'}"
        console.say(
            f"{arguments.file}: {count}, no errors, {len(advice) or 'no'} warning{'' if len(advice) == 1 else 's'}"
        )
    return Exit.FAILED if problem else Exit.OK
