"""What a batch system other than Slurm is told and what it says: the hooks that ``_pbs``, ``_lsf`` and ``_flux`` fill. Pure.

``queues`` drives them; a dialect never runs anything itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kale_magic.executors.slurm_text import Line
    from kale_magic.model.resources import Resources


class Dialect(ABC):
    """One batch system.

    Attributes
    ----------
    system, program : str
        Its name for people, and the program whose absence says that it is not here.
    mark : str
        What a directive's line begins with.
    array : str
        A pattern of directives that ask for an array.
    unsure, full, none, over : tuple of str
        Words, in lower case, by which it says that it can't be reached, that it takes no more jobs now, that it has no job to
        show, and that a job to be cancelled is over already.
    carried : tuple of str
        Variables of the manager's that its programs need.
    workdir : str
        The variable that tells a job from which folder it was submitted, where a batch script relies on one.
    waits_s : float
        So long may the command that shows jobs wait of its own accord, to spare its server.
    """

    system = ""
    program = ""
    mark = ""
    array = r"(?!)"
    unsure: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    workdir = ""
    waits_s = 0.0

    @abstractmethod
    def lack(self, asked: Resources) -> str:
        """Return the option that can't be told to it, and what to write instead, as the end of a sentence; empty if all can."""

    @abstractmethod
    def directives(self, asked: Resources, name: str, log: str) -> list[str]:
        """Return the lines for what a step asks, for a job of this name whose output goes to ``log``; native lines are not among them."""

    @abstractmethod
    def submit(self, path: str) -> tuple[list[str], bool]:
        """Return the command that submits a script, and whether the script is given to it as its input."""

    @abstractmethod
    def read_id(self, out: str) -> str:
        """Return the number of a new job from what the command printed; empty if there is none."""

    @abstractmethod
    def show(self, ids: Sequence[str], user: str) -> list[str]:
        """Return the command that shows jobs: those of ``ids``, or without any those of ``user``, or with neither everybody's."""

    def find(self, user: str) -> list[str]:  # noqa: ARG002 - for those that need it
        """Return the command that prints the numbers of a user's jobs (empty: everybody's), where :meth:`show` must be given them; else nothing."""
        return []

    def learn(self, err: str) -> bool:  # noqa: ARG002
        """Take what :meth:`find` complained of, if anything; return whether it is to be tried again in another form."""
        return False

    @abstractmethod
    def read_jobs(self, out: str) -> list[Line]:
        """Read what :meth:`show` prints, in Slurm's words for states; raises ValueError when it is not understood."""

    @abstractmethod
    def cancel(self, native_id: str) -> list[str]:
        """Return the command that ends a job."""

    @abstractmethod
    def hold(self, native_id: str, *, is_held: bool) -> list[str]:
        """Return the command that holds a job in the queue, or lets it go on."""

    @abstractmethod
    def signal(self, native_id: str, name: str) -> list[str]:
        """Return the command that sends a signal of this name, without SIG, to a running job."""


def megabytes(memory_bytes: int) -> int:
    """Return whole megabytes, rounded up."""
    return -(-memory_bytes // (1 << 20))


def clock(seconds: int) -> str:
    """Return ``H:MM:SS``, hours not limited to 24."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def shares(asked: Resources) -> tuple[int, int, int]:
    """Return nodes, tasks on each (rounded up), and cores of each task."""
    nodes = asked.nodes or 1
    return nodes, -(-(asked.ntasks or nodes) // nodes), asked.cpus or 1
