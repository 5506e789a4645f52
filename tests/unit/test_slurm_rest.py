"""What is said to slurmrestd and what it says: directives as properties, jobs as lines, logins that are none. No service."""

from __future__ import annotations

import base64
import json
import time

import pytest

from kale_magic.errors import SubmitError, UsageError
from kale_magic.executors.rest_login import Login, _checked, said
from kale_magic.executors.slurm_json import line_of, properties, time_limits
from kale_magic.executors.slurm_text import directives
from kale_magic.model.resources import Resources
from kale_magic.widgets.rest import LOGGED_OUT, shown

URL = "https://cluster:6820"


def token(**claims: object) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "HS256"}, claims)]
    return ".".join([*parts, "c2lnbmF0dXJl"])


def test_what_a_step_asks_becomes_properties_of_a_job() -> None:
    asked = Resources(
        nodes=2, ntasks=4, cpus=3, gpus=1, memory_bytes=400 << 20, walltime_s=630, queue="debug", account="chem", qos="high", constraint="fast&new",
        reservation="mine", native=("--mail-type=END", "#SBATCH -J 'two words'"),
    )  # fmt: skip
    script = "\n".join(["#!/bin/bash", "# a comment", *directives(asked), "#SBATCH --no-requeue", "#SBATCH --array=0-3,7", "", "true", "#SBATCH --time=99"])
    assert properties(script) == {
        "nodes": "2", "tasks": 4, "cpus_per_task": 3, "gres": "gpu:1", "memory_per_node": 400, "time_limit": 11, "partition": "debug",
        "account": "chem", "qos": "high", "constraints": "fast&new", "reservation": "mine", "mail_type": "END", "name": "two words",
        "requeue": False, "array": "0-3,7",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("-N 1-2 -c4", {"nodes": "1-2", "tasks": 1, "cpus_per_task": 4}),
        ("--mem 4G --time=1-0", {"memory_per_node": 4096, "time_limit": 1440}),
        ("--mem=500", {"memory_per_node": 500}),
        ("-t 90 # why", {"time_limit": 90}),
        ("--hold", {"hold": True}),
        ("--signal=B:USR1@60 --nice=3", {"nice": "3"}),
        ("--nodes=2 --ntasks-per-node=3", {"nodes": "2", "tasks_per_node": 3, "tasks": 6}),
    ],
)
def test_directives_are_read_in_all_forms_of_sbatch(line: str, found: dict[str, object]) -> None:
    assert properties(f"#!/bin/sh\n#SBATCH {line}\n") == found


@pytest.mark.parametrize(("line", "words"), [("--exclude=node1", "--exclude can't be asked through slurmrestd"), ("--nodes=many", "--nodes=many is not understood"), ("-X", "--X can't be asked")])
def test_what_cannot_be_asked_by_rest_is_refused_and_not_left_out(line: str, words: str) -> None:
    with pytest.raises(SubmitError, match=words):
        properties(f"#!/bin/sh\n#SBATCH {line}\n")


JOB = {"job_id": 6, "array_job_id": 0, "array_task_id": None, "array_task_string": "", "name": "kale-x", "job_state": "RUNNING", "state_reason": "None",
       "start_time": 1000, "end_time": 1600, "nodes": "node1", "user_name": "ada", "partition": "debug", "node_count": 1}  # fmt: skip


def test_jobs_and_parts_of_arrays_are_lines_as_squeue_has_them() -> None:
    line = line_of(JOB, 1010.0)
    assert (line.job_id, line.tasks, line.name, line.state, line.node, line.user, line.time_left) == ("6", None, "kale-x", "RUNNING", "node1", "ada", "00:09:50")
    task = line_of({**JOB, "array_job_id": 1, "array_task_id": 0}, 1010.0)
    assert (task.job_id, task.tasks) == ("1", (0,))
    rest = line_of({**JOB, "job_id": 1, "array_job_id": 1, "array_task_string": "2-3,7", "job_state": "PENDING", "state_reason": "Resources"}, 1010.0)
    assert (rest.job_id, rest.tasks, rest.reason, rest.time_left) == ("1", (2, 3, 7), "Resources", "")
    assert line_of({"job_id": 1, "job_state": None}, 0.0).state == "UNKNOWN"


def test_longest_walltimes_are_those_of_the_partitions() -> None:
    assert time_limits([{"name": "debug", "flags": ["default"], "max_time_limit": 60}, {"name": "long", "max_time_limit": None}]) == {"debug": 3600, "": 3600, "long": None}


def test_token_says_until_when_it_holds_and_whose_it_is() -> None:
    until = int(time.time()) + 100
    login = _checked(f" {URL}/ ", "ada", f"SLURM_JWT={token(exp=until, sun='ada')}\n")
    assert (login.url, login.user, login.until, login.is_over) == (URL, "ada", until, False)
    assert login.token not in repr(login)
    assert _checked(URL, "ada", "opaque").until is None
    for user, secret, words in (("bob", token(sun="ada"), "that of ada, not of bob"), ("ada", token(exp=1), "has ended"), ("ada", " ", "no token"), ("", "x", "Whose token")):
        with pytest.raises(UsageError, match=words):
            _checked(URL, user, secret)


@pytest.mark.parametrize("url", ["", "cluster", "ftp://cluster", "https://", "https://ada:word@cluster", "http://cluster/?x=1", "file:///etc/passwd"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no address of a REST service"):
        _checked(url, "ada", "x")


def test_errors_of_an_answer_are_one_line() -> None:
    assert said({"errors": [{"error": "Invalid job id specified", "description": "unable to kill"}, {"error_code": 9001, "error": "Failure"}]}) == "unable to kill: Invalid job id specified; Failure"
    assert said({}) == ""


def test_state_of_a_login_says_what_is_wrong_with_it() -> None:
    login = {"url": "http://c:1", "user": "ada", "until": "2026-11-28T10:00:00Z", "is_over": False, "answers": True, "version": "22.05.8"}
    assert shown({}) == LOGGED_OUT
    assert shown(login)["word"] == "connected"
    assert "not encrypted" in shown(login)["text"]
    assert "not encrypted" not in shown({**login, "url": URL})["text"]
    assert (shown({**login, "is_over": True})["word"], shown({**login, "answers": False})["word"]) == ("lost", "lost")
    assert not Login(url=URL, user="ada", token="x").is_over
