"""Makes the notebook that looks into a step: from a template, on the step's own kernelspec, in a new file.

A file that is there is never written to: one that was made for the same step is kept, and beside another one the new one gets a number.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kale_magic import config
from kale_magic.errors import UsageError, WorkflowError
from kale_magic.formats import native
from kale_magic.kernels import specs
from kale_magic.kernels.template import fill
from kale_magic.model import dataflow

if TYPE_CHECKING:
    from kale_magic.api.find import Target
    from kale_magic.kernels.specs import Spec
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow

_NUMBERS = 1000


class Asks(specs.Lists, Protocol):
    """The part of :class:`kale_magic.client.Client` that is used here."""

    def status(self, run: str | None = None) -> dict[str, Any]:
        """Return a run's status."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A notebook on a step: its file, its kernel, and whether it was made now (else it was there and was kept)."""

    path: Path
    spec: Spec
    is_new: bool


def open_notebook(
    client: Asks, target: Target, *, folder: Path, file: Path | None = None, template: Path | None = None, mode: str = "visit"
) -> Opened:
    """Make the notebook of a step, and its kernelspec.

    Parameters
    ----------
    client : Client
        Asked for the run.
    target : Target
        One job that has, or will have, a kernel.
    folder : Path
        Where the notebook goes, named after the step.
    file : Path, optional
        Another place: a file, or a folder.
    template : Path, optional
        The person's own; Kale's if none is given.
    mode : str
        ``visit``, ``write`` or ``main``.

    Raises
    ------
    UsageError
        ``file`` is something else already, can't be written or is no notebook's name; the template is no notebook.
    FormatError
        The run's workflow can't be read.
    """
    source = read_template(template)
    workflow = native.read(Path(client.status(target.run)["folder"]) / "workflow.yaml")
    step = workflow.steps[target.step]
    path, is_new = _choose(folder, file, target)
    spec = specs.install(client, target, mode=mode)
    if is_new:
        language = _language(step)
        made = fill(source, facts(workflow, step, target), language)
        kernelspec = {"name": spec.name, "display_name": spec.display_name, "language": language}
        made["metadata"] = {"kernelspec": kernelspec, "language_info": {"name": language}, "kale": {"opens": str(target)}}
        _write(path, made)
    return Opened(path=path, spec=spec, is_new=is_new)


def link(opened: Opened, here: Path) -> dict[str, str]:
    """Return a mime bundle of one line that says what there is; ``here`` is where the notebook that shows it is."""
    from urllib.parse import quote

    from kale_magic.render.words import escape

    shown = os.path.relpath(opened.path, here)
    step = opened.spec.step
    said = f"made for {step}" if opened.is_new else f"was made for {step} before and is kept as it is"
    return {
        "text/plain": f"{shown} {said}; open it: jupyter lab {shlex.quote(shown)}",
        "text/html": f'<a href="{escape(quote(shown))}" target="_blank">{escape(shown)}</a> {escape(said)}: a click opens it in the step\'s kernel.',
    }


def facts(workflow: Workflow, step: Step, target: Target) -> dict[str, Any]:
    """Return what a template's placeholders stand for; see :data:`kale_magic.kernels.template.PLACEHOLDERS`."""
    parameters = {**step.params, **(step.points()[target.point] if target.point is not None and step.is_sweep else {})}
    try:
        bindings = dataflow.resolve(workflow, wanted=[step.name]).steps[step.name].bindings
        inputs = {b.name: b.producer + (f" (a list, one of each of its {workflow.steps[b.producer].point_count} points)" if b.gather else "") for b in bindings}
    except WorkflowError:  # a run of some steps alone may have been given what the whole workflow lacks
        inputs = {name.rpartition(".")[2]: name.rpartition(".")[0] or "another step" for name in step.inputs}
    described = (step.description, workflow.markdown.get(step.name, ""))
    return {
        "address": str(target),
        "run": target.run,
        "step": target.label,
        "workflow": workflow.name,
        "state": target.state,
        "description": "\n\n".join(filter(None, described)),
        "code": step.code,
        "folder": str(target.folder),
        "parameters": parameters,
        "inputs": inputs,
        "given": tuple(dict.fromkeys([*parameters, *inputs])),
        "outputs": step.outputs,
    }


def template_file(given: str | None) -> Path | None:
    """Return the template to use: the one that was given, else the setting ``[open] template``; None is Kale's own."""
    return config.load().open_template if given is None else Path(os.path.expanduser(given))


def read_template(path: Path | None) -> dict[str, Any]:
    """Return a template as a notebook in format 4; raises UsageError if it is none."""
    import nbformat

    if path is None:
        text = resources.files("kale_magic.kernels").joinpath("templates/step.ipynb").read_text(encoding="utf-8")
        return dict(json.loads(text))
    way_out = "A template is a notebook with {{step}}, {{description}} and so on in its cells."
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except OSError as exc:
        raise UsageError(f"The template {path} can't be read: {exc.strerror}.", way_out) from exc
    except Exception as exc:  # nbformat's own, json's, Unicode's
        raise UsageError(f"The template {path} is no notebook.", way_out) from exc
    return dict(json.loads(nbformat.writes(notebook)))


def _choose(folder: Path, file: Path | None, target: Target) -> tuple[Path, bool]:
    """Return the file, and whether it is to be made."""
    name = target.step if target.point is None else f"{target.step}-point{target.point}"
    if file is not None and not file.is_dir():
        path = file if file.suffix else file.with_suffix(".ipynb")
        if path.suffix != ".ipynb":
            raise UsageError(f"{file} is no notebook's name.", f"Write {file.with_suffix('.ipynb')}.")
        if not os.path.lexists(path):
            return path, True
        if _opens(path) == str(target):
            return path, False
        raise UsageError(f"{path} is there already, and was not made for {target}.", "Give another -o FILE.")
    home = folder if file is None else file
    for number in range(1, _NUMBERS):
        path = home / (f"{name}.ipynb" if number == 1 else f"{name}-{number}.ipynb")
        if not os.path.lexists(path):
            return path, True
        if _opens(path) == str(target):
            return path, False
    raise UsageError(f"There are {_NUMBERS} notebooks {name}-N.ipynb in {home}.", "Give another -o FILE.")


def _opens(path: Path) -> str:
    """Return the step that a notebook was made for; empty if for none of ours."""
    try:
        return str(json.loads(path.read_bytes())["metadata"]["kale"]["opens"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write(path: Path, notebook: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            json.dump(notebook, stream, indent=1, ensure_ascii=False)
            stream.write("\n")
    except OSError as exc:
        raise UsageError(f"{path} can't be written: {exc.strerror}.", "Give another -o FILE.") from exc


def _language(step: Step) -> str:
    """Return what a step's kernel speaks, as far as the kernels that are installed here tell."""
    if step.kernel is None:
        return "python"
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        found: str = KernelSpecManager().get_kernel_spec(step.kernel).language
    except (NoSuchKernel, ValueError):
        found = ""
    return found or ("python" if "python" in step.kernel.lower() else step.kernel)
