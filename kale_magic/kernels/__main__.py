"""``python -m kale_magic.kernels attach STEP -f FILE``: what the kernelspec of a step runs; a front end starts it.

Plain words and no provisioner, so that every front end can launch it, and a person too.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kale_magic.kernels", allow_abbrev=False, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    attach = commands.add_parser("attach", help="be a kernel that visits a step, until the front end shuts it down")
    attach.add_argument("step", metavar="STEP", help="RUN/STEP or RUN/STEP[POINT]")
    attach.add_argument("-f", dest="file", type=Path, required=True, help="connection file, written by the front end")
    kind = attach.add_mutually_exclusive_group()
    kind.add_argument("--write", action="store_true", help="names that a cell assigns become the step's")
    kind.add_argument("--main", action="store_true", help="queue behind the step's code")
    attach.add_argument("--host", default="", help="login host whose manager knows the step (a Host of your ssh configuration)")
    commands.add_parser("relays", help="be many such kernels, as lines on stdin ask for them")
    options = parser.parse_args(argv)
    if options.command == "relays":
        from kale_magic.kernels import many

        many.main()
        return 0
    from kale_magic.errors import KaleError
    from kale_magic.kernels.seek import Seeker
    from kale_magic.model.address import parse_address
    from kale_proxy.relay_front import ConnectionFileError
    from kale_proxy.relay_serve import serve

    mode = "main" if options.main else "write" if options.write else "visit"
    owner = os.environ.get("JPY_PARENT_PID", "")  # set by whoever wants its kernels to end with it
    try:
        name = str(parse_address(options.step))
        serve(options.file, name, Seeker(name, options.host), mode=mode, owner=int(owner) if owner.isdecimal() else None)
    except (KaleError, ConnectionFileError) as exc:
        sys.stderr.write(f"kale: {exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
