"""Logging in to Slurm's REST service from the notebook: the SSH part's other way.

The token comes as a message of the page, goes to the manager and nowhere else: it is no trait, and this process forgets it at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kale_magic.errors import KaleError
from kale_magic.render.view import parse_time

if TYPE_CHECKING:
    from kale_magic.client import Client

EXECUTOR = "slurm-rest"
LOGGED_OUT: dict[str, Any] = {"url": "", "user": "", "word": "idle", "text": ""}
_LOOK_S = 5.0


class RestDoor:
    """What the part shows of the login, asked of the manager now and then."""

    def __init__(self) -> None:
        self._looked = 0.0
        self.state: dict[str, Any] = LOGGED_OUT

    def look(self, client: Client) -> dict[str, Any]:
        """Return the login as it is: word, text, url, user; asks at most every five seconds."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            try:
                self.state = shown(client.rest())
            except KaleError as exc:
                self.state = {**self.state, "word": "lost", "text": str(exc)}
        return self.state

    def do(self, client: Client, message: dict[str, Any]) -> str:
        """Log in, or forget the login; return what came of it. Raises KaleError."""
        if message.get("forget"):
            self.state = shown(client.rest("forget"))
            return "The login is forgotten."
        words = {key: str(message.get(key) or "").strip() for key in ("url", "user", "token")}
        self.state = shown(client.rest("log_in", **words))
        return f"Use it: --executor {EXECUTOR}; its queue is a tab of the queue."


def shown(login: dict[str, Any]) -> dict[str, Any]:
    """Return a login as the manager tells it in words."""
    if not login:
        return LOGGED_OUT
    until = parse_time(login.get("until"))
    word = "lost" if login["is_over"] else "connected" if login["answers"] else "lost"
    ends = f", until {until.astimezone().strftime('%H:%M on %d %b')}" if until is not None else ""
    text = "The token has ended: make another one." if login["is_over"] else f"{login['user']} at {login['url']}{ends}"
    plain = " The line is not encrypted: who can read it can read the token." if login["url"].startswith("http:") else ""
    silent = "" if login["answers"] or login["is_over"] else " Slurm does not answer now."
    return {"url": login["url"], "user": login["user"], "word": word, "text": f"{text}.{silent}{plain}".replace("..", ".")}
