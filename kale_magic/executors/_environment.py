"""From what a step says about its environment to the variables it starts with: modules, setup lines, ``--env``.

Only bash can run ``module load`` and ``source``; it is started when a step has such lines, once per distinct
set of them, and prints what it ended with. No login shell: what the person's profile does was done when the
notebook was started, and doing it twice undoes setups such as conda's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kale_magic.errors import SubmitError
from kale_magic.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kale_magic.abc import Environment

DEADLINE_S = 60.0
_SHELLS_OWN = frozenset({"_", "SHLVL", "PWD", "OLDPWD"})
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_FAILED = 97
_MARK = "kale-line: "
_NO_MODULE = "there is no module command"
_KEPT = 64
FIND_MODULE = """\
if ! type module >/dev/null 2>&1; then
  for __kale_file in "$MODULESHOME/init/bash" "$LMOD_PKG/init/bash" /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /usr/share/lmod/lmod/init/bash; do
    if [ -r "$__kale_file" ]; then . "$__kale_file"; break; fi
  done
  unset __kale_file
fi
"""
_REQUIRE_MODULE = """\
if ! type module >/dev/null 2>&1; then echo "there is no module command on $(uname -n)"; exit 97; fi
"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An environment as it is: every variable, and a short name for the pair of interpreter and variables."""

    python: str
    variables: dict[str, str]
    key: str


class Environments:
    """Prepared environments, so that bash runs once per run and distinct environment.

    Not once for all: the person may mend a setup file between two runs.
    """

    def __init__(self) -> None:
        self._plain: dict[Environment, Prepared] = {}
        self._by_shell: OrderedDict[tuple[str, Environment], asyncio.Task[Prepared]] = OrderedDict()

    def at_once(self, environment: Environment) -> Prepared | None:
        """Return it if no shell is needed."""
        if needs_shell(environment):
            return None
        found = self._plain.get(environment)
        if found is None:
            if len(self._plain) >= _KEPT:
                self._plain.clear()
            found = self._plain[environment] = prepare(environment)
        return found

    async def by_shell(self, run: str, environment: Environment) -> Prepared:
        """Let bash prepare it, in a thread; raises SubmitError as :func:`prepare`."""
        key = (run, environment)
        if key not in self._by_shell:
            if len(self._by_shell) >= _KEPT:
                self._by_shell.popitem(last=False)
            self._by_shell[key] = asyncio.get_running_loop().create_task(asyncio.to_thread(prepare, environment))
        try:
            return await asyncio.shield(self._by_shell[key])
        except SubmitError:
            self._by_shell.pop(key, None)
            raise


def needs_shell(environment: Environment) -> bool:
    """Whether bash must run to prepare it, which may take seconds."""
    return bool(environment.modules or environment.setup)


def prepare(environment: Environment) -> Prepared:
    """Return the final variables; blocks up to :data:`DEADLINE_S` when bash is needed.

    Raises
    ------
    SubmitError
        A module or setup line failed; the message has the line and what it said.
    """
    variables = dict(environment.environ)
    if needs_shell(environment):
        variables = _by_shell(environment, variables)
    for name, value in environment.env:
        variables[name] = expand(value, variables)
    body = "\0".join([__version__, environment.python, *(f"{name}={variables[name]}" for name in sorted(variables))])
    key = hashlib.sha256(body.encode(errors="surrogateescape")).hexdigest()[:12]
    return Prepared(environment.python, variables, key)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$NAME`` and ``${NAME}`` as a shell does; a name that is not set becomes nothing."""
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)


def shell_lines(environment: Environment) -> list[str]:
    """Return the lines that make the step's additions in bash, for a person to read and run."""
    lines = [f"module load {shlex.quote(name)}" for name in environment.modules]
    lines += environment.setup
    lines += [export_line(name, value) for name, value in environment.env]
    return lines


def export_line(name: str, value: str) -> str:
    """Return the line of a script that sets a variable; ``$NAME`` in the value is resolved where it runs."""
    return f'export {name}="{_quoted(value)}"'


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`").replace("$(", "\\$(")


def script_before(environment: Environment, command: str) -> str:
    """Return a bash script that makes an environment and then runs ``command``; what failed is told by :func:`failure_words`."""
    return "\n".join([*_checked_lines(environment), *(export_line(name, value) for name, value in environment.env), command])


def _script(environment: Environment) -> str:
    return "\n".join([*_checked_lines(environment), "env -0 >&3"])


def _checked_lines(environment: Environment) -> list[str]:
    lines = [f"module load {shlex.quote(name)}" for name in environment.modules]
    checked = [*lines, *environment.setup]
    body = [FIND_MODULE + _REQUIRE_MODULE] if lines else []
    body += [
        f"eval {shlex.quote(line)} || {{ echo; echo {shlex.quote(_MARK + line)}; exit {_FAILED}; }}" for line in checked
    ]
    return body


def _by_shell(environment: Environment, variables: dict[str, str]) -> dict[str, str]:
    with tempfile.TemporaryFile() as found, tempfile.TemporaryFile() as said:
        command = ["bash", "--noprofile", "--norc", "-c", f"exec 3>&{found.fileno()}\n{_script(environment)}"]
        try:
            process = subprocess.Popen(
                command,
                env=variables,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[found.fileno()],
                start_new_session=True,
            )
        except OSError as exc:
            raise SubmitError(f"bash, which --modules and --setup need, can't be started: {exc.strerror}.") from exc
        with process:
            try:
                code = process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired as exc:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                lines = "; ".join([*(f"module load {name}" for name in environment.modules), *environment.setup])
                raise SubmitError(f"Its setup did not end within {DEADLINE_S:g} s: {lines}.") from exc
        said.seek(0)
        output = said.read().decode(errors="replace")
        found.seek(0)
        variables = dict(_pairs(found.read().split(b"\0")))
    if code != 0 or not variables:
        raise SubmitError(failure_words(output, code))
    return variables


def _pairs(items: Iterable[bytes]) -> Iterable[tuple[str, str]]:
    for item in items:
        name, equals, value = os.fsdecode(item).partition("=")
        if equals and name not in _SHELLS_OWN:
            yield name, value


def failure_words(output: str, code: int) -> str:
    """Return the sentence for what bash said: its last words, and the line that was marked as failed."""
    said, is_marked, line = output.rpartition(_MARK)
    words = " ".join((said if is_marked else output).split())[-500:]
    words = re.sub(r"^bash: line \d+: ", "", words).rstrip(".")
    if not is_marked:
        return (
            f"--modules can't be loaded: {words}."
            if _NO_MODULE in words
            else f"Its setup ended with exit code {code}: {words}."
        )
    return f"`{line.strip()}` failed{': ' + words if words else ''}."
