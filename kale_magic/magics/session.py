"""What one notebook has: its declarations, its manager, its live displays and its open visits.

Also the place of the settings that ``%config KaleMagics`` shows. The commands get it as their first argument.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import Float, Unicode
from traitlets.config import Configurable

from kale_magic.errors import UnknownRunError, UnknownStepError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from kale_magic.api.find import Scope, Target
    from kale_magic.api.run import Run
    from kale_magic.api.visits import Visits
    from kale_magic.client import Client
    from kale_magic.dsl.session import Declarations
    from kale_magic.magics.live import LiveView
    from kale_magic.magics.plot import LivePlot
    from kale_magic.model.address import Address
    from kale_magic.model.workflow import Workflow
    from kale_magic.widgets.desk import Desk


class KaleMagics(Configurable):  # type: ignore[misc] # traitlets is not typed
    """Settings of the magics, and what they share in one notebook."""

    executor = Unicode("local", help="Where jobs run, unless the workflow or the command says otherwise.").tag(config=True)
    attach_timeout = Float(600.0, help="Longest wait of %%kale_attach for a step to start, in seconds.").tag(config=True)

    def __init__(self, *, shell: InteractiveShell, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shell = shell
        self.lines_above = 0  # of the cell, above its %%kale magic
        self.submitted: dict[str, Workflow] = {}  # by run, what it was submitted with
        self._client: Client | None = None
        self._declarations: Declarations | None = None
        self._visits: Visits | None = None
        self._far: dict[str, Visits] = {}  # by login host
        self._views: list[LiveView | LivePlot] = []
        self._desks: dict[str, Desk] = {}  # by the notebook's cell
        self._is_in_cell = True

    @property
    def client(self) -> Client:
        """The manager, started if none runs: this machine's, or that of the workflow's host."""
        if host := self.declarations.host:
            return self.visits_on(host).client  # type: ignore[return-value]
        if self._client is None:
            from kale_magic.client import Client

            self._client = Client.connect()
        return self._client

    @client.setter
    def client(self, client: Client) -> None:
        self._client = client

    def follower(self) -> Client:
        """Return a client for a display: it never starts a manager that somebody has stopped."""
        from kale_magic import config
        from kale_magic.client import Client

        if not isinstance(self.client, Client):
            return self.client
        return Client(replace(config.load(), host=self.declarations.host), start=False)

    @property
    def declarations(self) -> Declarations:
        """What the notebook has declared so far."""
        if self._declarations is None:
            from kale_magic.dsl.session import Declarations

            self._declarations = Declarations()
        return self._declarations

    @declarations.setter
    def declarations(self, declarations: Declarations) -> None:
        self._declarations = declarations

    def declared(self) -> Workflow | None:
        """Return the workflow as it is now; None while it has no steps."""
        workflow = self.declarations.workflow
        return workflow if workflow.steps else None

    def keep_dashboard(self, desk: Desk) -> None:
        """End the dashboard that the cell had before: its output is gone."""
        parent: dict[str, Any] = getattr(self.shell, "parent_header", None) or {}
        cell = str((parent.get("metadata") or {}).get("cellId") or "")
        if cell and cell in self._desks:
            self._desks[cell].close()
        self._desks[cell] = desk

    @property
    def visits(self) -> Visits:
        """The visitors this notebook keeps open, by step."""
        if host := self.declarations.host:
            return self.visits_on(host)
        if self._visits is None:
            from kale_magic.api.visits import Visits

            self._visits = Visits(self.client)
        return self._visits

    def visits_on(self, host: str | None) -> Visits:
        """Return the visitors to steps that the manager of a login host knows; None: this machine's."""
        if not host:
            return self.visits
        if host not in self._far:
            from kale_magic.api.visits import Visits
            from kale_magic.client import Client
            from kale_proxy.tunnel.dialer import ask_by

            if self.can_ask:
                ask_by(_ask_here, is_terminal=False)
            self._far[host] = Visits(Client.connect(host=host))
        return self._far[host]

    @property
    def folder(self) -> Path:
        """The workflow's folder: its ``--dir``, else where the notebook works."""
        directory = self.declarations.workflow.directory
        return Path(os.path.abspath(os.path.expanduser(directory or ".")))

    @property
    def scope(self) -> Scope:
        """Where a bare step name is looked for: this notebook's workflow, in its folder.

        A notebook that has declared nothing looks at all runs of its folder.
        """
        from kale_magic.api.find import Scope

        workflow = self.declarations.workflow
        return Scope(workflow=workflow.name if workflow.steps else None, folder=self.folder)

    def find(self, text: str, *, is_acting: bool = False, visits: Visits | None = None) -> Target:
        """Return the step that ``text`` means in this notebook, or among all runs of another host's manager.

        Raises
        ------
        UsageError, UnknownStepError, UnknownRunError
            As :func:`kale_magic.api.find.find_step`.
        """
        from kale_magic.api.find import Scope, find_step
        from kale_magic.model.address import parse_address

        if visits is not None and visits is not self._visits:
            return find_step(visits.client, text, Scope(), is_acting=is_acting)
        try:
            return find_step(self.client, text, self.scope, is_acting=is_acting)
        except (UnknownStepError, UnknownRunError) as exc:
            address = parse_address(text)
            if address.run is None and address.step in self.declarations.workflow.steps and not self._has_run(address):
                way_out = f"Run it: %kale_submit --only {address.step}, or %kale_submit."
                raise UnknownStepError(f"Step {address.step} is declared, but no run has it yet.", way_out) from exc
            raise

    def _has_run(self, address: Address) -> bool:
        """Whether a run has the step, so that it is the point that there is not."""
        from kale_magic.api.find import find_step

        if address.selector is None:
            return False
        try:
            find_step(self.client, address.step, self.scope)
        except (UnknownStepError, UnknownRunError):
            return False
        return True

    @property
    def can_ask(self) -> bool:
        """Whether ``input()`` works here: not in a front end, or a run of all cells, that takes no answers."""
        kernel = getattr(self.shell, "kernel", None)
        return kernel is None or bool(getattr(kernel, "_allow_stdin", True))

    @property
    def is_rich(self) -> bool:
        """Whether a front end draws HTML and updates displays in place; a terminal gets lines."""
        return getattr(self.shell, "kernel", None) is not None

    @property
    def is_in_cell(self) -> bool:
        """Whether a cell is being executed now."""
        return self._is_in_cell

    def names_here(self) -> frozenset[str]:
        """Return the names that exist in this notebook alone, for the message on a step that uses one."""
        hidden: dict[str, object] = getattr(self.shell, "user_ns_hidden", {})
        return frozenset(name for name in self.shell.user_ns if name not in hidden and not name.startswith("_"))

    def show(self, bundle: dict[str, Any]) -> None:
        """Display a mime bundle under the cell."""
        self.shell.display_pub.publish(data=bundle)

    def keep_quiet(self, run: Run) -> Run:
        """Return ``run`` so that it is the cell's value, kept in ``_``, but not shown below its live display.

        It is shown like anything else once the cell is over, or if it was assigned to a name first.
        """
        count = self.shell.execution_count

        def show_nothing() -> None:
            del run._ipython_display_  # type: ignore[attr-defined]
            if self.shell.execution_count != count:
                raise NotImplementedError  # IPython goes on with the other ways to show it
            if not self.is_rich:
                print(run.name)  # a terminal has written Out[] already

        run._ipython_display_ = show_nothing  # type: ignore[attr-defined]
        return run

    def show_live(self, view: LiveView) -> None:
        """Start a live display and keep it until its run is over."""
        self.keep_live(view)
        view.start()

    def keep_live(self, view: LiveView | LivePlot) -> None:
        """Keep a display that changes by itself until it has its last form."""
        self._views = [old for old in self._views if not old.is_settled]
        self._views.append(view)

    def has_live(self, run: str) -> bool:
        """Whether a display of the run is kept up to date in this notebook."""
        return any(view.run == run for view in self._views)

    def settle(self, run: str) -> None:
        """Wait until the displays of a run that is over show so."""
        for view in self._views:
            if view.run == run:
                view.join()

    def on_cell_start(self, *_: object) -> None:
        """Note that a cell runs; called by IPython."""
        self._is_in_cell = True

    def on_cell_end(self, *_: object) -> None:
        """Show again what became final between two cells: some front ends listen only while a cell runs."""
        for view in self._views:
            view.repeat_final()
        self._is_in_cell = False
        self.lines_above = 0


def _ask_here(prompt: str, is_shown: bool) -> str | None:
    """Ask what a host wants to know for a login, under the cell; what is not shown is in no output and no history."""
    import getpass

    try:
        return input(prompt) if is_shown else getpass.getpass(prompt)
    except EOFError:
        return None
