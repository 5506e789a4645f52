"""``%kale_push``, ``%kale_pause``, ``%kale_resume``, ``%kale_continue``: the hand on a step while it runs, and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.api import pause as pausing
from kale_magic.api.find import one_job
from kale_magic.api.gate import go_on
from kale_magic.api.push import is_file_name
from kale_magic.api.push import push as push_into
from kale_magic.errors import UsageError
from kale_magic.magics.look import ask_here
from kale_magic.model.literals import literal_or_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics


def push(session: KaleMagics, request: Request) -> None:
    """Give values of the notebook, or literals, to a step."""
    args = request.args
    files = {name: path for name, sign, path in (word.partition("=") for word in args.x) if is_file_name(name)}
    given = _values(session, [word for word in args.x if not is_file_name(word.partition("=")[0])])
    for name, path in files.items():
        if not path:
            raise UsageError(f"{name} is the name of a file.", f"Write {name}=FILE, the file to put in its place.")
    target = one_job(session.client, session.find(args.step))
    done = push_into(session.visits, target, given, files)
    names = ", ".join(done.names)
    if not done.is_edit:
        print(f"{names}: pushed into {target}")
        return
    print(f"{names}: replaced in {target}; the old {'one is' if len(done.names) == 1 else 'ones are'} kept beside it")
    if done.stale:
        print(f"Stale now: {', '.join(done.stale)}. Run them again: %kale_rerun {done.stale[0]} --downstream")


def pause(session: KaleMagics, request: Request) -> None:
    """Hold a step still."""
    args = request.args
    visits = session.visits_on(args.host)
    target = one_job(visits.client, session.find(args.step, is_acting=True, visits=visits))
    lease_s = pausing.LONGEST_S if args.for_ is None else args.for_
    said = pausing.pause(visits, target, lease_s=lease_s, is_freezing=args.freeze)
    print(f"{target} {said}. Go on: %kale_resume {target}")


def resume(session: KaleMagics, request: Request) -> None:
    """Let a step go on."""
    visits = session.visits_on(request.args.host)
    target = one_job(visits.client, session.find(request.args.step, is_acting=True, visits=visits))
    print(f"{target} {pausing.resume(visits, target)}")


def proceed(session: KaleMagics, request: Request) -> None:
    """Let a step go on that waits for a person."""
    args = request.args
    visits = session.visits_on(args.host)
    target = one_job(visits.client, session.find(args.step, is_acting=True, visits=visits))
    print(f"{target} {go_on(visits, target, args.set, answer=args.answer, ask=ask_here if session.can_ask else None)}")


def _values(session: KaleMagics, words: Sequence[str]) -> dict[str, object]:
    """Read ``x`` (a variable of the notebook) and ``x=5``."""
    found: dict[str, object] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if sign:
            found[name] = literal_or_text(text)
        elif name in session.shell.user_ns:
            found[name] = session.shell.user_ns[name]
        else:
            raise UsageError(f"The notebook has no variable `{name}`.", f"Write {name}=VALUE to push a value.")
    return found
