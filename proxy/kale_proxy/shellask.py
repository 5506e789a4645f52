"""``read`` in a shell step: the step is gated and a person is asked, as by ``input()`` in a Python step.

A shell step has no input of its own. Where its script says ``read`` and nothing is redirected there, a function of that
name asks this process through two pipes in the live folder; the question and the answer themselves are files in the
step's folder, which whoever lets it go on can reach on any host (:mod:`kale_proxy.gate`). Passwords are not asked for so,
since they would be on a shared disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from kale_proxy.gate import DECISION, MARK, Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_proxy.spec import JobSpec

VARIABLE = "KALE_ASK"  # the folder of the pipes
_READS = re.compile(r"^[^#\n]*\bread\b", re.MULTILINE)
# One line, so that bash counts the lines of the cell as far as it can; all names of its own begin with kale_.
_FUNCTION = r"""
read() {
if ! [ /dev/fd/0 -ef /dev/null ]; then builtin read "$@"; return; fi
local kale_prompt= kale_options=() kale_answer
while [ $# -gt 0 ]; do case "$1" in
-u*) builtin read "${kale_options[@]}" "$@"; return ;;
-*s*) echo "read -s: a shell step can't ask for a password, which would be on a shared disk; a Python step can (getpass)" >&2; return 2 ;;
-p|-rp|-ep|-erp|-rep) kale_prompt="$2"; if [ "$1" != -p ]; then kale_options+=(-r); fi; shift 2 ;;
-p?*) kale_prompt="${1#-p}"; shift ;;
-t) shift 2 ;;
-[adinN]) kale_options+=("$1" "$2"); shift 2 ;;
-*) kale_options+=("$1"); shift ;;
*) break ;; esac; done
printf "%s\n" "${kale_prompt//[$'\n']/ }" > "$KALE_ASK/ask" || return 1
IFS= builtin read -r kale_answer < "$KALE_ASK/answer" || return 1
builtin read "${kale_options[@]}" "$@" <<< "$kale_answer"
}
"""


def preamble(code: str) -> str:
    """Return what stands before a script that asks; empty if it does not."""
    return _FUNCTION.lstrip("\n") if _READS.search(code) else ""


class Desk:
    """Asks the person for a running script, in a thread.

    Parameters
    ----------
    spec : JobSpec
        The attempt.
    live : Path
        Its live folder.
    tell : callable
        Called with state and reason whenever they change, for the supervisor.
    """

    def __init__(self, spec: JobSpec, live: Path, tell: Callable[[str, str], None]) -> None:
        self._folder = Path(spec.folder)
        self._live = live
        self._gate = Gate(spec, self._folder, tell)

    def open(self) -> dict[str, str]:
        """Begin; return the variables by which the script finds us."""
        for name in ("ask", "answer"):
            os.mkfifo(self._live / name, 0o600)
        threading.Thread(target=self._serve, name="kale-ask", daemon=True).start()
        return {VARIABLE: str(self._live)}

    def close(self) -> None:
        """Leave no question behind."""
        for name in (MARK, DECISION):
            (self._folder / name).unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            prompt = (self._live / "ask").read_text(encoding="utf-8", errors="replace").rstrip("\n")
            try:
                answer = self._gate.ask(prompt, is_password=False)
            except EOFError:
                answer = None
            with (self._live / "answer").open("w", encoding="utf-8") as pipe:
                if answer is not None:
                    with contextlib.suppress(OSError), (self._folder / "stdout.log").open("a", encoding="utf-8") as log:
                        log.write(f"{prompt}{answer}\n")
                    pipe.write(f"{answer}\n")
