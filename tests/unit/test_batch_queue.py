"""Which batch systems a manager asks for their own queues; no commands."""

import asyncio

import pytest

from kale_magic import protocol
from kale_magic.errors import ExecutorError
from kale_magic.manager import batch_queue


class Asked:
    """An executor that answers, or does not."""

    def __init__(self, *, jobs=0, is_down=False):
        self.jobs, self.is_down = jobs, is_down

    def queue(self):
        return [object()] * self.jobs

    async def survey(self, *, is_all):
        if self.is_down:
            raise ExecutorError("Slurm does not answer.")
        return [{"native_id": "7", "user": "all" if is_all else "me"}]


def survey(executors, **fields):
    return asyncio.run(batch_queue.BatchQueue(executors).ops()[protocol.SURVEY](fields))


@pytest.fixture
def commands(monkeypatch):
    """Programs that are on this host."""
    found = set()
    monkeypatch.setattr(batch_queue.shutil, "which", lambda name: name if name in found else None)
    return found


def test_a_batch_system_is_asked_in_which_nothing_of_ours_is_if_its_commands_are_here(commands):
    assert survey({"slurm": Asked()}) == []
    commands.add("squeue")
    assert survey({"slurm": Asked(), "pbs": Asked(), "local": Asked()}, all=True) == [{"executor": "slurm", "native_id": "7", "user": "all"}]
    assert survey({"slurm": Asked(), "pbs": Asked(jobs=1)}) == [{"executor": name, "native_id": "7", "user": "me"} for name in ("slurm", "pbs")]


def test_one_that_is_installed_and_not_in_use_hides_no_other_but_is_told_of_where_it_is_the_only_one(commands):
    commands.add("squeue")
    assert survey({"slurm": Asked(is_down=True), "pbs": Asked(jobs=1)}) == [{"executor": "pbs", "native_id": "7", "user": "me"}]
    with pytest.raises(ExecutorError, match="does not answer"):
        survey({"slurm": Asked(is_down=True)})
    with pytest.raises(ExecutorError, match="does not answer"):
        survey({"slurm": Asked(is_down=True, jobs=1), "pbs": Asked(jobs=1)})
