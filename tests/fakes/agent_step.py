"""A step for tests of the agent: a real ipykernel with a journal, and a stand-in for the supervisor.

``python agent_step.py LIVE FLAVOUR CONSTANTS`` with FLAVOUR ``visits`` (Kale's visits), ``bare`` (plain subshells) or
``none`` (a kernel that claims to have no subshells). Forks an agent whenever somebody connects and none
is there, as the supervisor does. CONSTANTS is a JSON object of waits (``GRACE_S`` ...) to be shorter than in life. Prints JSON lines {"kernel": pid}, {"agent": pid}, {"ended": pid};
ends with everything it started when its standard input closes.
"""

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

from kale_proxy import agent, agent_connection


def run_kernel(live: Path, flavour: str) -> None:
    os.dup2(2, 1)  # what a kernel says at its start is not for whoever reads our JSON lines
    import zmq
    from ipykernel.iostream import IOPubThread
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelapp import IPKernelApp

    from kale_proxy.journal import JournalWriter

    class Teed(IOPubThread):
        journal = JournalWriter(live)

        def _really_send(self, msg, *args, **kwargs):
            self.journal.append([bytes(part) for part in msg])
            super()._really_send(msg, *args, **kwargs)

    class Kernel(IPythonKernel):
        @property
        def kernel_info(self):
            info = super().kernel_info
            return info | ({"supported_features": []} if flavour == "none" else {})

    class App(IPKernelApp):
        def init_iopub(self, context):
            self.iopub_socket = context.socket(zmq.XPUB)
            self.iopub_port = self._bind_socket(self.iopub_socket, self.iopub_port)
            self.iopub_thread = Teed(self.iopub_socket, pipe=False, session=self.session)
            self.iopub_thread.start()
            self.iopub_socket = self.iopub_thread.background_socket

        def init_parentpoller(self):
            pass

    ports = {f"{name}_port": n for n, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
    key = os.urandom(16).hex()
    app = App.instance(
        transport="ipc",
        ip=str(live / "k"),
        connection_file=str(live / "unused.json"),
        kernel_class=Kernel,
        capture_fd_output=False,
        **ports,
    )
    app.config.HistoryManager.enabled = False
    app.initialize([])
    app.session.key = key.encode()
    if flavour == "visits":
        from kale_proxy import visits

        visits.install(app.kernel)
    info = ports | {"transport": "ipc", "ip": str(live / "k"), "key": key, "signature_scheme": "hmac-sha256"}
    info["kale_visits"] = flavour == "visits"
    app.kernel.start()
    temporary = live / "kernel.json.new"
    temporary.write_text(json.dumps(info))
    temporary.replace(live / "kernel.json")
    app.io_loop = app.kernel.io_loop
    app.io_loop.start()


def say(**fields) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def fork(function, *args) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function(*args)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def main(live: Path, flavour: str, constants: dict[str, float]) -> None:
    for name, value in constants.items():
        module = agent if hasattr(agent, name) else agent_connection
        assert hasattr(module, name), name
        setattr(module, name, value)
    agent.preload()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(live / "a"))
    listener.listen(64)
    kernel = fork(run_kernel, live, flavour)
    say(kernel=kernel)
    server = None
    while True:
        watched = [sys.stdin] if server else [sys.stdin, listener]
        ready, _, _ = select.select(watched, [], [], 0.02 if server else 1.0)
        if sys.stdin in ready:
            break
        if server is None and listener in ready:
            server = fork(agent.run, listener, live, kernel)
            say(agent=server)
        if server is not None and os.waitpid(server, os.WNOHANG)[0]:
            say(ended=server)
            server = None
    for pid in filter(None, (server, kernel)):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
