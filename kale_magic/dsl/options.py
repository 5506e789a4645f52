"""The table of all magics' words: positionals, options, their help. One place for parsing, ``-h`` and Tab.

Owns what exists and how it is said; :func:`parse` applies it. Called by the magics, the completer, the notebook
reader and the command line. Names of magics are without ``kale_``; a cell magic that differs from the line
magic of its name has a table of its own (``submit_cell``, ``attach_line``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from kale_magic.model.formats import FORMATS

if TYPE_CHECKING:
    from types import SimpleNamespace


class Kind(StrEnum):
    """How the words after an option are read."""

    FLAG = "flag"
    TEXT = "text"
    TEXTS = "texts"  # the option may be given several times
    NAMES = "names"  # A,B
    COUNT = "count"
    MEMORY = "memory"
    WALLTIME = "walltime"
    SECONDS = "seconds"
    PAIRS = "pairs"  # n=10 name='x y'
    EACH = "each"  # p=EXPR
    ENV = "env"  # K=V
    CHOICE = "choice"


class Option(NamedTuple):
    """One option: ``--name`` (``-o`` if it is short), what stands after it, and a line of help. ``least`` is a count's lowest value."""

    name: str
    kind: Kind
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    least: int = 1
    is_short: bool = False

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return f"-{self.name}" if self.is_short else f"--{self.name}"

    @property
    def attribute(self) -> str:
        """Its name in what :func:`parse` returns (``from_`` for ``--from``)."""
        name = self.name.replace("-", "_")
        return f"{name}_" if name in {"from", "as", "for"} else name


class Positional(NamedTuple):
    """A word without dashes; ``is_rest`` takes all that are left."""

    name: str
    help: str
    is_required: bool = True
    is_rest: bool = False
    choices: tuple[str, ...] = ()


class Spec(NamedTuple):
    """What one magic takes."""

    does: str
    positionals: tuple[Positional, ...] = ()
    options: tuple[Option, ...] = ()
    sign: str = "%"


class HelpRequested(Exception):  # noqa: N818 - no error: the user asked
    """``-h`` stands on the line; the text is the help to print."""


