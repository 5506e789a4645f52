"""A kernel as the supervisor makes it: visits installed on the prepared kernel, forked, bound to sockets in the child.

``python _forked_kernel.py FOLDER/kernel.json``: serves from that folder and writes its own connection file there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from kale_proxy import stepkernel
from kale_proxy.children import start_kernel


def main(path: Path) -> None:
    app = stepkernel.prepare(path.parent)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        start_kernel(app, path.parent)
        asyncio.get_event_loop().run_forever()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
