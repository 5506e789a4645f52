"""The table of magics: name, what it does in a line, and which function answers it.

A handler is named, not imported: ``module:function`` below :mod:`kale_magic.magics`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command: ``%kale_NAME`` where ``line`` is set, ``%%kale_NAME`` where ``cell`` is set."""

    name: str
    group: str
    usage: str
    does: str
    line: str = ""
    cell: str = ""
    is_about_a_step: bool = False  # so that Tab offers steps


COMMANDS = (
    Command(
        name="workflow", group="Declare", line="declare:workflow",
        usage="%kale_workflow NAME", does="start or select a workflow; bare: show it",
    ),
    Command(
        name="common", group="Declare", cell="declare:common",
        usage="%%kale_common", does="imports and functions put before every Python step",
    ),
    Command(
        name="step", group="Declare", cell="declare:step",
        usage="%%kale_step NAME", does="the cell is a step; nothing runs until it is submitted (or --run)",
    ),
    Command(
        name="markdown", group="Declare", cell="declare:markdown",
        usage="%%kale_markdown [STEP]", does="text for a step or the workflow",
    ),
    Command(name="show", group="Declare", line="declare:show", usage="%kale_show", does="the workflow as a picture"),
    Command(
        name="submit", group="Run", line="submit:submit", cell="submit:submit_cell",
        usage="%kale_submit", does="run the workflow; %%kale_submit NAME runs this cell alone",
    ),
    Command(name="status", group="Run", line="watch:status", usage="%kale_status [RUN]", does="how a run goes"),
    Command(name="runs", group="Run", line="watch:runs", usage="%kale_runs", does="the runs of this folder; --diff A B: what differs"),
    Command(
        name="wait", group="Run", line="watch:wait", is_about_a_step=True,
        usage="%kale_wait [RUN|STEP]", does="wait until it has ended",
    ),
    Command(
        name="logs", group="Run", line="watch:logs", is_about_a_step=True,
        usage="%kale_logs STEP", does="what a step printed",
    ),
    Command(
        name="stop", group="Run", line="watch:stop", is_about_a_step=True,
        usage="%kale_stop STEP", does="interrupt a step's code; its kernel stays for a look",
    ),
    Command(
        name="pause", group="Run", line="steer:pause", is_about_a_step=True,
        usage="%kale_pause STEP", does="hold a step still between two lines; visitors are answered",
    ),
    Command(
        name="resume", group="Run", line="steer:resume", is_about_a_step=True,
        usage="%kale_resume STEP", does="let it go on",
    ),
    Command(
        name="rerun", group="Run", line="submit:rerun", is_about_a_step=True,
        usage="%kale_rerun STEP", does="run a step again, with other --params if given",
    ),
    Command(
        name="continue", group="Run", line="steer:proceed", is_about_a_step=True,
        usage="%kale_continue STEP", does="open a gate, with what was decided: --set x=3",
    ),
    Command(
        name="cancel", group="Run", line="watch:cancel", is_about_a_step=True,
        usage="%kale_cancel STEP|RUN", does="end a step or a run",
    ),
    Command(name="queue", group="Run", line="queue:queue", usage="%kale_queue", does="what runs and what waits, and why"),
    Command(
        name="pool", group="Run", line="pool:pool",
        usage="%kale_pool open|list|close", does="an allocation kept open: steps go in without queueing",
    ),
    Command(
        name="hold", group="Run", line="queue:hold", is_about_a_step=True,
        usage="%kale_hold STEP", does="keep a step in the queue from starting",
    ),
    Command(
        name="release", group="Run", line="queue:release", is_about_a_step=True,
        usage="%kale_release STEP", does="let a held step go on",
    ),
    Command(
        name="attach", group="Look inside", line="look:make_kernel", cell="look:attach", is_about_a_step=True,
        usage="%%kale_attach STEP",
        does="run this cell in the step's kernel while it computes; %kale_attach: a notebook on it",
    ),
    Command(
        name="open", group="Look inside", line="look:open_notebook", is_about_a_step=True,
        usage="%kale_open STEP", does="a notebook on the step: parameters, inputs, log, plot",
    ),
    Command(
        name="pull", group="Look inside", line="look:pull", is_about_a_step=True,
        usage="%kale_pull STEP x y", does="bring values of a step here",
    ),
    Command(
        name="push", group="Look inside", line="steer:push", is_about_a_step=True,
        usage="%kale_push STEP x n=5", does="give values to a step: variables, live parameters, edited outputs",
    ),
    Command(
        name="plot", group="Look inside", line="plot:plot", is_about_a_step=True,
        usage="%kale_plot STEP [METRIC]", does="its metrics, or columns of a file, drawn live",
    ),
    Command(
        name="vars", group="Look inside", line="look:variables", is_about_a_step=True,
        usage="%kale_vars STEP", does="its variables: name, type, shape, bytes",
    ),
    Command(
        name="resources", group="Look inside", line="look:resources", is_about_a_step=True,
        usage="%kale_resources STEP", does="the processors, memory and disk it uses",
    ),
    Command(
        name="dashboard", group="Look inside", line="dash:dashboard",
        usage="%kale_dashboard [PART]", does="workflow, steps, logs, queue live, with buttons",
    ),
    Command(name="export", group="Share", line="share:export", usage="%kale_export FILE", does="write the workflow as YAML, or --format cwl, snakemake ..."),
    Command(name="report", group="Share", line="share:report", usage="%kale_report [RUN] -o FILE", does="write a run as one HTML page"),
    Command(name="import", group="Share", line="share:load", usage="%kale_import FILE", does="read one, and make it this notebook's"),
)  # fmt: skip

BY_NAME = {command.name: command for command in COMMANDS}
GROUPS = tuple(dict.fromkeys(command.group for command in COMMANDS))


def one_screen() -> str:
    """Return the help that a bare ``%kale`` prints."""
    width = max(len(command.usage) for command in COMMANDS) + 2
    lines = ["Kale: steps declared in cells, run as jobs with live kernels you can look into.", ""]
    for group in GROUPS:
        lines.append(group)
        lines += [f"  {command.usage:<{width}}{command.does}" for command in COMMANDS if command.group == group]
        lines.append("")
    lines += [
        "STEP is fit, fit[2] or fit[metal=Al] (a point of a sweep), or RUN/fit.",
        "Each takes -h and completes with Tab. %kale submit ... and %%kale step ... are the same commands.",
    ]
    return "\n".join(lines)