_EXECUTOR = Option("executor", Kind.TEXT, "where jobs run: local, ...", "E")
_DECLARE = (
    Option("after", Kind.NAMES, "steps that must complete before", "A,B"),
    Option("inputs", Kind.NAMES, "values it takes from other steps: x, or relax.x where several make x", "x,up.y"),
    Option("outputs", Kind.NAMES, "names of its values that other steps may use", "u,v"),
    Option("formats", Kind.PAIRS, "forms in which outputs are written, for other languages: json, npy, csv or parquet", "t=csv u=npy"),
    Option("params", Kind.PAIRS, "variables it starts with; environment variables of a shell step", "n=10 name='x y'"),
    Option("each", Kind.EACH, "one job per value: a list, range(..), linspace(..) or logspace(..)", "p=EXPR"),
    Option("zip", Kind.FLAG, "walk several --each side by side instead of taking their product"),
    Option("files-in", Kind.NAMES, "files it needs, relative to the workflow's folder", "GLOB"),
    Option("files-out", Kind.NAMES, "files it makes", "GLOB"),
    Option("kernel", Kind.TEXT, "run the cell in another installed kernel", "NAME"),
    Option("shell", Kind.FLAG, "the cell is a bash script"),
    Option("notebook", Kind.TEXT, "run this notebook, by papermill's convention; the cell is empty", "FILE.ipynb"),
    Option("gate", Kind.FLAG, "wait for a person before the cell, its inputs loaded: %kale_open, then %kale_continue"),
    Option("gate-release", Kind.FLAG, "wait for a person before it is queued: nothing is allocated meanwhile, and no kernel"),
)
_RESOURCES = (
    Option("nodes", Kind.COUNT, "nodes", "N"),
    Option("ntasks", Kind.COUNT, "tasks (MPI ranks)", "N"),
    Option("cpus", Kind.COUNT, "CPUs per task", "N"),
    Option("gpus", Kind.COUNT, "GPUs per node", "N", least=0),
    Option("memory", Kind.MEMORY, "memory per node; 4GB is 4096 MiB, as in Slurm", "4GB"),
    Option("walltime", Kind.WALLTIME, "time limit, in Slurm's forms", "00:30:00"),
    Option("queue", Kind.TEXT, "queue or partition", "Q"),
    Option("account", Kind.TEXT, "account to charge", "A"),
    Option("qos", Kind.TEXT, "quality of service", "Q"),
    Option("constraint", Kind.TEXT, "node features", "C"),
    Option("reservation", Kind.TEXT, "reservation", "R"),
    Option("native", Kind.TEXTS, "a line for the batch system as it stands", "'#SBATCH line'"),
    Option("modules", Kind.NAMES, "environment modules to load", "m1,m2"),
    Option("env", Kind.ENV, "environment variables", "K=V"),
    Option("setup", Kind.TEXTS, "a shell line to run before the step", "'source x'"),
    Option("container", Kind.TEXT, "run it in this image (Apptainer, Singularity or Charliecloud)", "IMAGE.sif"),
    Option("retries", Kind.COUNT, "how often to try again after a failure", "N", least=0),
    Option("hold", Kind.WALLTIME, "how long its kernel stays for a look after %kale_stop (10m if not said)", "30m"),
    Option("hold-on-failure", Kind.WALLTIME, "how long its kernel stays for a look after it has failed", "30m"),
    Option("warn", Kind.WALLTIME, "how long before its walltime ends it is told to save (2m if not said)", "5m"),
    Option("reuse-kernel", Kind.FLAG, "run the points of --each one after another in kernels that stay warm"),
    Option("no-cache", Kind.FLAG, "run it although nothing it depends on has changed"),
    _EXECUTOR,
    Option("tags", Kind.NAMES, "words to find the step by", "t1,t2"),
)
_STEP_OPTIONS = (*_DECLARE, *_RESOURCES)
PARTS = ("dag", "step", "logs", "plots", "pools", "queue", "resources", "ssh")  # of the dashboard
_OF_A_POOL = ("nodes", "cpus", "gpus", "memory", "walltime", "queue", "account", "qos", "constraint", "reservation", "native")
_POOL = Option("pool", Kind.TEXT, "the open pool into which steps go without queueing, if they name no executor", "P")
_NAME = Positional("NAME", "the step's name: a letter, then letters, digits, _ or -")
_HOST = Option("host", Kind.TEXT, "the step is of the manager there: a Host of your ssh configuration", "H")
_STEP = Positional("STEP", "fit, fit[2], fit[metal=Al] or RUN/fit")
_RUN = Positional("RUN", "a run's id; the newest if left out", is_required=False)

