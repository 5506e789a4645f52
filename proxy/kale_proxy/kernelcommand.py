"""The command by which a kernel that is not our own is started: by its kernelspec, or in the step's container."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kale_proxy import container

if TYPE_CHECKING:
    from pathlib import Path

    from kale_proxy.spec import JobSpec


class CannotStart(Exception):  # noqa: N818 - an outcome
    """There is no such kernel here; the message says so in one sentence."""


@dataclass(frozen=True, slots=True)
class KernelCommand:
    """What is run, with which environment, and how it is interrupted (jupyter_client's ``interrupt_mode``)."""

    argv: list[str]
    environ: dict[str, str]
    interrupt_mode: str = "signal"


def kernel_command(spec: JobSpec, live: Path, connection_file: Path) -> KernelCommand:
    """Return how the kernel of a step is started; raises CannotStart."""
    if spec.container is not None:
        words = ["python3", "-m", "ipykernel_launcher", "-f", str(connection_file), "--HistoryManager.enabled=False"]
        try:
            return KernelCommand(*container.wrap(spec, live, words, os.environ))
        except container.ContainerError as exc:
            raise CannotStart(str(exc)) from exc
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        found = KernelSpecManager().get_kernel_spec(spec.kernel or "python3")
    except NoSuchKernel as exc:
        raise CannotStart(f"the kernel {spec.kernel} is not installed here: see `jupyter kernelspec list`") from exc
    argv = [part.format(connection_file=str(connection_file), resource_dir=found.resource_dir) for part in found.argv]
    if argv[0] in {"python", "python3", f"python3.{sys.version_info[1]}"}:
        argv[0] = sys.executable  # as jupyter_client does: the kernelspec of this very environment
    environ = {**os.environ, **{name: os.path.expandvars(text) for name, text in found.env.items()}}
    return KernelCommand(argv, environ, found.interrupt_mode)
