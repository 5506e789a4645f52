"""ssh by paramiko against a real sshd: keys, a password and a one-time code asked by a callback, host keys checked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kale_proxy.tunnel import library as libraries
from kale_proxy.tunnel.dialer import Dialer
from kale_proxy.tunnel.errors import AuthenticationError, HostKeyError, TunnelError
from kale_proxy.tunnel.library import Library
from kale_proxy.tunnel.route import Route
from tests.cluster.conftest import PASSWORD, code, dial, without_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.conftest import Echo
    from tests.cluster.hosts import Hosts

pytestmark = [pytest.mark.ssh, pytest.mark.slurm]


@pytest.fixture(autouse=True)
def _laptop(hosts: Hosts) -> Iterator[None]:
    with hosts.laptop.here():
        yield


@pytest.fixture
def make(hosts: Hosts, folder: Path) -> Iterator:
    """Return ``make(config, ask)``: a dialer that has paramiko alone."""
    made: list[Library] = []

    def make(config: Path | None = None, ask: libraries.Ask | None = None) -> Dialer:
        made.append(Library(ask, config or hosts.ssh_config))
        return Dialer(None, folder / "ways.json", made[-1])

    yield make
    for library in made:
        library.close()
    time.sleep(0.2)


def route(echoes: dict[str, Echo], name: str = "login", **words: str) -> Route:
    return Route(socket=str(echoes[name].path), login="login", **({} if name == "login" else {"node": name}), **words)


def test_key_of_the_users_configuration(echoes, make) -> None:
    dialer = make()
    assert {dial(dialer, route(echoes)) for _ in range(3)} == {"paramiko to login, a command"}


def test_node_through_the_login_host(echoes, make) -> None:
    assert dial(make(), route(echoes, "node1")) == "paramiko to node1 through login, a command"


def test_node_without_ssh_goes_by_srun(hosts, echoes, make, folder, job) -> None:
    config = folder / "config"
    config.write_text(hosts.ssh_config.read_text().replace("Host node1\n", "Host node1\n  Port 2299\n"))
    assert dial(make(config), route(echoes, "node1", job_id=job), timeout=60) == "srun through login by paramiko"


@pytest.mark.parametrize(("known", "words"), [("", "not known yet"), ("other", "not the one that is known")])
def test_host_key_is_checked(hosts, echoes, make, known: str, words: str) -> None:
    hosts.write_known_hosts(login=known and " ".join((hosts.folder / "host_node1.pub").read_text().split()[:2]))
    try:
        with pytest.raises(HostKeyError, match=words):
            dial(make(), route(echoes))
    finally:
        hosts.write_known_hosts()


def test_unknown_host_is_named(make) -> None:
    with pytest.raises(TunnelError, match="ssh to nowhere"):
        dial(make(), Route(socket="/tmp/x", login="nowhere"))


def test_password_and_one_time_code_are_asked_for_by_the_callback(hosts, echoes, make, folder, two_factor) -> None:
    asked: list[tuple[str, bool]] = []
    answers = {"one-time": code(0), "password": PASSWORD}

    def ask(prompt: str, is_shown: bool) -> str | None:
        asked.append((prompt, is_shown))
        return next((answer for word, answer in answers.items() if word in prompt.lower()), None)

    dialer = make(without_keys(hosts, folder, two_factor), ask)
    for _ in range(3):
        assert dial(dialer, route(echoes)) == "paramiko to login, a command"
    assert ["one-time" in prompt.lower() for prompt, _ in asked] == [False, True]  # once for three streams
    assert not asked[0][1]


def test_wrong_answers_are_refused_and_not_tried_for_ever(hosts, echoes, make, folder, two_factor) -> None:
    asked: list[str] = []

    def ask(prompt: str, _: bool) -> str | None:
        asked.append(prompt)
        return "wrong"

    with pytest.raises(AuthenticationError, match="was given no right answer"):
        dial(make(without_keys(hosts, folder, two_factor), ask), route(echoes), timeout=60)
    assert 1 <= len(asked) <= 6


def test_giving_up_ends_the_login(hosts, echoes, make, folder, two_factor) -> None:
    with pytest.raises(AuthenticationError, match="given up"):
        dial(make(without_keys(hosts, folder, two_factor), lambda _, __: None), route(echoes))


def test_nobody_to_ask(hosts, echoes, make, folder, two_factor) -> None:
    with pytest.raises(AuthenticationError, match="nobody can be asked here"):
        dial(make(without_keys(hosts, folder, two_factor)), route(echoes))