SPECS: dict[str, Spec] = {
    "workflow": Spec(
        "Start or select a workflow; bare: show it.",
        (Positional("NAME", "the workflow's name", is_required=False),),
        (
            _EXECUTOR,
            Option("host", Kind.TEXT, "login host whose manager runs it: a Host of your ssh configuration; '' is this machine", "H"),
            Option("dir", Kind.TEXT, "folder of the workflow and its runs", "PATH"),
            Option("describe", Kind.TEXT, "a line of description", "TEXT"),
            Option("remove", Kind.NAMES, "steps to take out, as if they had not been declared", "A,B"),
        ),
    ),
    "common": Spec(
        "Put this cell's imports and functions before every Python step.",
        (Positional("NAME", "name of the block, to have several", is_required=False),),
        sign="%%",
    ),
    "step": Spec(
        "Declare this cell as a step; declaring a name again replaces it.",
        (_NAME,),
        (*_STEP_OPTIONS, Option("run", Kind.FLAG, "run it now, with whatever it needs, and show its output here")),
        sign="%%",
    ),
    "markdown": Spec(
        "Keep this cell as the text of a step, or of the workflow.",
        (Positional("STEP", "a step's name; the workflow if left out", is_required=False),),
        sign="%%",
    ),
    "show": Spec("Show the workflow as a picture."),
    "submit": Spec(
        "Run the workflow.",
        (),
        (
            _EXECUTOR,
            Option("only", Kind.NAMES, "these steps alone", "A,B"),
            Option("from", Kind.NAMES, "these steps and all that waits for them", "A"),
            Option("to", Kind.NAMES, "these steps and all they wait for", "B"),
            Option("params", Kind.PAIRS, "other values for parameters of the steps", "n=3"),
            _POOL,
            Option("no-cache", Kind.FLAG, "run also what an earlier run computed the same"),
            Option("dry-run", Kind.FLAG, "show what would run and why, what is cached, and every script"),
            Option("wait", Kind.FLAG, "return when the run has ended"),
            Option("name", Kind.TEXT, "a name for the run instead of a made one", "RUN"),
        ),
    ),
    "submit_cell": Spec(
        "Declare this cell as a step and submit it now, alone; a cell with #SBATCH or #PBS lines is a batch script.",
        (_NAME,),
        (*_STEP_OPTIONS, _POOL),
        sign="%%",
    ),
    "status": Spec("Show how a run goes.", (_RUN,)),
    "runs": Spec(
        "List the runs of this folder, newest first; or tell in what two of them differ.",
        (Positional("A", "with --diff: a run", is_required=False), Positional("B", "with --diff: another", is_required=False)),
        (Option("diff", Kind.FLAG, "tell in what runs A and B differ: code, parameters, packages, results"),),
    ),
    "rerun": Spec(
        "Run a step again, with other parameters if given; what it needs is taken from the earlier run.",
        (_STEP,),
        (
            Option("params", Kind.PAIRS, "other values for its parameters; of one point also for what is swept", "n=5"),
            Option("downstream", Kind.FLAG, "also run what depends on it"),
            Option("edit", Kind.FLAG, "put its cell into the notebook instead, to be changed"),
            Option("from-start", Kind.FLAG, "do not go on from its checkpoint"),
            Option("executor", Kind.TEXT, "where it runs, if not where the earlier run did", "E"),
            _POOL,
            Option("wait", Kind.FLAG, "return when the run has ended"),
        ),
    ),
    "wait": Spec(
        "Wait until a run or step has ended.",
        (Positional("RUN|STEP", "what to wait for; the newest run if left out", is_required=False),),
        (Option("timeout", Kind.SECONDS, "longest wait in seconds", "S"),),
    ),
    "logs": Spec(
        "Show what a step printed.",
        (_STEP,),
        (
            Option("stderr", Kind.FLAG, "its stderr instead of its stdout"),
            Option("tail", Kind.COUNT, "the last N lines only", "N", least=0),
            Option("follow", Kind.FLAG, "go on until the step has ended"),
            Option("script", Kind.FLAG, "the job script instead"),
        ),
    ),
    "cancel": Spec("End a step or a run.", (Positional("STEP|RUN", "what to end"),)),
    "stop": Spec("Interrupt a step's code; its kernel stays for a look.", (_STEP,)),
    "pause": Spec(
        "Hold a step's code still between two lines; its kernel answers visitors meanwhile.",
        (_STEP,),
        (
            Option("for", Kind.WALLTIME, "it goes on by itself after this; seven days if left out", "2h"),
            Option("freeze", Kind.FLAG, "stop all its processes instead, which also stops its kernel"),
            _HOST,
        ),
    ),
    "continue": Spec(
        "Let a step go on that waits for a person: at a --gate, or where its code asks input().",
        (_STEP,),
        (
            Option("set", Kind.PAIRS, "what was decided: variables that the step's code finds", "x=3"),
            Option("answer", Kind.TEXT, "what input() in the step returns; asked for here if left out", "TEXT"),
            _HOST,
        ),
    ),
    "resume": Spec("Let a paused step go on; end the look at one that was stopped or has failed.", (_STEP,), (_HOST,)),
    "queue": Spec(
        "Show what runs and what waits, and why.",
        (),
        (Option("all", Kind.FLAG, "the whole queue of the batch system, everybody's jobs"),),
    ),
    "pool": Spec(
        "Keep an allocation open, into which steps go without queueing: open NAME, list, close NAME.",
        (
            Positional("ACTION", "open, list or close; list if left out", is_required=False, choices=("open", "list", "close")),
            Positional("NAME", "the pool's name", is_required=False),
        ),
        (
            Option("executor", Kind.TEXT, "where its allocation comes from: slurm (if left out), or local, a process of this machine", "E"),
            *(option for option in _RESOURCES if option.name in _OF_A_POOL),
            Option("now", Kind.FLAG, "with close: cancel what was submitted to it instead of waiting for its end"),
        ),
    ),
    "hold": Spec("Keep a step that is in the queue from starting.", (_STEP,)),
    "release": Spec("Let a held step go on.", (_STEP,)),
    "attach": Spec(
        "Run this cell in the step's own kernel while the step is running.",
        (_STEP,),
        (
            Option("timeout", Kind.SECONDS, "longest wait for the step to start, in seconds", "S"),
            Option("write", Kind.FLAG, "names that the cell assigns become the step's"),
            Option("main", Kind.FLAG, "queue behind the step's code instead of running beside it"),
            Option("rank", Kind.COUNT, "the rank of an MPI step whose process is meant (0 if not said)", "N", least=0),
            _HOST,
        ),
        sign="%%",
    ),
    "attach_line": Spec(
        "Make a kernel on the step that a notebook or console can use.",
        (_STEP,),
        (
            Option("write", Kind.FLAG, "names that a cell assigns become the step's"),
            Option("main", Kind.FLAG, "queue behind the step's code instead of running beside it"),
            _HOST,
        ),
    ),
    "open": Spec(
        "Make a notebook in the step's own kernel: its description, parameters and inputs, a log cell, a plot cell.",
        (_STEP,),
        (
            Option("o", Kind.TEXT, "where to: a file or a folder; named after the step, in the workflow's folder, if left out", "FILE", is_short=True),
            Option("template", Kind.TEXT, "begin with this notebook instead of Kale's template", "FILE"),
            Option("write", Kind.FLAG, "names that a cell assigns become the step's"),
            Option("main", Kind.FLAG, "queue behind the step's code instead of running beside it"),
            _HOST,
        ),
    ),
    "pull": Spec(
        "Bring values of a step here.",
        (_STEP, Positional("x", "names of its values", is_rest=True)),
        (Option("as", Kind.NAMES, "names to give them here", "a,b"),),
    ),
    "push": Spec(
        "Give a step values: into a running one; of a completed one, in the place of an output, or a file that it made, which is kept.",
        (_STEP, Positional("x", "variables of this notebook, x=5, or out.csv=FILE", is_rest=True)),
    ),
    "plot": Spec(
        "Draw what a step records by metric(), or columns of a file it writes, live.",
        (_STEP, Positional("METRIC", "names of metrics; all if left out", is_required=False, is_rest=True)),
        (
            Option("file", Kind.TEXT, "a table that the step writes: commas, tabs or spaces, names in the first line", "results.csv"),
            Option("x", Kind.TEXT, "the file's column for the horizontal axis; its rows if left out", "t"),
            Option("y", Kind.NAMES, "the file's columns to draw; the first few if left out", "e,f"),
        ),
    ),
    "vars": Spec("List a step's variables: name, type, shape, bytes.", (_STEP,)),
    "resources": Spec("Show the processors, memory and disk that a step uses.", (_STEP,)),
    "dashboard": Spec(
        "Show the dashboard, or one part of it: live, with buttons.",
        (Positional("PART", f"one of {', '.join(PARTS)}; all of them if left out", is_required=False, choices=PARTS),),
        (
            Option("run", Kind.TEXT, "the run to show; the newest, as they come, if left out", "RUN"),
            Option("step", Kind.TEXT, "the step to begin with", "STEP"),
        ),
    ),
    "export": Spec(
        "Write the workflow to a file.",
        (Positional("FILE", "the file to write, or the folder"),),
        (
            Option("format", Kind.CHOICE, "the file's format", "F", FORMATS),
            Option("run", Kind.TEXT, "the workflow as that run has it", "RUN"),
        ),
    ),
    "report": Spec(
        "Write a run as one self-contained HTML page: text, picture, timeline, figures, logs, origin.",
        (_RUN,),
        (Option("o", Kind.TEXT, "the file to write; RUN.html here if left out", "FILE.html", is_short=True),),
    ),
    "import": Spec("Read a workflow from a file and make it this notebook's.", (Positional("FILE", "a workflow: Kale's YAML, CWL, or WfFormat's JSON"),)),
}
OPTIONS: dict[str, tuple[Option, ...]] = {name: spec.options for name, spec in SPECS.items()}


