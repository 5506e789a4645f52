"""What a relay answers by itself, because the step is not there, or because the step must not hear of it. Pure."""

from __future__ import annotations

import platform
from typing import Any

from kale_proxy.wire import Channel

NO_DEBUGGER = (
    "A debugger would stop the whole process, and so the step: it is not offered to visitors. Look with %debug after an error of your own. "
    "Of a step that was stopped, a kernel made with --main has a debugger."
)
NO_SUBSHELLS = "This visit is a subshell already; it has none of its own."
_SUBSHELL_REQUESTS = frozenset({"create_subshell_request", "delete_subshell_request", "list_subshell_request"})
_CONTROL = frozenset({"usage_request"})
_NOT_ON_SHELL = frozenset({"debug_request", "connect_request", "kale_visit_request", "usage_request"})


def error(name: str, sentence: str) -> dict[str, Any]:
    """Return the content of an error."""
    return {"status": "error", "ename": name, "evalue": sentence, "traceback": [f"{name}: {sentence}"]}


def refusal(channel: Channel, kind: str, mode: str) -> dict[str, Any] | None:
    """Return what to answer to a request that no visitor may make; None for one that may pass.

    The control channel is not the visit's: what runs there runs as the step's own. A client in mode ``main`` waits for
    the step's code, and may then debug its own cells.
    """
    if kind == "debug_request" and mode == "main" and channel is Channel.CONTROL:
        return None
    if kind == "debug_request":
        return error("NotSupported", NO_DEBUGGER) | {"type": "response", "success": False, "message": NO_DEBUGGER}
    if kind in _SUBSHELL_REQUESTS:
        return error("NotSupported", NO_SUBSHELLS)
    is_known = kind in _CONTROL if channel is Channel.CONTROL else kind not in _NOT_ON_SHELL
    return None if is_known else error("NotSupported", f"A visitor can't send {kind} here.")


def without_kernel(kind: str, content: dict[str, Any], name: str, sentence: str) -> dict[str, Any]:
    """Return what to answer when the step's kernel is gone: harmless where a front end asks by itself."""
    at = content.get("cursor_pos", 0)
    quiet: dict[str, dict[str, Any]] = {
        "complete_request": {"matches": [], "cursor_start": at, "cursor_end": at, "metadata": {}},
        "inspect_request": {"found": False, "data": {}, "metadata": {}},
        "history_request": {"history": []},
        "comm_info_request": {"comms": {}},
    }
    if kind in quiet:
        return {"status": "ok", **quiet[kind]}
    if kind == "is_complete_request":
        return {"status": "unknown"}
    if kind == "execute_request":
        return error(name, sentence) | {"execution_count": 0, "user_expressions": {}, "payload": []}
    return error(name, sentence)


def kernel_info(of_step: dict[str, Any], title: str, mode: str) -> dict[str, Any]:
    """Return the step kernel's own information, without what a visitor does not get."""
    hidden = {"kernel subshells"} if mode == "main" else {"kernel subshells", "debugger"}
    features = [feature for feature in of_step.get("supported_features", ()) if feature not in hidden]
    banner = f"{of_step.get('banner', '')}\nKale: {title}\n".lstrip()
    has_debugger = mode == "main" and bool(of_step.get("debugger") or "debugger" in features)  # before protocol 5.5, and since
    return of_step | {"status": "ok", "supported_features": features, "debugger": has_debugger, "banner": banner}


def stand_in(title: str) -> dict[str, Any]:
    """Return the information of a kernel that does not answer yet: a front end waits for it to begin."""
    version = platform.python_version()
    language = {
        "name": "python",
        "version": version,
        "mimetype": "text/x-python",
        "codemirror_mode": {"name": "ipython", "version": 3},
        "pygments_lexer": "ipython3",
        "nbconvert_exporter": "python",
        "file_extension": ".py",
    }
    return {
        "status": "ok",
        "protocol_version": "5.4",
        "implementation": "ipython",
        "implementation_version": version,
        "language_info": language,
        "banner": f"Kale: {title}, which does not answer yet\n",
        "debugger": False,
        "help_links": [],
        "supported_features": [],
    }
