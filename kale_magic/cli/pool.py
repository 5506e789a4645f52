"""``pool open|list|close``: allocations that are kept open, seen from a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.cli.exits import Exit
from kale_magic.client import Client

if TYPE_CHECKING:
    import argparse

    from kale_magic.cli.console import Console

_ASKED = ("nodes", "cpus", "gpus", "memory", "walltime", "queue", "account", "qos", "constraint", "reservation", "native")


def open_(arguments: argparse.Namespace, console: Console) -> int:
    """Open a pool."""
    from kale_magic.api.pools import open_pool

    asked = {name: value for name in _ASKED if (value := getattr(arguments, name)) is not None}
    with Client.connect(host=arguments.host) as client:
        found = open_pool(client, arguments.name, arguments.executor, **asked)
    if console.is_json:
        console.data(found)
    console.say(f"Pool {arguments.name} is {found['state']}; steps go into it by: jupyter kale run FILE --pool {arguments.name}")
    return Exit.OK


def list_(arguments: argparse.Namespace, console: Console) -> int:
    """List the pools."""
    from kale_magic.render.pools import pools_text

    with Client.connect(host=arguments.host) as client:
        found = client.pools()
    if console.is_json:
        console.data(found)
    else:
        console.say(pools_text(found))
    return Exit.OK


def close(arguments: argparse.Namespace, console: Console) -> int:
    """Close a pool."""
    with Client.connect(host=arguments.host) as client:
        found = client.close_pool(arguments.name, is_now=arguments.now)
    if console.is_json:
        console.data(found)
    for name in found.get("cancelled", ()):
        console.say(f"cancelled {name}")
    console.say(f"Pool {arguments.name} is being closed.")
    return Exit.OK
