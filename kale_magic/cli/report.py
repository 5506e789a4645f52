"""``report``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.cli.exits import Exit
from kale_magic.cli.scope import here
from kale_magic.client import Client

if TYPE_CHECKING:
    import argparse

    from kale_magic.cli.console import Console


def report(arguments: argparse.Namespace, console: Console) -> int:
    """Write the report of a run."""
    from kale_magic.api.find import find_run
    from kale_magic.api.report import write_report

    file = Path(arguments.output)
    with Client.connect(host=arguments.host) as client:
        status = client.status(find_run(client, arguments.run, here(client)))
        write_report(client, status, file)
    console.say(f"{file} written: {status['run']} {status['state']}")
    return Exit.OK
