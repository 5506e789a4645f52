"""How a pilot starts the supervisor of an environment: modules, setup lines and variables are made on the node, by bash there."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kale_magic.executors import _environment
from kale_magic.version import __version__

if TYPE_CHECKING:
    from kale_magic.abc import Environment


@dataclass(frozen=True, slots=True)
class Launch:
    """A command (the pilot adds the folder as its last word), its variables, and the key by which supervisors are told apart."""

    key: str
    argv: tuple[str, ...]
    environ: dict[str, str]


def launch_of(environment: Environment) -> Launch:
    """Return how to start a supervisor for an environment; equal environments have equal keys."""
    serve = (environment.python, "-m", "kale_proxy", "serve", "--in-pool", "--dir")
    parts = [__version__, environment.python, *map(repr, (environment.environ, environment.modules, environment.setup, environment.env))]
    key = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:12]
    argv = serve
    if environment.modules or environment.setup or environment.env:
        argv = ("bash", "--noprofile", "--norc", "-c", _environment.script_before(environment, f'exec {shlex.join(serve)} "$1"'), "kale")
    return Launch(key, argv, dict(environment.environ))


def failure(log: str, code: int | None) -> str:
    """Return the sentence for a supervisor that did not start: the line that failed, or its last words."""
    if code is None:
        return "Python for its environment did not answer in time on the node"
    return _environment.failure_words(log, code)
