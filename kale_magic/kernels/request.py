"""What the job of a notebook's kernel asks for: from the kernelspec's metadata, and from the environment, which wins.

``metadata.kale.resources`` of the kernelspec has the keys of ``resources`` in a workflow file, and ``idle``:
``{"cpus": 2, "memory": "4GB", "walltime": "01:00:00", "idle": "01:00:00"}``. Each is also a variable:
``KALE_KERNEL_CPUS``, ``KALE_KERNEL_MEMORY``, ...
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kale_magic.errors import FormatError, StepSyntaxError, UsageError
from kale_magic.model.codec import SCHEMA_ID, workflow_from_dict
from kale_magic.model.resources import parse_memory, parse_walltime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "KALE_KERNEL_"
IDLE = "01:00:00"
_COUNTS = ("nodes", "ntasks", "cpus", "gpus")
_WORDS = ("queue", "account", "qos", "constraint", "reservation")
_FORMS: dict[str, tuple[Callable[[str], object], str]] = {
    **dict.fromkeys(_COUNTS, (int, "a whole number")),
    "memory": (parse_memory, "an amount of memory such as 4GB"),
    "walltime": (parse_walltime, "a time such as 01:00:00"),
    "idle": (parse_walltime, "a time such as 01:00:00"),
}


def kernel_workflow(executor: str, kernel: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the workflow whose only step is the kernel of a notebook.

    Parameters
    ----------
    executor : str
        Where it will run.
    kernel : str
        The kernelspec that was started; ``kale-EXECUTOR`` if empty.
    environ : mapping of str to str
        Of the launcher.

    Raises
    ------
    UsageError
        The metadata or a variable asks for something that can't be read; the message names it.
    """
    name = kernel or f"kale-{executor}"
    asked = {"idle": IDLE, **_of_kernelspec(name)}
    workflow = _workflow(asked, environ)
    try:
        workflow_from_dict(workflow)
    except FormatError as exc:
        place = exc.message.removeprefix("steps.kernel.").removeprefix("resources.")
        raise UsageError(f"The kernelspec {name} asks for what can't be read: {place}", "Mend metadata.kale.resources in its kernel.json.") from exc
    return _workflow(asked | of_environment(environ), environ)


def of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what the variables ask for; raises UsageError for a value that can't be read."""
    found: dict[str, Any] = {}
    for name in (*_FORMS, *_WORDS):
        text = environ.get(variable := PREFIX + name.upper(), "").strip()
        if not text:
            continue
        found[name] = text
        if name in _FORMS:
            read, form = _FORMS[name]
            try:
                value = read(text)
            except (ValueError, StepSyntaxError) as exc:
                raise UsageError(f"{variable}={text!r} is not {form}.") from exc
            if isinstance(value, int) and value < (name != "gpus"):
                raise UsageError(f"{variable}={text!r} is not {form} above 0.")
            found[name] = value if name in _COUNTS else text
    known = {PREFIX + name.upper() for name in (*_FORMS, *_WORDS)}
    if unknown := sorted(name for name in environ if name.startswith(PREFIX) and name not in known):
        raise UsageError(f"{unknown[0]} is not known.", f"There are: {', '.join(sorted(known))}.")
    return found


def _workflow(asked: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    notebook = os.path.basename(environ.get("JPY_SESSION_NAME", ""))
    resources = {name: value for name, value in asked.items() if name != "idle"}
    step = {"description": f"The kernel of {notebook}." if notebook else "The kernel of a notebook.", "resources": resources, "idle": asked["idle"]}
    return {"schema": SCHEMA_ID, "name": "notebook", "steps": {"kernel": {**step, "code": ""}}}


def _of_kernelspec(name: str) -> dict[str, Any]:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        metadata = KernelSpecManager().get_kernel_spec(name).metadata
    except (NoSuchKernel, ValueError):
        return {}
    kale = metadata.get("kale")
    resources = kale.get("resources", {}) if isinstance(kale, dict) else {}
    if not isinstance(resources, dict):
        raise UsageError(f"metadata.kale.resources of the kernelspec {name} holds names with values.", 'Write {"cpus": 2, "memory": "4GB"}.')
    return {str(key): value for key, value in resources.items()}
