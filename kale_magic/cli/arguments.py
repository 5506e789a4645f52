"""The words of the command line: every command, its options and its help. Standard library only, quick to build."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from kale_magic.cli.exits import Exit
from kale_magic.model.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

_STEP = "STEP is fit, a sweep's point fit[2] or fit[metal=Al], or RUN/fit; bare, the newest run in or below this folder that has it."
_EPILOG = """\
exit codes: 0 ok; 1 the workflow or job failed; 2 wrong usage; 3 manager or queue not reachable; 4 timed out; 5 a gate needs a person.
Each command takes -h. Documentation: README.rst."""
_PARAMETER = re.compile(r"[A-Za-z_]\w*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose mistakes are one line that names the way out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with the exit code of wrong usage."""
        match = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if match:
            choices = [word.strip(" '") for word in match[2].split(",")]
            close = difflib.get_close_matches(match[1], choices, 1)
            way = f"did you mean {close[0]}?" if close else f"choose from {', '.join(choices)}"
            message = f"{message.split(':', maxsplit=1)[0]}: no {match[1]!r}; {way}"
        sys.stderr.write(f"kale: {message}\nkale: see {self.prog} -h\n")
        raise SystemExit(int(Exit.USAGE))


def build_parser() -> Parser:
    """Return the parser of ``jupyter kale``; a parsed command has ``handler``, as ``module:function`` below this package."""
    from kale_magic.version import __version__

    parser = Parser(
        prog="jupyter kale",
        description="Declare steps in notebook cells, run them as jobs with live kernels you can look into.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kale {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    _add_run_command(commands)
    _add_file_commands(commands)
    _add_look_commands(commands)
    _add_act_commands(commands)
    _add_open_command(commands)
    _add_kernels_commands(commands)
    report = _add(commands, "report", "report:report", "write a run as one HTML page")
    _add_host(report)
    report.add_argument("run", metavar="RUN", nargs="?", help="default: the newest in or below this folder")
    report.add_argument("-o", "--output", metavar="FILE.html", required=True, help="the file to write")
    _add_pool_commands(commands)
    _add_care_commands(commands)
    return parser


def _add(commands: Any, name: str, handler: str, does: str, *, json: bool = False, more: str = "") -> Parser:
    parser: Parser = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}. {more}".strip())
    parser.set_defaults(handler=handler, json=False)
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON object (a list for runs and queue)")
    return parser


def _add_run_command(commands: Any) -> None:
    run = _add(
        commands, "run", "workflow:run", "run a workflow and wait for it", json=True,
        more="Of a notebook, the %%kale_ cells are read; nothing of the notebook itself is run.",
    )  # fmt: skip
    _add_host(run)
    run.add_argument("file", metavar="NOTEBOOK|YAML")
    run.add_argument("--executor", metavar="E", help="where the jobs run, if a step does not say")
    run.add_argument(
        "--params",
        metavar="N=V",
        nargs="+",
        action="extend",
        type=parameter,
        default=[],
        help="replace parameters: n=10 name='x y'",
    )
    run.add_argument("--only", metavar="A,B", type=names, action="extend", default=[], help="run these steps alone")
    run.add_argument(
        "--from",
        metavar="A",
        dest="from_",
        type=names,
        action="extend",
        default=[],
        help="run these and what depends on them",
    )
    run.add_argument("--to", metavar="B", type=names, action="extend", default=[], help="run what leads up to these")
    run.add_argument("--pool", metavar="P", help="the open pool into which steps go that name no executor")
    run.add_argument("--no-cache", action="store_true", help="run also what an earlier run computed the same")
    run.add_argument("--dry-run", action="store_true", help="say what would run and why, and what is cached; nothing runs")
    run.add_argument(
        "--engine", choices=["kale", "snakemake", "cwltool"], default="kale",
        help="have this workflow software run it all; states, logs and outputs are as for any run",
    )  # fmt: skip
    run.add_argument("--job", metavar="JOB", help="of a CWL workflow: the values of its inputs, as YAML or JSON")
    run.add_argument("--name", metavar="RUN", help="the run's id")
    run.add_argument(
        "--gates",
        choices=["fail", "continue", "wait"],
        help="what to do at a gate: cancel the run (exit code 5; the default without a terminal), let it go on, or wait for a person",
    )
    run.add_argument("--timeout", metavar="S", type=seconds, help="stop waiting (exit code 4); the run goes on")


