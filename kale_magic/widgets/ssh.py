"""Logging in to a host from the notebook: what ssh asks is asked in the page, and the answer goes to ssh and nowhere else.

Owns the conversation; the login itself is :func:`kale_proxy.tunnel.dialer.log_in`. An answer is never a trait, so it is in
no saved state, no output, no history and no log; it leaves this process's memory with the login.
"""

from __future__ import annotations

import contextlib
import glob
import os
import queue
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from traitlets import Dict, List, Unicode

from kale_magic.errors import UsageError
from kale_magic.render.words import escape, plain
from kale_magic.widgets._page import script
from kale_magic.widgets.parts import Part
from kale_magic.widgets.rest import LOGGED_OUT, RestDoor
from kale_proxy.tunnel import dialer
from kale_proxy.tunnel.errors import TunnelError
from kale_proxy.tunnel.route import Route

if TYPE_CHECKING:
    from collections.abc import Hashable

    from kale_magic.widgets.desk import Desk, Seen

_LOGIN_S = 180.0
_ANSWER_S = 120.0
_LOOK_S = 5.0
_HOST_LINE = re.compile(r"^\s*host[\s=]+(.*)$", re.IGNORECASE | re.MULTILINE)
_INCLUDE = re.compile(r"^\s*include[\s=]+(.*)$", re.IGNORECASE | re.MULTILINE)


class Ssh(Part):
    """A form for a host, questions as they come, whether the connection is up; and one for Slurm's REST service."""

    _esm = script("ssh")
    title = "SSH"
    hosts = List(Unicode()).tag(sync=True)
    state = Dict({"host": "", "word": "idle", "text": ""}).tag(sync=True)
    question = Dict().tag(sync=True)
    rest = Dict(LOGGED_OUT).tag(sync=True)

    def __init__(self, desk: Desk | None = None, *, run: str | None = None, step: str | None = None) -> None:
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._looked = 0.0
        self._door = RestDoor()
        super().__init__(desk, run=run, step=step)
        self.hosts = known_hosts()

    def show(self, _: Seen) -> None:
        """Look now and then whether the connections are still up."""
        self.rest = self._door.look(self.desk.client)
        if self.state["word"] != "connected" or time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        if not dialer.is_up(self.state["host"]):
            self._is("lost", "The connection has ended. Connect again.")

    def heard(self, message: dict[str, Any]) -> str | None:
        """Begin a login, or hand on an answer."""
        if message.get("t") == "connect":
            return self._connect(str(message.get("host") or "").strip())
        if message.get("t") == "rest":
            said = self._door.do(self.desk.book.client, message)
            with self.desk.lock:
                self.rest = self._door.state
            return said
        if message.get("t") == "answer" and self.question.get("id") == message.get("id"):
            text = message.get("text")
            self._answers.put(text if isinstance(text, str) else None)
        return None

    def static(self) -> str:
        """Return what was connected, no more."""
        lines = [f"ssh: {self.state['host'] or 'no host'}, {self.state['word']}", f"REST: {self.rest['url']}, {self.rest['word']}" if self.rest["url"] else ""]
        return "".join(f"<div>{escape(line)}</div>" for line in lines if line)

    def text(self) -> str:
        """Return what was connected, no more."""
        return f"ssh: {self.state['host'] or 'no host'}, {self.state['word']}; REST: {self.rest['url'] or 'no service'}, {self.rest['word']}"

    def is_last(self, _: Seen) -> bool:
        """Return False: logins come and go, whatever the run does."""
        return False

    def mark(self, _: Seen) -> Hashable:
        """Return what the static form depends on."""
        return self.text()

    def _connect(self, host: str) -> str | None:
        if not host:
            raise UsageError("Which host?", "Write a Host of your ssh configuration.")
        try:
            Route(socket="/", login=host)
        except ValueError as exc:
            raise UsageError(str(exc), "Write a Host of your ssh configuration.") from exc
        if self._thread is not None and self._thread.is_alive():
            return "A login is under way."
        self._answers = queue.Queue()
        self.state = {"host": host, "word": "connecting", "text": ""}
        self._thread = threading.Thread(target=self._log_in, args=(host,), name="kale-login", daemon=True)
        self._thread.start()
        return None

    def _log_in(self, host: str) -> None:
        try:
            way = dialer.log_in(host, self._ask, timeout=_LOGIN_S)
        except TunnelError as exc:
            self._is("failed", str(exc))
        except Exception as exc:  # the thread's edge; what a login says of itself is for the person
            self._is("failed", f"{type(exc).__name__}: {exc}")
        else:
            self._looked = time.monotonic()
            kept = "kept for ten minutes after its last use" if way == "ssh" else "kept until this kernel ends"
            self._is("connected", f"By {way}; {kept}. Use it: --host {host}")
        finally:
            self.question = {}

    def _ask(self, prompt: str, is_shown: bool) -> str | None:
        number = self.question.get("number", 0) + 1
        self.question = {"id": os.urandom(8).hex(), "number": number, "prompt": plain(prompt).strip(), "shown": is_shown}
        try:
            return self._answers.get(timeout=_ANSWER_S)
        except queue.Empty:
            return None
        finally:
            self.question = {"number": number}

    def _is(self, word: str, text: str) -> None:
        self.state = {**self.state, "word": word, "text": text}


def known_hosts() -> list[str]:
    """Return the Hosts of the user's ssh configuration that are names and no patterns."""
    found: dict[str, None] = {}
    with contextlib.suppress(OSError):
        for text in _configuration(os.path.expanduser("~/.ssh/config")):
            for words in _HOST_LINE.findall(text):
                found.update(dict.fromkeys(word for word in words.split() if not set(word) & set('*?!"')))
    return list(found)


def _configuration(file: str) -> list[str]:
    with open(file, encoding="utf-8", errors="replace") as stream:
        texts = [stream.read()]
    for words in _INCLUDE.findall(texts[0]):
        for word in words.split():
            for path in sorted(glob.glob(os.path.join(os.path.expanduser("~/.ssh"), os.path.expanduser(word)))):
                with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
                    texts.append(stream.read())
    return texts
