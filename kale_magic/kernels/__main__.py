"""``python -m kale_magic.kernels``: what kernelspecs run, and how they are installed.

``attach STEP -f FILE`` visits a step, ``front -f FILE`` the steps that its commands name, ``job EXECUTOR -f FILE`` has its
kernel in a job; a front end starts them, mostly by :mod:`kale_magic.kernels.first`. Plain words and no provisioner, so that every front end can launch them, and a person too.
``install`` puts the general kernelspecs in place.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from kale_magic.kernels.first import listen


def main(argv: list[str] | None = None, listening: dict[str, int] | None = None) -> int:
    """Run the command line; return the exit code. ``listening`` are the descriptors of ports that are listened on already."""
    options = _parser().parse_args(argv)
    if "file" in options:
        options.listening = listen(str(options.file)) if listening is None else listening
    from kale_magic.errors import KaleError
    from kale_proxy.places import PlaceError
    from kale_proxy.relay_front import ConnectionFileError

    try:
        code: int = options.run(options)
    except (KaleError, ConnectionFileError, PlaceError) as exc:
        sys.stderr.write(f"kale: {exc}\n")
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kale_magic.kernels", allow_abbrev=False, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    attach = commands.add_parser("attach", help="be a kernel that visits a step, until the front end shuts it down")
    attach.add_argument("step", metavar="STEP", help="RUN/STEP or RUN/STEP[POINT]")
    kind = attach.add_mutually_exclusive_group()
    kind.add_argument("--write", action="store_true", help="names that a cell assigns become the step's")
    kind.add_argument("--main", action="store_true", help="queue behind the step's code")
    attach.add_argument("--host", default="", help="login host whose manager knows the step (a Host of your ssh configuration)")
    attach.set_defaults(run=_attach)
    relays = commands.add_parser("relays", help="be many such kernels, as lines on stdin ask for them")
    relays.set_defaults(run=_relays)
    job = commands.add_parser("job", help="be a kernel that runs in a job, which ends when the front end shuts it down")
    job.add_argument("executor", metavar="EXECUTOR", help="local, ...")
    job.set_defaults(run=_job)
    front = commands.add_parser("front", help="be a kernel that attaches to steps as its %%kale_ lines say")
    front.set_defaults(run=_front)
    for command in (attach, job, front):
        command.add_argument("-f", dest="file", type=Path, required=True, help="connection file, written by the front end")
    install = commands.add_parser("install", help="put Kale's general kernelspecs (kale, kale-local) where Jupyter finds them")
    place = install.add_mutually_exclusive_group(required=True)
    place.add_argument("--user", action="store_true", help="in your Jupyter folder")
    place.add_argument("--sys-prefix", action="store_true", help="in the environment of this Python")
    place.add_argument("--prefix", metavar="P", help="below this folder, in share/jupyter/kernels")
    install.set_defaults(run=_install)
    return parser


def _install(options: argparse.Namespace) -> int:
    from kale_magic.kernels import general

    for made in general.install(sys.prefix if options.sys_prefix else options.prefix):
        sys.stdout.write(f"{made.name}: {made.path}\n")
    return 0


def _relays(_: argparse.Namespace) -> int:
    from kale_magic.kernels import many

    many.main()
    return 0


def _attach(options: argparse.Namespace) -> int:
    from kale_magic.kernels.seek import Seeker
    from kale_magic.model.address import parse_address
    from kale_proxy.relay_serve import serve

    mode = "main" if options.main else "write" if options.write else "visit"
    name = str(parse_address(options.step))
    serve(options.file, name, Seeker(name, options.host), mode=mode, owner=_parent(), listening=options.listening)
    return 0


def _front(options: argparse.Namespace) -> int:
    from kale_magic.kernels.front_serve import serve

    serve(options.file, _parent(), options.listening)
    return 0


def _job(options: argparse.Namespace) -> int:
    from kale_magic.kernels.job import KernelJob
    from kale_proxy.relay_role import owner
    from kale_proxy.relay_serve import serve

    job, role = KernelJob(options.executor, options.file), owner()
    serve(options.file, "The job of this kernel", job, mode="main", owner=_parent(), role=role, listening=options.listening)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a front end that grows impatient; the job is being ended
    if role.is_restart and (role.is_passed_on or job.is_waiting):
        job.hand_over()
    elif role.is_done:
        job.end()
    else:
        job.close()
        sys.stderr.write(f"kale: the notebook has gone; its job {job.run} goes on until its walltime or until it is idle\n")
    return 0


def _parent() -> int | None:
    """Return the process with which a kernel ends: set by whoever wants that."""
    pid = os.environ.get("JPY_PARENT_PID", "")
    return int(pid) if pid.isdecimal() else None


if __name__ == "__main__":
    sys.exit(main())