def _add_file_commands(commands: Any) -> None:
    export = _add(
        commands,
        "export",
        "workflow:export",
        "write the workflow of a notebook as YAML, or in the format of another engine",
        more="Runs nothing of the notebook.",
    )
    export.add_argument("file", metavar="NOTEBOOK|YAML")
    export.add_argument("-o", "--output", metavar="FILE", required=True, help="- is stdout")
    export.add_argument(
        "--format", choices=FORMATS, default="kale",
        help="kale (the default), or what another engine runs; one that takes several files makes a folder",
    )  # fmt: skip
    export.add_argument("--run", metavar="RUN", help="the workflow as this run has it; wfformat takes its times along")
    load = _add(commands, "import", "workflow:load", "make a notebook of a workflow file: Kale's YAML, CWL, or WfFormat's JSON")
    load.add_argument("file", metavar="FILE")
    load.add_argument("-o", "--output", metavar="NOTEBOOK", required=True, help="the notebook to write")
    load.add_argument("--job", metavar="JOB", help="of a CWL workflow: the values of its inputs, as YAML or JSON")
    load.add_argument("--force", action="store_true", help="overwrite the notebook if there is one")
    check = _add(
        commands, "check", "workflow:check", "read a workflow and say what is wrong with it", json=True,
        more="Exit code 1 if it could not be submitted; warnings don't count.",
    )  # fmt: skip
    check.add_argument("file", metavar="NOTEBOOK|YAML")


