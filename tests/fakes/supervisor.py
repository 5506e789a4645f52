"""A supervisor that runs nothing: it speaks the JSON lines of ``kale_proxy.supervisor`` and plays what a step's code says.

Run as ``python supervisor.py PYTHON_IGNORED --dir DIR``. The code of a step is one of ``ok``, ``sleep SECONDS``,
``fail``, ``hang`` (until cancelled or interrupted), ``vanish`` (claims, then is gone without a result), ``refuse``,
``silent`` (never claims, never answers), ``die`` (the supervisor kills itself with kill -9). Each job that begins adds a line to ``ran.txt`` in its cwd.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

from kale_proxy import claim
from kale_proxy.spec import JobResult, JobSpec


class FakeSupervisor:
    def __init__(self, folder: Path, idle_s: float) -> None:
        self.folder = folder
        self.idle_s = idle_s
        self.jobs: dict[str, JobSpec] = {}
        self.states: dict[str, str] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.writers: set[asyncio.StreamWriter] = set()

    def listing(self):
        return [
            {"uuid": uuid, "folder": spec.folder, "pid": os.getpid(), "live": f"{self.folder}/p/1", "state": self.states[uuid]}
            for uuid, spec in self.jobs.items()
        ]

    def tell(self, message) -> None:
        for writer in self.writers:
            writer.write(json.dumps(message).encode() + b"\n")

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        writer.write(json.dumps({"ev": "hello", "version": 1, "pid": os.getpid(), "jobs": self.listing()}).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self.request(writer, json.loads(line))
        self.writers.discard(writer)
        writer.close()

    def request(self, writer: asyncio.StreamWriter, message) -> None:
        uuid = message.get("uuid")
        if message["op"] == "start":
            self.start(writer, JobSpec.from_dict(message["spec"]))
        elif uuid in self.tasks and message["op"] == "cancel":
            self.tasks[uuid].cancel()
            self.end(self.jobs[uuid], "cancelled", "cancelled by the user")
        elif uuid in self.jobs and message["op"] == "interrupt":
            self.states[uuid] = "paused"
            self.tell({"ev": "state", "uuid": uuid, "state": "paused", "reason": "stopped; its kernel stays for 600 s"})
        elif uuid in self.tasks and message["op"] == "release":
            self.tasks[uuid].cancel()
            self.end(self.jobs[uuid], "cancelled", "stopped by you")

    def start(self, writer: asyncio.StreamWriter, spec: JobSpec) -> None:
        if spec.code == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if spec.code == "silent":
            return
        if spec.uuid in self.jobs:
            self.tell_running(spec)
            return
        with contextlib.suppress(OSError, ValueError):
            result = JobResult.from_json((Path(spec.folder) / "result.json").read_text())
            if result.uuid == spec.uuid:
                self.tell({"ev": "ended", "uuid": spec.uuid, "result": json.loads(result.to_json())})
                return
        if spec.code == "refuse":
            self.tell({"ev": "refused", "uuid": spec.uuid, "reason": "the disk is full"})
            return
        try:
            claim.take(spec)
        except claim.ClaimTaken as exc:
            self.tell({"ev": "refused", "uuid": spec.uuid, "reason": str(exc)})
            return
        with open(Path(spec.cwd) / "ran.txt", "a") as file:
            file.write(f"{spec.step} {spec.point} {spec.attempt}\n")
        self.jobs[spec.uuid] = spec
        self.states[spec.uuid] = "running"
        self.tell_running(spec)
        self.tasks[spec.uuid] = asyncio.get_running_loop().create_task(self.play(spec))

    def tell_running(self, spec: JobSpec) -> None:
        item = next(item for item in self.listing() if item["uuid"] == spec.uuid)
        self.tell({"ev": "running", **item, "at": "2026-01-01T00:00:00.000Z"})

    async def play(self, spec: JobSpec) -> None:
        word, _, rest = spec.code.partition(" ")
        if word == "sleep":
            await asyncio.sleep(float(rest))
        elif word == "hang":
            await asyncio.sleep(3600)
        elif word == "vanish":
            path = Path(spec.folder) / f"attempt-{spec.attempt}.claim"
            path.write_text(json.dumps({"uuid": spec.uuid, "pid": 999_999_999, "pid_start": 1, "boot": claim.boot_id()}))
            del self.jobs[spec.uuid]
            os._exit(9)
        if word == "fail":
            self.end(spec, "failed", "NameError: name 'q' is not defined", {"ename": "NameError", "evalue": "q", "traceback": ["..."]})
        else:
            self.end(spec, "completed", "")

    def end(self, spec: JobSpec, state: str, reason: str, error=None) -> None:
        self.jobs.pop(spec.uuid, None)
        self.tasks.pop(spec.uuid, None)
        result = JobResult(
            uuid=spec.uuid, attempt=spec.attempt, state=state, reason=reason, error=error,
            exit_code=0 if state == "completed" else 1, node="here", pid=os.getpid(),
            outputs={name: {"file": f"{name}.json"} for name in spec.outputs} if state == "completed" else {},
        )  # fmt: skip
        path = Path(spec.folder) / "result.json"
        path.with_suffix(".tmp").write_text(result.to_json())
        path.with_suffix(".tmp").replace(path)
        self.tell({"ev": "ended", "uuid": spec.uuid, "result": json.loads(result.to_json())})

    async def serve(self) -> None:
        path = self.folder / "s"
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self.client, str(path), limit=64 << 20)
        (self.folder / "serve.json").write_text(json.dumps({"pid": os.getpid()}))
        idle = 0.0
        while idle < self.idle_s:
            await asyncio.sleep(0.25)
            idle = 0.0 if self.jobs or self.writers else idle + 0.25
        server.close()
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--idle", type=float, default=3.0)
    options = parser.parse_args()
    asyncio.run(FakeSupervisor(options.dir, options.idle).serve())
