"""The magics: thin, they parse, call the API or the client, and display.

:func:`register` puts them into a shell and imports next to nothing; each command's code comes when it is
first used, so that ``%load_ext kale_magic`` takes a moment only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from kale_magic.magics.session import KaleMagics

_ATTRIBUTE = "_kale_session"


def register(shell: InteractiveShell) -> KaleMagics:
    """Register every magic, the completion and the input transformer; a second time changes nothing.

    Returns the notebook's session, which is also what ``%config KaleMagics`` sets.
    """
    from kale_magic.magics.commands import COMMANDS
    from kale_magic.magics.complete import make_matcher
    from kale_magic.magics.door import bind
    from kale_magic.magics.session import KaleMagics
    from kale_magic.magics.transform import make_transformer

    session: KaleMagics | None = getattr(shell, _ATTRIBUTE, None)
    if session is not None:
        return session
    session = KaleMagics(shell=shell, parent=shell)
    setattr(shell, _ATTRIBUTE, session)
    shell.configurables.append(session)
    for command in COMMANDS:
        bind(session, command)
    shell.input_transformer_manager.cleanup_transforms.insert(0, make_transformer(session))
    completer = getattr(shell, "Completer", None)
    if completer is not None:
        completer.custom_matchers.append(make_matcher(session))
    shell.events.register("pre_run_cell", session.on_cell_start)
    shell.events.register("post_run_cell", session.on_cell_end)
    return session