def key_of(magic: str, *, is_cell: bool = False) -> str:
    """Return a magic's key in the tables; ``kale_`` and the percent signs may be left on."""
    name = magic.lstrip("%").removeprefix("kale_")
    if is_cell and f"{name}_cell" in SPECS:
        return f"{name}_cell"
    if not is_cell and not magic.startswith("%%") and f"{name}_line" in SPECS:
        return f"{name}_line"
    return name


def option_names(magic: str, *, is_cell: bool = False) -> list[str]:
    """Return the options of a magic as they are typed."""
    return [option.flag for option in OPTIONS[key_of(magic, is_cell=is_cell)]]


def parse(magic: str, line: str, *, is_cell: bool = False) -> SimpleNamespace:
    """Read a magic's line.

    Each option is an attribute (``files_in`` for ``--files-in``, ``from_``, ``as_``), each positional too, in
    lower case and up to a ``|`` (``run`` of ``RUN|STEP``; the rest of ``%kale_pull`` is ``x``). What was not
    given is None, False, an empty tuple or an empty dict.

    Parameters
    ----------
    magic : str
        Its name without ``kale_``.
    line : str
        What stands after it.
    is_cell : bool
        Whether it is the cell magic of that name.

    Raises
    ------
    UsageError
        The line has a word too many or too few, or an option that is unknown or can't be read.
    StepSyntaxError
        ``{x}`` was left on the line, or a memory, a time, a range is none.
    HelpRequested
        ``-h`` stands on the line.
    """
    key = key_of(magic, is_cell=is_cell)
    sign = "%%" if is_cell else SPECS[key].sign
    return read(f"{sign}kale_{_name_of(key)}", SPECS[key], line)


