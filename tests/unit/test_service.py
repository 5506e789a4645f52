"""The order of storing and doing, over a store in memory and an executor that a test plays."""

import asyncio
from functools import wraps

import pytest

from kale_magic.errors import StoreError
from kale_magic.manager import service as service_module
from kale_magic.manager.context import StepBody
from kale_magic.manager.service import Service
from kale_magic.manager.store import SqliteStore
from kale_magic.model.codec import workflow_to_dict
from kale_magic.model.run import Demand, Phase, RunRecord
from kale_magic.model.step import Step
from kale_magic.model.workflow import Workflow
from tests.fakes.executor import FakeClock, FakeExecutor


def record(name="r1", **parents):
    steps = {step: Step(name=step, code="pass", after=tuple(after)) for step, after in parents.items()}
    bodies = [StepBody(step, tuple(after), (), None, "local", Demand()).to_json() for step, after in parents.items()]
    return RunRecord(
        id=name, workflow="w", executor="local", folder=f"/w/{name}", workflow_folder="/w", python="/python", environment="",
        seed="ab" * 16, token=name, submitted_at="now",
        body={"workflow": workflow_to_dict(Workflow(name="w", steps=steps)), "steps": bodies},
    )  # fmt: skip


class Setting:
    def __init__(self, store, slots=2):
        self.store = store
        self.executor = FakeExecutor(slots)
        self.events = []
        self.service = Service(store, {"local": self.executor}, FakeClock())

    async def open(self):
        await self.service.open()
        self.service.listen(self.events.extend)
        return self

    def add(self, name="r1", **parents):
        return self.service.add(record(name, **parents), {"A": "1"})

    async def turn(self):
        for _ in range(4):
            await asyncio.sleep(0)

    def stored(self, name="r1"):
        return {job.step: job for job in self.store.jobs(self.store.run(name))}


def with_setting(test):
    @wraps(test)
    def run(tmp_path, monkeypatch):
        async def body():
            setting = await Setting(SqliteStore(tmp_path / "kale.db")).open()
            await test(setting, monkeypatch)
            setting.store.close()

        asyncio.run(body())

    del run.__wrapped__
    return run


@with_setting
async def test_the_intent_is_stored_before_a_job_is_started(setting, monkeypatch):
    seen = []
    setting.executor.on_start = lambda ticket: seen.append(setting.stored()[ticket.address].phase)
    setting.add(a=(), b=())
    await setting.turn()
    assert seen == [Phase.SUBMITTING, Phase.SUBMITTING]


@with_setting
async def test_the_next_step_starts_in_the_turn_in_which_its_parent_ended(setting, monkeypatch):
    setting.add(a=(), b=("a",))
    await setting.turn()
    setting.executor.end("a")
    await asyncio.sleep(0)
    assert setting.executor.started == ["a", "b"]
    assert setting.stored()["a"].state == "completed"


@with_setting
async def test_nothing_is_done_that_could_not_be_stored_and_it_is_done_later(setting, monkeypatch):
    monkeypatch.setattr(service_module, "_STORE_RETRY_S", 0)
    setting.add(a=(), b=("a",))
    await setting.turn()
    write = setting.store.write

    def full(batch):
        raise StoreError("the disk is full")

    setting.store.write = full
    setting.executor.end("a")
    waiting = asyncio.ensure_future(setting.service.committed())
    await setting.turn()
    assert setting.executor.started == ["a"]
    with pytest.raises(StoreError, match="full"):
        await waiting
    with pytest.raises(StoreError):
        setting.add("r2", c=())
    assert "r2" not in setting.service.runs
    setting.store.write = write
    await setting.turn()
    assert setting.executor.started == ["a", "b"]
    assert setting.stored()["b"].phase is Phase.SUBMITTING
    assert [event.seq for event in setting.events] == list(range(1, len(setting.events) + 1))


@with_setting
async def test_a_later_life_asks_about_what_may_have_been_started_and_queues_the_rest(setting, monkeypatch):
    setting.executor.slots = 1
    setting.add(a=(), b=(), c=("a",))
    setting.service._act = lambda: None  # killed between storing and doing
    await setting.turn()
    assert setting.executor.started == []
    later = await Setting(setting.store, slots=1).open()
    assert later.executor.recovered == ["a"]
    assert [later.executor.tickets[uuid].address for uuid in later.executor.waiting] == ["b"]
    assert later.service.seq == setting.service.seq


@with_setting
async def test_an_intent_for_jobs_that_outlive_the_machine_is_flushed(setting, monkeypatch):
    flushed = []
    write = setting.store.write
    setting.store.write = lambda batch: (flushed.append(batch.is_intent), write(batch))
    setting.add(a=(), b=("a",))
    await setting.turn()
    setting.executor.outlives_host = False
    setting.executor.end("a")
    await setting.turn()
    assert flushed == [False, True, False]  # the new run (which is flushed for its own sake), the start of a, of b


@with_setting
async def test_a_fault_at_one_start_fails_that_step_alone(setting, monkeypatch):
    def fail(ticket):
        if ticket.address == "a":
            raise RuntimeError("no such thing")

    setting.executor.on_start = fail
    setting.add(a=(), b=(), c=("a",))
    await setting.turn()
    assert setting.executor.started == ["b"]
    stored = setting.stored()
    assert (stored["a"].state, stored["a"].reason) == ("failed", "Kale failed to start it: RuntimeError: no such thing")
    assert stored["c"].state == "cancelled"


@with_setting
async def test_events_are_numbered_and_told_in_order_when_a_submit_comes_between(setting, monkeypatch):
    setting.add("r1", a=())
    await setting.turn()
    setting.executor.end("a")
    setting.add("r2", b=())  # before the turn in which the end of a is stored
    await setting.turn()
    assert [event.seq for event in setting.events] == list(range(1, len(setting.events) + 1))
    assert setting.store.events(0, None, 100) == setting.events


@with_setting
async def test_an_ended_run_is_answered_from_memory_and_from_the_store(setting, monkeypatch):
    run = setting.add(a=())
    await setting.turn()
    setting.executor.end("a")
    await setting.turn()
    assert setting.service.runs == {}
    assert setting.service.find("r1") is run
    later = await Setting(setting.store).open()
    assert later.service.find(None).machine.counts() == {"completed": 1}


@with_setting
async def test_cancelling_reaches_the_executor_after_it_is_stored(setting, monkeypatch):
    run = setting.add(a=(), b=("a",))
    await setting.turn()
    assert setting.service.cancel(run, None, None) == ["a", "b"]
    assert setting.executor.cancelled == []
    await setting.service.committed()
    assert setting.stored()["a"].is_cancel_asked
    assert len(setting.executor.cancelled) == 1
    later = await Setting(setting.store).open()
    await later.turn()
    assert len(later.executor.cancelled) == 1  # asked again in the next life, in case it was not heard
