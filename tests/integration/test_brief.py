"""Shell steps of batch jobs, run before the worker is loaded: they leave what the worker leaves, and it takes over what is not brief."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kale_proxy import brief, briefstep, claim
from kale_proxy.batch import obey_signals
from kale_proxy.spec import SPEC_VERSION, JobResult, JobSpec, LimitSpec, ParentSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FULL = "import sys; from pathlib import Path; from kale_proxy import batch; sys.exit(batch.run(Path(sys.argv[1])))"
BRIEF = "from kale_proxy.brief import main; main()"
WHICH = "import sys; sys.modules['kale_proxy.batch'] = None; " + BRIEF  # nothing of the worker proper can be loaded


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kb-", dir="/tmp"))
    yield folder
    for process in _started:
        if process.poll() is None:  # its test has failed
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.communicate()
    _started.clear()
    shutil.rmtree(folder, ignore_errors=True)


_started: list[subprocess.Popen[str]] = []


def write(folder: Path, code: str, **changes: Any) -> Path:
    """Write a job and return its folder."""
    step = folder / "steps" / "fit"
    step.mkdir(parents=True)
    (folder / "keys").mkdir(exist_ok=True)
    values = {
        "run": "r-1", "step": "fit", "point": None, "attempt": 1, "uuid": "ab" * 16, "folder": str(step), "cwd": str(folder), "kind": "shell", "code": code,
        "keys": str(folder / "keys"),
    }  # fmt: skip
    (step / "job.json").write_text(JobSpec(**{**values, **changes}).to_json())
    return step


def start(step: Path, program: str, **options: Any) -> subprocess.Popen[str]:
    _started.append(subprocess.Popen([sys.executable, "-c", program, str(step / "job.json")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options))
    return _started[-1]


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def result(step: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((step / "result.json").read_text())
    return found


def events(step: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (step / "events.jsonl").read_text().splitlines()]


def left(step: Path, ended: tuple[int, str, str]) -> dict[str, Any]:
    """Return all that a job left, without what differs from one time to the next."""
    home = str(step.parent.parent)

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: "*" if key in {"at", "pid", "pid_start", "live", "started_at", "ended_at", "cpu_s", "peak_rss_bytes", "rss_bytes"} else told(item) for key, item in value.items()}
        return [told(item) for item in value] if isinstance(value, list) else value.replace(home, "HOME") if isinstance(value, str) else value

    found: dict[str, Any] = {"ended": tuple(told(item) for item in ended), "keys": sorted(os.listdir(Path(home, "keys")))}
    for path in sorted(step.rglob("*")):
        if path.name == "resources.jsonl" and not (step / "result.json").exists():
            continue
        name = f"{path.relative_to(step)} {oct(path.stat().st_mode)}"
        if path.is_dir():
            found[name] = None
        elif path.suffix in {".json", ".ipynb", ".claim"}:
            found[name] = told(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [told(line) for line in lines if "node" not in line]  # of one that took its time
        else:
            found[name] = re.sub(r"KALE_LIVE=.*|KALE_ENDS_AT=.*", "", path.read_text(errors="surrogateescape").replace(home, "HOME"))
    return found


PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("true\n", {}),
    ("echo 'grüße ✓'; echo oops >&2; printf '\\xff\\n'; echo 'a\"b\\'\n", {}),
    ('cat\necho "$n $x $who $yes $no $none"\n', {"params": {"n": "-3", "x": "0.1", "who": "'ada l'", "yes": "True", "no": "False", "none": "None"}}),
    ("echo $KALE_RUN $KALE_STEP $KALE_POINT $KALE_ATTEMPT $KALE_JOB $KALE_STEP_FOLDER $KALE_OUTPUTS $OMP_NUM_THREADS $A; pwd; ls -l /dev/fd/0 | grep -o '/dev/null'\n", {"point": 7, "env": {"A": "b c"}, "limits": LimitSpec(cpus=3)}),
    ("true\n", {"description": "The *fit*, $x^2$", "limits": LimitSpec(walltime_s=60), "keys": ""}),
    ("sh -c 'kill -PIPE $$' || echo $?\n", {}),
    ("sleep 100 & echo started\n", {}),
]
PARENTS = {
    "done": ("completed", "completed", None), "failed": ("completed", "failed", None), "missing": ("completed", "", None), "points": ("completed", "completed", 2),
    "point": ("completed", "failed", 2),
}  # fmt: skip
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("echo before\necho bad >&2\nfalse\necho after\n", {}),
    ("exit 7\n", {}),
    ("kill -KILL $$\n", {}),
    ("yes | head -100000\n", {}),
    ("a=5\n", {"outputs": ("a",)}),
    ("true\n", {"outputs": ("a",)}),
    ("echo x > out.txt\n", {"files_out": ("*.txt",)}),
    ("true\n", {"files_out": ("*.txt",)}),
    ("echo $l $s\n", {"params": {"l": "[1, 2]", "s": "'it\\'s'"}}),
    ("true\n", {"files_in": ("none.txt",)}),
    ("true\n", {"cwd": "/nowhere"}),
    ("true\n", {"env": {"PATH": "/nowhere"}}),
    ("echo script; exit 0\n", {"kind": "script"}),
    ("#!/bin/sh\necho $0 | grep -o step.sh\nexit 3\n", {"kind": "script"}),
    ("#!/no/such/program\n", {"kind": "script"}),
    ("true\n", {"attempt": 2, "kernel": "bash"}),
]


@pytest.mark.parametrize(("code", "changes"), PLAIN + OTHERS)
def test_it_leaves_what_the_worker_leaves(place: Path, code: str, changes: dict[str, Any]) -> None:
    found = []
    for name, program in (("a", FULL), ("b", BRIEF)):
        step = write(place / name, code, **changes)
        found.append(left(step, finish(start(step, program))))
    assert found[0] == found[1]


@pytest.mark.parametrize(("code", "changes"), PLAIN)
def test_a_plain_step_needs_nothing_of_the_worker(place: Path, code: str, changes: dict[str, Any]) -> None:
    step = write(place, code, **changes)
    assert finish(start(step, WHICH)) == (0, "fit: completed\n", "")
    assert result(step)["state"] == "completed"


@pytest.mark.parametrize("name", PARENTS)
def test_parents_are_asked(place: Path, name: str) -> None:
    *states, count = PARENTS[name]
    found = []
    for where, program in (("a", FULL), ("b", BRIEF)):
        folders = [place / where / "steps" / "many" / str(number) for number in range(2)]
        for folder, state in zip(folders, states, strict=True):
            folder.mkdir(parents=True)
            if state:
                (folder / "result.json").write_text(json.dumps({"state": state}))
        parents = tuple(ParentSpec(step=f"p{folder.name}", folder=str(folder)) for folder in folders)
        step = write(place / where, "echo after\n", parents=parents if count is None else (ParentSpec(step="many", folder=str(folders[0].parent), point_count=count),))
        ended = finish(start(step, WHICH if "failed" not in states and all(states) and program == BRIEF else program))
        found.append(left(step, ended))
    assert found[0] == found[1]
    assert (found[0]["ended"][0] == 0) == (name in {"done", "points"})


def test_nothing_is_left_on_the_node(place: Path) -> None:
    step = write(place, "sleep 1000 & echo $! > pid; echo $KALE_LIVE > live\n")
    assert finish(start(step, BRIEF))[0] == 0
    assert not Path((place / "live").read_text().strip()).parent.parent.exists()
    pid = int((place / "pid").read_text())
    assert claim.pid_start(pid) is None  # gone, or a zombie that its new parent has yet to see


def test_an_attempt_that_was_begun_is_refused(place: Path) -> None:
    step = write(place, "echo again\n")
    assert finish(start(step, BRIEF))[0] == 0
    (step / "result.json").unlink()
    code, out, _ = finish(start(step, BRIEF))
    assert code == 96
    assert "refused attempt 1 was begun before" in out
    assert (step / "stdout.log").read_text() == "again\n"


def test_a_step_that_takes_longer_is_watched_over(place: Path, until: Callable[..., Any]) -> None:
    step = write(place, "sleep 2.5\necho done\n")
    process = start(step, BRIEF)
    assert finish(process)[:2] == (0, "fit: completed\n")
    samples = [json.loads(line) for line in (step / "resources.jsonl").read_text().splitlines()]
    assert [sample for sample in samples if "node" in sample]
    assert [event["event"] for event in events(step)] == ["running", "ended"]


def test_walltime_holds(place: Path) -> None:
    step = write(place, "sleep 60\n", limits=LimitSpec(walltime_s=2))
    begun = time.monotonic()
    assert finish(start(step, BRIEF))[0] == 1
    assert time.monotonic() - begun < 20
    assert result(step)["reason"] == "its walltime of 00:00:02 was reached (--walltime)"


DEEDS = [
    (signal.SIGTERM, "cancelled", "ended by the batch system (SIGTERM)"),
    (signal.SIGURG, "cancelled", "stopped by the user"),
    (signal.SIGINT, "cancelled", "stopped by the user"),
]


@pytest.mark.parametrize(("signum", "state", "reason"), DEEDS)
@pytest.mark.parametrize("delay", [0.0, 0.3, 1.6])
def test_a_signal_is_obeyed_at_any_time(place: Path, until: Callable[..., Any], signum: int, state: str, reason: str, delay: float) -> None:
    step = write(place, "echo begun; sleep 60\n")
    process = start(step, BRIEF)
    until(lambda: (step / "stdout.log").exists() and (step / "stdout.log").read_text())
    time.sleep(delay)
    process.send_signal(signum)
    assert finish(process)[0] == 1
    assert (result(step)["state"], result(step)["reason"]) == (state, reason)


def test_the_warning_before_the_end_reaches_the_script_and_does_not_end_it(place: Path, until: Callable[..., Any]) -> None:
    step = write(place, "trap 'echo warned; exit 0' USR1\necho begun\nwhile :; do sleep 0.05; done\n")
    process = start(step, BRIEF)
    until(lambda: (step / "stdout.log").exists() and (step / "stdout.log").read_text())
    process.send_signal(signal.SIGUSR1)
    assert finish(process)[:2] == (0, "fit: completed\n")
    assert (step / "stdout.log").read_text() == "begun\nwarned\n"
    assert [event["event"] for event in events(step)] == ["running", "warned", "ended"]


def test_a_suspended_job_stands_still_and_goes_on(place: Path, until: Callable[..., Any]) -> None:
    step = write(place, "echo begun; sleep 4; echo on\n")
    process = start(step, BRIEF)
    until(lambda: (step / "stdout.log").exists() and (step / "stdout.log").read_text())
    process.send_signal(signal.SIGTSTP)
    until(lambda: "paused" in [event["event"] for event in events(step)])
    time.sleep(1.0)
    assert (step / "stdout.log").read_text() == "begun\n"
    process.send_signal(signal.SIGCONT)
    assert finish(process)[0] == 0
    assert (step / "stdout.log").read_text() == "begun\non\n"


def test_the_steps_own_process_killed_is_recorded(place: Path, until: Callable[..., Any]) -> None:
    step = write(place, "echo begun; sleep 60\n")
    process = start(step, BRIEF)
    until(lambda: (step / "stdout.log").exists() and (step / "stdout.log").read_text())
    os.kill(events(step)[0]["pid"], signal.SIGKILL)
    assert finish(process)[0] == 1
    assert result(step)["state"] == "failed"
    assert "killed by SIGKILL" in result(step)["reason"]
    assert "begun" in (step / "step.ipynb").read_text()


def test_a_fault_before_the_script_has_begun_is_recorded(place: Path) -> None:
    step = write(place, "true\n")
    shutil.rmtree(place / "keys")
    (step / "events.jsonl").mkdir()
    code, out, _ = finish(start(step, BRIEF))
    assert code == 1
    assert "failed" in out


def test_what_a_killed_job_of_the_same_number_left_is_not_taken_for_ours() -> None:
    folder, live = brief._folders()
    try:
        assert stat.S_IMODE(Path(live).stat().st_mode) == 0o700
        with pytest.raises(FileExistsError):
            brief._folders()
    finally:
        shutil.rmtree(folder)


def test_it_knows_the_workers_words() -> None:
    assert {field.name for field in fields(JobSpec)} == brief.FIELDS
    assert brief.VERSION == SPEC_VERSION

    class Seen:
        jobs: dict[str, Any] = {}  # noqa: RUF012
        freeze = thaw = warn = None

    before = {number: signal.getsignal(number) for number in signal.Signals if number not in {signal.SIGKILL, signal.SIGSTOP}}
    seen: Any = Seen()
    obey_signals(seen)
    for number, handler in before.items():
        signal.signal(number, handler)
    assert {*seen.obeyed, signal.SIGCHLD, signal.SIGHUP} == set(brief.SIGNALS)
    assert {field.name for field in fields(JobResult)} == briefstep.RESULT_FIELDS


@pytest.mark.parametrize("value", [None, True, 3, -0.5, 1e300, 'a"\\\n\x00é✓\ud800', [1, ["x"]], {"a": {"b": [None]}}, (), {}])
def test_json_is_as_the_librarys(value: object) -> None:
    assert briefstep.dump(value) == json.dumps(value)
    assert brief.read_json(json.dumps(value)) == json.loads(json.dumps(value))


@pytest.mark.parametrize("text", ["", "{", "nul", '{"a": }', "[1,"])
def test_what_is_no_json_is_left_to_the_worker(place: Path, text: str) -> None:
    (place / "job.json").write_text(text)
    assert brief.run(str(place / "job.json")) is None
