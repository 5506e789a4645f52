"""A manager on another host, asked again and again in a thread of its own: a slow line holds up nothing else.

Owns the thread and what was answered last, with its moment. A manager is started there once; a host that can't be reached
then is left alone, for who tries a login too often is locked out. Called by parts that show several hosts.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kale_magic import config
from kale_magic.client import Client
from kale_magic.errors import KaleError

if TYPE_CHECKING:
    from collections.abc import Callable


class Far:
    """One host.

    Parameters
    ----------
    host : str
        A Host of the user's ssh configuration.
    ask : callable
        Asks a client for a list.
    every_s : float
        How often.
    """

    def __init__(self, host: str, ask: Callable[[Client], list[dict[str, Any]]], every_s: float) -> None:
        self.host = host
        self.found: list[dict[str, Any]] = []
        self.at = 0.0
        self.problem = ""
        self._ask, self._every_s = ask, every_s
        self._client = Client(replace(config.load(), host=host), start=False)
        self._wake = threading.Event()
        self._is_closed = False
        self.is_over = False
        self._thread = threading.Thread(target=self._run, name=f"kale-far-{host}", daemon=True)
        self._thread.start()

    @property
    def client(self) -> Client:
        """The manager there, by the thread that asks; it must run."""
        return self._client

    def look_soon(self) -> None:
        """Ask again without delay."""
        self._wake.set()

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        self._wake.set()

    def _run(self) -> None:
        try:
            Client.connect(host=self.host).close()
            while not self._is_closed:
                self._wake.clear()
                try:
                    self.found, self.at, self.problem = self._ask(self._client), time.time(), ""
                except KaleError as exc:
                    self.problem = str(exc)
                self._wake.wait(self._every_s)
        except KaleError as exc:
            self.problem = str(exc)
        finally:
            self.is_over = True
            self._client.close()
