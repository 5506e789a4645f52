"""Write one file so that it is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from kale_magic.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file; what was there stays if that fails, and UsageError says why."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as exc:
        raise UsageError(f"{path} can't be written: {exc.strerror or exc}.") from exc
