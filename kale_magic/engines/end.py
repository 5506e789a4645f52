"""End an engine with all that it started: asked at first, killed after a grace, whoever has asked being gone by then or not.

Started by the manager as a process of its own: cwltool, waiting for its threads, does not end when it is asked to, and
a manager that ends within the grace would leave it behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from kale_proxy import claim

GRACE_S = 5.0
_LOOK_S = 0.05


def main(record: Path) -> None:
    """End the process group of the engine that ``record`` (``process.json``) names, if it is still that process."""
    owner = json.loads(record.read_bytes())
    end = time.monotonic() + GRACE_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if claim.is_alive(owner):
            os.killpg(owner["pid"], signal.SIGTERM)
        while claim.is_alive(owner) and time.monotonic() < end:
            time.sleep(_LOOK_S)
        if claim.is_alive(owner):
            os.killpg(owner["pid"], signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
