"""What a step's folder says of an attempt on another host, whose processes can't be seen."""

import json
import os
import socket
import time

import pytest

from kale_magic.executors._fate import Fate, find_out
from kale_proxy.claim import boot_id, pid_start
from kale_proxy.spec import JobSpec


@pytest.fixture
def spec(tmp_path):
    return JobSpec(run="r", step="a", point=None, attempt=1, uuid="u", folder=str(tmp_path), cwd=str(tmp_path), kind="python", code="")


def claim(folder, host, *, age_s=0.0, sampled_s=None):
    owner = {"uuid": "u", "pid": os.getpid(), "pid_start": pid_start(os.getpid()), "boot": boot_id(), "host": host}
    for name, text, age in (("attempt-1.claim", json.dumps(owner), age_s), ("resources.jsonl", "{}", sampled_s)):
        if age is not None:
            (folder / name).write_text(text)
            os.utime(folder / name, (time.time() - age, time.time() - age))


def test_attempt_elsewhere_lives_while_it_is_sampled(spec, tmp_path):
    claim(tmp_path, "login1", age_s=3600.0, sampled_s=5.0)
    assert find_out(spec, by_signs=True).fate is Fate.ALIVE
    claim(tmp_path, "login1")  # just begun: not sampled yet
    assert find_out(spec, by_signs=True).fate is Fate.ALIVE


def test_attempt_elsewhere_that_gives_no_sign_is_gone_though_a_process_here_has_its_number(spec, tmp_path):
    claim(tmp_path, "login1", age_s=3600.0, sampled_s=300.0)
    found = find_out(spec, by_signs=True)
    assert found.fate is Fate.GONE
    assert found.data["reason"] == "it ran on login1 and has given no sign of life for 60 s"


def test_attempt_here_is_judged_by_its_process_alone(spec, tmp_path):
    claim(tmp_path, socket.gethostname(), age_s=3600.0, sampled_s=3600.0)
    assert find_out(spec, by_signs=True).fate is Fate.ALIVE
    assert find_out(spec).fate is Fate.ALIVE


def test_result_counts_wherever_it_was_made(spec, tmp_path):
    claim(tmp_path, "login1", age_s=3600.0)
    (tmp_path / "result.json").write_text(json.dumps({"uuid": "u", "attempt": 1, "state": "completed"}))
    assert find_out(spec, by_signs=True).fate is Fate.OVER
