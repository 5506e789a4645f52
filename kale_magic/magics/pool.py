"""``%kale_pool``: allocations that are kept open, into which steps go without queueing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.api.pools import open_pool
from kale_magic.errors import UsageError
from kale_magic.render.pools import NONE, pools_bundle

if TYPE_CHECKING:
    from types import SimpleNamespace

    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics

_ASKED = ("nodes", "cpus", "gpus", "memory", "walltime", "queue", "account", "qos", "constraint", "reservation", "native")


def pool(session: KaleMagics, request: Request) -> None:
    """Open, list or close pools."""
    args = request.args
    action = args.action or "list"
    if action == "list":
        _list(session)
        return
    if not args.name:
        raise UsageError(f"%kale_pool {action} needs the name of a pool.", f"Write: %kale_pool {action} NAME")
    if action == "open":
        _open(session, args)
    else:
        _close(session, args)


def _list(session: KaleMagics) -> None:
    pools = session.client.pools()
    if pools:
        session.show(pools_bundle(pools))
    else:
        print(NONE)


def _open(session: KaleMagics, args: SimpleNamespace) -> None:
    asked = {name: value for name in _ASKED if (value := getattr(args, name)) is not None}
    found = open_pool(session.client, args.name, args.executor, **asked)
    job = f" (job {found['native_id']})" if found.get("native_id") else ""
    print(f"Pool {args.name} is {found['state']}{job}. Steps go into it by: %kale_submit --pool {args.name}")


def _close(session: KaleMagics, args: SimpleNamespace) -> None:
    found = session.client.close_pool(args.name, is_now=args.now)
    if cancelled := found.get("cancelled"):
        print(f"Cancelled: {', '.join(cancelled)}")
    waits = "" if args.now or not (found["running"] or found["waiting"]) else " when the steps that were submitted to it have ended"
    print(f"Pool {args.name} closes{waits}.")