def _add_host(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", metavar="H", default="", help="the manager there is meant: a Host of your ssh configuration")


def _add_look_commands(commands: Any) -> None:
    status = _add(commands, "status", "look:status", "show a run: its steps and their states", json=True)
    _add_host(status)
    status.add_argument("run", metavar="RUN", nargs="?", help="default: the newest in or below this folder")
    runs = _add(commands, "runs", "look:runs", "list the runs in or below this folder, newest first", json=True)
    _add_host(runs)
    runs.add_argument("--diff", metavar=("A", "B"), nargs=2, help="tell in what two runs differ")
    runs.add_argument("--all", action="store_true", help="the runs of all folders")
    runs.add_argument("--limit", metavar="N", type=count, default=50, help="at most so many (default 50)")
    queue = _add(commands, "queue", "look:queue", "show what runs and what waits, and why", json=True)
    _add_host(queue)
    queue.add_argument("--executor", metavar="E", help="the queue of this batch system itself, your jobs: slurm")
    queue.add_argument("--all", action="store_true", help="everybody's jobs in it")
    logs = _add(commands, "logs", "look:logs", "print what a step printed", more=_STEP)
    _add_host(logs)
    logs.add_argument("step", metavar="STEP")
    kind = logs.add_mutually_exclusive_group()
    kind.add_argument("--stderr", action="store_true", help="its stderr instead of its stdout")
    kind.add_argument("--script", action="store_true", help="its job script")
    logs.add_argument("--tail", metavar="N", type=count, help="the last N lines only")
    logs.add_argument("--follow", action="store_true", help="go on printing until the step has ended")
    wait = _add(
        commands,
        "wait",
        "look:wait",
        "wait until a run or a step has ended",
        json=True,
        more="Exit code 1 if it did not end well.",
    )
    _add_host(wait)
    wait.add_argument("what", metavar="RUN|STEP", nargs="?", help="default: the newest run in or below this folder")
    wait.add_argument("--timeout", metavar="S", type=seconds, help="longest wait (exit code 4)")


def _add_act_commands(commands: Any) -> None:
    cancel = _add(commands, "cancel", "act:cancel", "end a run or a step", json=True, more=_STEP)
    _add_host(cancel)
    cancel.add_argument("what", metavar="STEP|RUN")
    stop = _add(commands, "stop", "act:stop", "interrupt a step's code; its kernel stays for a look", more=_STEP)
    _add_host(stop)
    stop.add_argument("step", metavar="STEP")
    hold = _add(commands, "hold", "act:hold", "keep a step that is in the queue from starting", more=_STEP)
    _add_host(hold)
    hold.add_argument("step", metavar="STEP")
    release = _add(commands, "release", "act:release", "let a held step go on", more=_STEP)
    _add_host(release)
    release.add_argument("step", metavar="STEP")
    pause = _add(commands, "pause", "steer:pause", "hold a step's code still; its kernel answers visitors meanwhile", more=_STEP)
    _add_host(pause)
    pause.add_argument("step", metavar="STEP")
    pause.add_argument("--for", metavar="TIME", dest="for_", type=age, help="it goes on by itself after this: 2h, 30m (default 7d)")
    pause.add_argument("--freeze", action="store_true", help="stop all its processes instead, which also stops its kernel")
    resume = _add(commands, "resume", "steer:resume", "let a paused step go on", more=_STEP)
    _add_host(resume)
    resume.add_argument("step", metavar="STEP")
    proceed = _add(commands, "continue", "steer:proceed", "let a step go on that waits for a person", more=_STEP)
    _add_host(proceed)
    proceed.add_argument("step", metavar="STEP")
    proceed.add_argument("--set", metavar="N=V", nargs="+", action="extend", type=parameter, default=[], help="what was decided: x=3")
    proceed.add_argument("--answer", metavar="TEXT", help="what input() in the step returns; asked for on a terminal if left out")
    rerun = _add(
        commands, "rerun", "steer:rerun", "run a step again, what it needs being taken from the earlier run", json=True, more=_STEP
    )  # fmt: skip
    _add_host(rerun)
    rerun.add_argument("step", metavar="STEP")
    rerun.add_argument("--params", metavar="N=V", nargs="+", action="extend", type=parameter, default=[], help="other parameters: n=5")
    rerun.add_argument("--downstream", action="store_true", help="also run what depends on it")
    rerun.add_argument("--from-start", action="store_true", help="do not go on from its checkpoint")
    rerun.add_argument("--executor", metavar="E", help="where it runs, if not where the earlier run did")
    rerun.add_argument("--pool", metavar="P", help="the open pool in which it runs")
    push = _add(
        commands, "push", "steer:push", "give values to a step: live parameters, variables, edited outputs", json=True, more=_STEP
    )  # fmt: skip
    push.add_argument("step", metavar="STEP")
    _add_host(push)
    push.add_argument("--staged", metavar="FOLDER", help="take values also from a folder in which a push from another host has put them; it is removed then")
    push.add_argument("values", metavar="N=V", nargs="*", type=pushed, help="n=10 name='x y'; of a file that the step made, out.csv=FILE")
    attach = _add(
        commands,
        "attach",
        "act:attach",
        "work in a running step's kernel",
        more=f"It can't disturb the step. {_STEP}",
    )
    _add_host(attach)
    attach.add_argument("step", metavar="STEP")
    how = attach.add_mutually_exclusive_group(required=True)
    how.add_argument("--console", action="store_true", help="open Jupyter's console on it")
    attach.add_argument("--rank", metavar="N", type=int, default=0, help="of an MPI step, the process meant (default 0)")
    how.add_argument("--exec", metavar="CODE", dest="code", help="run this and print what it prints; - reads it from stdin")
    attach.add_argument(
        "--timeout",
        metavar="S",
        type=seconds,
        default=600.0,
        help="longest wait for the step to start, and for the code (default 600)",
    )


def _add_open_command(commands: Any) -> None:
    open_ = _add(
        commands, "open", "kernels:open_", "make a notebook in a running step's own kernel", json=True,
        more=f"It has the step's description, parameters and inputs, a log cell and a plot cell. {_STEP}",
    )  # fmt: skip
    _add_host(open_)
    open_.add_argument("step", metavar="STEP")
    open_.add_argument("-o", metavar="FILE", dest="file", help="where to, a file or a folder (default: STEP.ipynb, here)")
    open_.add_argument("--template", metavar="FILE", help="begin with this notebook instead of Kale's template")
    _add_modes(open_)


def _add_modes(parser: Parser) -> None:
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--write", action="store_true", help="names that a cell assigns become the step's")
    kind.add_argument("--main", action="store_true", help="queue behind the step's code instead of running beside it")


def _add_kernels_commands(commands: Any) -> None:
    does = "kernels that open a notebook or console on a running step"
    kernels = commands.add_parser("kernels", help=does, description=f"{does[0].upper()}{does[1:]}.")
    parts = kernels.add_subparsers(dest="part", metavar="COMMAND", title="commands", required=True)
    listed = _add(parts, "list", "kernels:list_", "list them, and the general ones such as kale-local: name and folder", json=True)
    install = _add(parts, "install", "kernels:install", "make the kernel of a step", json=True, more=_STEP)
    _add_host(install)
    install.add_argument("step", metavar="STEP")
    _add_modes(install)
    remove = _add(parts, "remove", "kernels:remove", "remove one, or all whose run is over")
    remove.add_argument("name", metavar="NAME", nargs="?", help="as list shows it, or RUN/STEP")
    remove.add_argument("--stale", action="store_true", help="all whose run is over")
    for part in (listed, install, remove):
        place = part.add_mutually_exclusive_group()
        place.add_argument("--prefix", metavar="P", help="in this environment instead of your Jupyter folder")
        place.add_argument("--sys-prefix", action="store_true", help="in the environment of this Python")


def _add_pool_commands(commands: Any) -> None:
    does = "allocations that are kept open: steps go in without queueing"
    pool = commands.add_parser("pool", help=does, description=f"{does[0].upper()}{does[1:]}.")
    parts = pool.add_subparsers(dest="part", metavar="COMMAND", title="commands", required=True)
    open_ = _add(parts, "open", "pool:open_", "open a pool", json=True)
    open_.add_argument("name", metavar="NAME")
    open_.add_argument("--executor", metavar="E", default="slurm", help="where its allocation comes from: slurm (the default) or local")
    for name, what in (("nodes", "nodes"), ("cpus", "CPUs of each node"), ("gpus", "GPUs of each node")):
        open_.add_argument(f"--{name}", metavar="N", type=count, help=what)
    open_.add_argument("--memory", metavar="4GB", help="memory of each node")
    open_.add_argument("--walltime", metavar="00:30:00", help="how long it is open at most, in Slurm's forms")
    for name in ("queue", "account", "qos", "constraint", "reservation"):
        open_.add_argument(f"--{name}", metavar=name[0].upper(), help=f"as for a step: {name}")
    open_.add_argument("--native", metavar="LINE", action="append", help="a line for the batch system as it stands")
    listed = _add(parts, "list", "pool:list_", "list them: state, nodes, time left, what runs in them", json=True)
    close = _add(parts, "close", "pool:close", "close a pool when what was submitted to it has ended", json=True)
    close.add_argument("name", metavar="NAME")
    close.add_argument("--now", action="store_true", help="cancel that instead")
    for part in (open_, listed, close):
        _add_host(part)


def _add_care_commands(commands: Any) -> None:
    manager = commands.add_parser(
        "manager",
        help="the process that keeps track of your runs",
        description="The process that keeps track of your runs.",
    )
    parts = manager.add_subparsers(dest="part", metavar="COMMAND", title="commands", required=True)
    _add_host(_add(parts, "start", "care:start", "start the manager, if none runs", json=True))
    _add_host(_add(parts, "stop", "care:stop", "end the manager; jobs go on, and the next command starts one"))
    _add_host(_add(parts, "status", "care:manager_status", "say whether it runs, and where", json=True))
    logs = _add(parts, "logs", "care:manager_logs", "print what it wrote to its log")
    logs.add_argument("--tail", metavar="N", type=count, help="the last N lines only")
    doctor = _add(commands, "doctor", "doctor:doctor", "check every part and say what to mend", json=True)
    _add_host(doctor)
    doctor.add_argument("--executor", metavar="E", help="run a job of one line there, and see it through: slurm")
    doctor.add_argument(
        "--install",
        metavar="PACKAGE",
        nargs="*",
        help="make a Python environment with Kale on the host, of what this machine brings along, and these packages: numpy 'scipy>=1.14'",
    )
    gc = _add(commands, "gc", "gc:collect", "remove the folders of old runs in or below this folder", json=True)
    gc.add_argument(
        "--older-than",
        metavar="AGE",
        type=age,
        default=30 * 86400.0,
        help="ended so long ago: 30d (the default), 12h, 2w",
    )
    gc.add_argument("--yes", action="store_true", help="don't ask")


def names(text: str) -> list[str]:
    """Read ``A,B``."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of steps such as relax,fit")
    return found


def parameter(text: str) -> tuple[str, object]:
    """Read ``n=10``: the name and the value, a Python literal where it is one."""
    from kale_magic.model.literals import literal_or_text

    name, sign, value = text.partition("=")
    if not sign or not _PARAMETER.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{text!r} is no parameter; write n=10 (and NOTEBOOK before --params)")
    return name, literal_or_text(value)


def pushed(text: str) -> tuple[str, object]:
    """Read ``n=10`` as :func:`parameter`, or ``out.csv=FILE``: names of a file that a step made, and of the one to put in its place."""
    name, sign, path = text.partition("=")
    if sign and path and ("." in name or "/" in name):
        return name, path
    return parameter(text)


def seconds(text: str) -> float:
    """Read a time to wait."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def count(text: str) -> int:
    """Read how many."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def age(text: str) -> float:
    """Read ``30d``, ``12h``, ``2w``; a bare number is days."""
    match = re.fullmatch(r"(\d+)\s*([smhdw]?)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write 30d, 12h or 2w")
    return float(int(match[1]) * _SECONDS[match[2] or "d"])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with code 2 and one line on stderr when it is wrong."""
    return build_parser().parse_args(argv)
