"""``read`` in a shell step gates it and asks a person; elsewhere it reads what it always read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kale_magic.api import Workflow, connect
from kale_magic.errors import UsageError
from tests import steps
from tests.integration.test_cli import kale as program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run

WAIT_S = 60.0


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


def start(kale: Kale, folder: Path, code: str, **options) -> Run:
    workflow = Workflow("asks", folder=folder)
    workflow.step("sh", code, shell=True, **options)
    return kale.run(workflow.submit(client=kale.client, cache=False).name)


def test_a_question_is_answered_in_python_and_on_the_command_line(kale: Kale, tmp_path: Path, until: Callable) -> None:
    code = 'read -rp "how many? " n m\necho "got $n and $m"\nread -p "name: " who\n'
    run = start(kale, tmp_path, code, outputs=["n", "m", "who"])
    until(lambda: run["sh"].state == "gated", "the question")
    assert run["sh"].reason == "asks: how many?"
    with pytest.raises(UsageError, match="it takes an answer, no variables"):
        run["sh"].proceed(n=3)
    run["sh"].proceed(answer="3 a b\\c")
    until(lambda: run["sh"].reason == "asks: name:", "the second question")
    assert "goes on" in program(tmp_path, "continue", f"{run.name}/sh", "--answer", "it's me").stdout
    assert run.wait(timeout=WAIT_S) == "completed"
    assert run["sh"].pull("n", "m", "who") == (3, "a b\\c", "it's me")
    assert run["sh"].logs() == "how many? 3 a b\\c\ngot 3 and a b\\c\nname: it's me\n"
    events = [json.loads(line) for line in (run["sh"].folder / "events.jsonl").read_text().splitlines()]
    assert [event["answer"] for event in events if event["event"] == "resumed"] == ["3 a b\\c", "it's me"]
    assert not (run["sh"].folder / "gated").exists()
    with pytest.raises(UsageError, match="waits for nobody"):
        run["sh"].proceed(answer="late")


def test_what_is_redirected_or_piped_is_read_as_ever(kale: Kale, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("a 1\nb 2\n")
    code = (
        'while read -r name n; do echo "$name=$n"; done < lines\n'
        'printf "x\\ny\\n" | while read v; do echo "piped $v"; done\n'
        'read -a words <<< "p q"; echo "${words[1]}"\n'
        'exec 5< lines; read -u 5 first; echo "$first"\n'
    )
    run = start(kale, tmp_path, code)
    assert run.wait(timeout=WAIT_S) == "completed"
    assert run["sh"].logs() == "a=1\nb=2\npiped x\npiped y\nq\na 1\n"


def test_a_password_is_refused_and_programs_read_the_end_of_file(kale: Kale, tmp_path: Path) -> None:
    run = start(kale, tmp_path, "read -s secret\n")
    assert run.wait(timeout=WAIT_S) == "failed"
    assert "can't ask for a password" in run["sh"].reason
    run = start(kale, tmp_path, "# read\ncat | wc -c\n")
    assert run.wait(timeout=WAIT_S) == "completed"
    assert run["sh"].logs().strip() == "0"


def test_a_step_that_asks_can_be_cancelled_and_leaves_no_question(kale: Kale, tmp_path: Path, until: Callable) -> None:
    run = start(kale, tmp_path, "read x\n")
    until(lambda: run["sh"].state == "gated", "the question")
    run.cancel()
    assert run.wait(timeout=WAIT_S) == "cancelled"
    with pytest.raises(UsageError, match="waits for nobody"):
        run["sh"].proceed(answer="late")


def test_it_goes_on_without_an_answer_as_at_the_end_of_file(kale: Kale, tmp_path: Path, until: Callable) -> None:
    run = start(kale, tmp_path, 'if read x; then echo "x=$x"; else echo "nothing"; fi\n')
    until(lambda: run["sh"].state == "gated", "the question")
    run["sh"].proceed()
    assert run.wait(timeout=WAIT_S) == "completed"
    assert run["sh"].logs() == "nothing\n"