def read(magic: str, spec: Spec, line: str) -> SimpleNamespace:
    """Read the line of a magic that is written ``magic``, by its table; as :func:`parse`, and raises as that does."""
    from kale_magic.dsl._parse import parse_words
    from kale_magic.model.words import split

    words = split(line)
    if any(word in {"-h", "--help"} for word in words):
        raise HelpRequested(help_of(magic, spec))
    return parse_words(magic, spec, words)


def usage(key: str) -> str:
    """Return the usage line of a magic's table."""
    return usage_of(f"{SPECS[key].sign}kale_{_name_of(key)}", SPECS[key])


def usage_of(magic: str, spec: Spec) -> str:
    """Return the usage line of a magic that is written ``magic``."""
    parts = [magic]
    for positional in spec.positionals:
        name = f"{positional.name} ..." if positional.is_rest else positional.name
        parts.append(name if positional.is_required else f"[{name}]")
    return " ".join([*parts, "[options]"] if spec.options else parts)


def help_text(key: str) -> str:
    """Return what ``-h`` prints."""
    return help_of(f"{SPECS[key].sign}kale_{_name_of(key)}", SPECS[key])


def help_of(magic: str, spec: Spec) -> str:
    """Return what ``-h`` prints for a magic that is written ``magic``."""
    rows = [(positional.name, positional.help) for positional in spec.positionals]
    options = [(f"{option.flag} {option.metavar}".rstrip(), option.help) for option in spec.options]
    width = min(max((len(left) for left, _ in [*rows, *options]), default=0), 30) + 2
    lines = [usage_of(magic, spec), "", spec.does]
    for title, part in (("", rows), ("Options", options)):
        if part:
            lines += ["", *([title] if title else [])]
            lines += [f"  {left:<{width}}{right}" for left, right in part]
    return "\n".join(lines)


def _name_of(key: str) -> str:
    return key.removesuffix("_cell").removesuffix("_line")
