"""What can go wrong on the way to another host. Each message is a sentence or two for a person."""

from __future__ import annotations

from kale_proxy.wire import AgentGone


class TunnelError(AgentGone):
    """A host can't be reached now; trying again later may help, and only then."""

    is_transient = True


class HostKeyError(TunnelError):
    """A host's key is unknown or has changed: a person must look. Never tried again by itself."""

    is_transient = False


class AuthenticationError(TunnelError):
    """A login was refused, or would have to ask a person and can't. Never tried again by itself."""

    is_transient = False
