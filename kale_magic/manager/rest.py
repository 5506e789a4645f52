"""The login to Slurm's REST service, as clients ask for it: begun, looked at, forgotten. The token goes one way only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic import protocol
from kale_magic.errors import UsageError
from kale_magic.executors.lanes import LaneExecutor
from kale_magic.executors.slurm_rest import NAME, RestExecutor
from kale_magic.model.events import iso

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kale_magic.abc import Executor

_ACTIONS = ("log_in", "look", "forget")


class Rest:
    """See the module.

    Parameters
    ----------
    executors : mapping of str to Executor
        The manager's.
    """

    def __init__(self, executors: Mapping[str, Executor]) -> None:
        lanes = executors[NAME]
        assert isinstance(lanes, LaneExecutor)
        assert isinstance(lanes.inner, RestExecutor)
        self._executor = lanes.inner

    def ops(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        """Return what clients may ask, by the words of the protocol."""
        return {protocol.REST: self._handle}

    async def _handle(self, words: dict[str, Any]) -> dict[str, Any]:
        action, auth = words.get("action"), self._executor.authenticator
        if action not in _ACTIONS:
            raise UsageError("rest: there is no such action.", f"There is: {', '.join(_ACTIONS)}.")
        if action == "log_in":
            await auth.log_in(str(words.get("url") or ""), str(words.get("user") or ""), str(words.get("token") or ""))
            self._executor.look_again()
        elif action == "forget":
            auth.forget()
        return self._state()

    def _state(self) -> dict[str, Any]:
        """Return address and user of the login, until when it holds, and whether Slurm answers; no token."""
        login = self._executor.authenticator.login
        if login is None:
            return {}
        about = self._executor.describe()
        return {
            "url": login.url,
            "user": login.user,
            "until": None if login.until is None else iso(login.until),
            "is_over": login.is_over,
            "answers": about["answers"],
            "version": about["version"],
        }
