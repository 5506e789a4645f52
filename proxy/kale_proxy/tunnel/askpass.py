"""A person is asked by a callback for what ssh wants to know: password, code, passphrase, whether a new host key is right.

ssh runs a program for each question (``SSH_ASKPASS``, see ssh(1)); that program is this module, which hands the question
to the process that wants to log in, by a socket of this user alone, and prints the answer. Nothing is kept, and nothing
is on a command line. Run by ssh as ``python -m kale_proxy.tunnel.askpass QUESTION``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from kale_proxy.tunnel.library import Ask

_PLACE = "KALE_ASKPASS"
_MOST = 1 << 16
_CONNECT_S = 10.0


class Questions:
    """Where ssh's questions come to while a login goes on: a folder with a socket and the program that ssh is to run.

    Parameters
    ----------
    ask : callable
        As :class:`kale_proxy.tunnel.library.Library` has it: the question, and whether the answer may be seen; None gives up.
    folder : Path
        Of this user alone, with a short path.
    """

    def __init__(self, ask: Ask, folder: Path) -> None:
        self._ask = ask
        self._folder = tempfile.TemporaryDirectory(prefix="q", dir=folder)
        place = Path(self._folder.name)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(place / "s"))
        self._listener.listen()
        program = place / "ask"
        with open(os.open(program, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w", encoding="utf-8") as file:
            root = Path(__file__).resolve().parents[2]
            file.write(f'#!/bin/sh\nPYTHONPATH={shlex.quote(os.fspath(root))} exec {shlex.quote(sys.executable)} -m kale_proxy.tunnel.askpass "$1"\n')
        self.environ = {"SSH_ASKPASS": os.fspath(program), "SSH_ASKPASS_REQUIRE": "force", _PLACE: os.fspath(place / "s")}
        self._thread = threading.Thread(target=self._serve, name="kale-askpass", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes accept
        self._listener.close()
        self._folder.cleanup()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            with stream, contextlib.suppress(OSError, ValueError):
                stream.settimeout(_CONNECT_S)
                question = json.loads(stream.makefile("rb").readline(_MOST))
                answer = self._ask(str(question["prompt"]), bool(question["is_shown"]))
                if answer is not None:
                    stream.sendall(json.dumps(answer).encode() + b"\n")


def main() -> int:
    """Ask one question; exits 1 if it was given up."""
    prompt = sys.argv[1] if len(sys.argv) > 1 else ""
    question = {"prompt": prompt, "is_shown": "(yes/no" in prompt or os.environ.get("SSH_ASKPASS_PROMPT") == "confirm"}
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(os.environ[_PLACE])
        stream.sendall(json.dumps(question).encode() + b"\n")
        line = stream.makefile("rb").readline(_MOST)
    if not line:
        return 1
    print(json.loads(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
