"""One relay's place at the front end of the kernel ``kale``: passes on what it says, and hears which cells are done.

Of a cell that runs in many steps at once the output is kept back, as a :class:`Part`, until its turn comes.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from kale_proxy.comms import OwnComms
from kale_proxy.relay import Relay
from kale_proxy.wire import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kale_proxy.relay_front import FrontEnd
    from kale_proxy.relay_line import Seek

_KEPT_BYTES = 16 << 20
_SHOWN = frozenset({"stream", "display_data", "execute_result", "error"})
_AT_ONCE = frozenset({"comm_open", "comm_msg", "comm_close", "update_display_data"})


class Seat:
    """Stands between a relay and the front end; see :class:`kale_proxy.relay_front.FrontEnd`.

    Parameters
    ----------
    front : FrontEnd
        The front end's side.
    on_status, on_reply : callable
        Called with a request's id and the content of a status, of a reply, after it has gone out.

    Attributes
    ----------
    comms : OwnComms
        Those between the front end and this relay's kernel.
    parts : dict
        By the request's id: cells whose output is kept back.
    is_closed : bool
        Whether the visit is given up: nothing passes any more.
    """

    def __init__(
        self, front: FrontEnd, on_status: Callable[[str, bytes], None], on_reply: Callable[[str, bytes], None]
    ) -> None:
        self.comms = OwnComms()
        self.parts: dict[str, Part] = {}
        self.is_closed = False
        self._front = front
        self._on_status = on_status
        self._on_reply = on_reply

    @property
    def is_full(self) -> bool:
        """See the protocol, for this and the next three."""
        return self._front.is_full

    def made(self, kind: str, parent: dict[str, Any], content: dict[str, Any]) -> list[bytes]:  # noqa: D102
        return self._front.made(kind, parent, content)

    def publish(self, kind: str, parts: Sequence[bytes]) -> None:  # noqa: D102
        if self.is_closed:
            return
        if kind.startswith("comm_"):
            self.comms.follow(parts)
        if kind != "status" and not self.parts:
            self._front.publish(kind, parts)
            return
        msg_id = str(json.loads(parts[1]).get("msg_id"))
        if msg_id in self.parts:
            self.parts[msg_id].printed(kind, parts)
        else:
            self._front.publish(kind, parts)
        if kind == "status":
            self._on_status(msg_id, parts[3])

    def reply(self, channel: Channel, identities: Sequence[bytes], parts: Sequence[bytes]) -> None:  # noqa: D102
        if self.is_closed:
            return
        if channel is Channel.STDIN:
            self._front.reply(channel, identities, parts)
            return
        msg_id = str(json.loads(parts[1]).get("msg_id"))
        if msg_id in self.parts:
            self.parts[msg_id].answered(json.loads(parts[3]))
        else:
            self._front.reply(channel, identities, parts)
        self._on_reply(msg_id, parts[3])


class Visit:
    """A visit to one step: a relay in its seat. ``key`` is host, name, mode; ``began_at`` by ``time.time()``."""

    def __init__(self, key: tuple[str, str, str], seat: Seat, seek: Seek) -> None:
        self.key = key
        self.seat = seat
        self.began_at = time.time()
        self.relay = Relay(seat, key[1], seek, key[2])

    @property
    def name(self) -> str:
        """``RUN/STEP``."""
        return self.key[1]


class Part:
    """What one step shows of a cell that runs in many.

    Parameters
    ----------
    front : FrontEnd
        Where it is shown.
    name : str
        The step.
    parent : dict
        Header of the request under which it is shown.
    """

    def __init__(self, front: FrontEnd, name: str, parent: dict[str, Any]) -> None:
        self.name = name
        self.failure = ""
        self.is_late = False
        self._front = front
        self._parent = parent
        self._kept: list[tuple[str, list[bytes]]] = []
        self._bytes = 0
        self._has_more = False

    def printed(self, kind: str, parts: Sequence[bytes]) -> None:
        """Keep an iopub message; what belongs to widgets and displays that are there goes out at once."""
        mine = [parts[0], json.dumps(self._parent).encode(), *parts[2:]]
        if kind in _AT_ONCE:
            self._front.publish(kind, mine)
        elif kind == "clear_output":
            self._kept.clear()
        elif kind in _SHOWN:
            self._bytes += sum(map(len, parts))
            self._has_more = self._bytes > _KEPT_BYTES
            if not self._has_more:
                self._kept.append((kind, mine))

    def answered(self, content: dict[str, Any]) -> None:
        """Take note of how it ended."""
        if content.get("status") != "ok" and not self.failure:
            self.failure = f"{content.get('ename') or content.get('status')}: {content.get('evalue') or ''}".rstrip(": ")

    def show(self) -> None:
        """Publish it, under the step's name."""
        self._say("stdout", f"── {self.name}\n")
        is_told = False
        for kind, parts in self._kept:
            content = json.loads(parts[3])
            if kind == "error":
                self._say("stderr", "\n".join(map(str, content.get("traceback", ()))) + "\n")
                is_told = not self.is_late
            elif kind == "execute_result":
                shown = {"data": content["data"], "metadata": content.get("metadata", {}), "transient": {}}
                self._front.publish("display_data", self._front.made("display_data", self._parent, shown))
            else:
                self._front.publish(kind, parts)
        if self._has_more:
            self._say("stderr", f"Kale: more than {_KEPT_BYTES >> 20} MiB were printed; the rest is left out.\n")
        if self.failure and not is_told:
            self._say("stderr", f"{self.failure}\n")

    def _say(self, stream: str, text: str) -> None:
        self._front.publish("stream", self._front.made("stream", self._parent, {"name": stream, "text": text}))
