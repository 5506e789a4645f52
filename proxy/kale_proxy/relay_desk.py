"""What a relay says to its front end in its own name: replies, errors, states and sentences, in the kernel's manner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_proxy import relay_answers as answers

if TYPE_CHECKING:
    from kale_proxy.relay_front import FrontEnd
    from kale_proxy.relay_ledger import Ledger, Request


class Desk:
    """Answers requests that the kernel does not get.

    Parameters
    ----------
    front : FrontEnd
        Where answers go.
    ledger : Ledger
        In which they are noted.
    title : str
        What the kernel is, for the banner.

    Attributes
    ----------
    info : dict or None
        What the step's kernel said of itself, when it has.
    asking : list of Request
        Those who want to know that.
    count : int
        The last execution count seen.
    """

    def __init__(self, front: FrontEnd, ledger: Ledger, title: str) -> None:
        self.info: dict[str, Any] | None = None
        self.asking: list[Request] = []
        self.count = 0
        self._front = front
        self._ledger = ledger
        self._title = title

    def inform(self) -> None:
        """Answer who asked what kernel this is: with what the kernel said, or with a stand-in that lets them wait."""
        asked, self.asking = self.asking, []
        for request in asked:
            self.settle(request, self.info or answers.stand_in(self._title))

    def settle(self, request: Request, content: dict[str, Any]) -> None:
        """Answer a request that the kernel does not get."""
        self.state(request, "busy")
        self.answer(request, content)
        self.state(request, "idle")

    def fail(self, request: Request, name: str, sentence: str, content: dict[str, Any] | None = None) -> None:
        """Give a request what it still waits for: the error, its reply, idle."""
        if request.kind == "kernel_info_request":
            return  # inform does
        if not request.is_busy:
            self.state(request, "busy")
        answer = answers.without_kernel(request.kind, content or {}, name, sentence)
        if request.has_reply and not request.is_answered:
            if request.is_execute:
                answer["execution_count"] = request.count or self.count
                shown = {key: answer[key] for key in ("ename", "evalue", "traceback")}
                self._front.publish("error", self._front.made("error", request.header, shown))
            self.answer(request, answer)
        if not request.is_idle:
            self.state(request, "idle")
        self._ledger.drop(request)

    def answer(self, request: Request, content: dict[str, Any]) -> None:
        """Send a request's reply, and note that it has had it."""
        self.reply(request, content)
        self._ledger.answered(request.header["msg_id"])

    def reply(self, request: Request, content: dict[str, Any]) -> None:
        """Send a request's reply."""
        kind = request.kind.removesuffix("_request") + "_reply"
        self._front.reply(request.channel, request.identities, self._front.made(kind, request.header, content))

    def state(self, request: Request, state: str) -> None:
        """Publish ``busy`` or ``idle`` for a request."""
        parts = self._front.made("status", request.header, {"execution_state": state})
        self._front.publish("status", parts)
        self._ledger.printed(request.header["msg_id"], "status", parts[3])

    def show(self, request: Request, sentence: str) -> None:
        """Print a sentence under a cell."""
        content = {"name": "stderr", "text": f"Kale: {sentence}\n"}
        self._front.publish("stream", self._front.made("stream", request.header, content))
