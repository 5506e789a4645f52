"""Ports listened on before what answers there: a client that came first is served, what can't be taken is left out."""

import asyncio
import json
import os
import socket
import subprocess

import pytest
import zmq

from kale_magic.kernels.first import PORTS, command, listen
from kale_proxy.relay_front import ConnectionFileError, Front


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    numbers = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return numbers


@pytest.fixture
def connection(tmp_path):
    info = dict(zip(PORTS, free_ports(5), strict=True)) | {"transport": "tcp", "ip": "127.0.0.1", "key": "k", "signature_scheme": "hmac-sha256"}

    def write(**changes):
        file = tmp_path / "kernel.json"
        file.write_text(json.dumps({name: value for name, value in (info | changes).items() if value is not ...}))
        return file

    return write


def close_all(descriptors):
    for descriptor in descriptors.values():
        os.close(descriptor)


def test_a_client_that_connected_before_the_sockets_were_made_is_served(connection):
    file = connection()
    info = json.loads(file.read_text())
    listening = listen(str(file))
    assert sorted(listening) == sorted(PORTS)

    async def answered():
        context = zmq.Context()
        beat = context.socket(zmq.DEALER)
        beat.setsockopt(zmq.RECONNECT_IVL, -1)  # there is no second try
        beat.connect(f"tcp://127.0.0.1:{info['hb_port']}")
        beat.send(b"ping")
        front = Front(file, listening)
        front.open(lambda *_: None, lambda: None)
        try:
            for _ in range(500):
                if beat.poll(0):
                    return beat.recv(zmq.NOBLOCK)
                await asyncio.sleep(0.01)
            return None
        finally:
            beat.close(0)
            context.term()
            front.close()

    assert asyncio.run(answered()) == b"ping"
    assert json.loads(file.read_text()) == info


def test_a_port_that_is_taken_is_left_to_the_one_who_binds_it_and_says_so(connection):
    file = connection()
    with socket.socket() as other:
        other.bind(("127.0.0.1", json.loads(file.read_text())["stdin_port"]))
        other.listen()
        listening = listen(str(file))
        assert "stdin_port" not in listening
        assert len(listening) == 4
        with pytest.raises(ConnectionFileError, match="Address already in use"):
            Front(file, listening)


@pytest.mark.parametrize(
    "changes",
    [{"transport": "ipc", "ip": "/tmp/k"}, {"ip": "localhost"}, {"ip": "::1"}, {"ip": 7}, {"hb_port": "x"}, {"hb_port": ...}, {"transport": ...}, dict.fromkeys(PORTS, 0)],
)
def test_what_it_is_not_made_for_is_left_alone(connection, changes):
    assert listen(str(connection(**changes))) == {}


def test_a_number_that_is_no_port_is_left_out(connection):
    found = listen(str(connection(hb_port=70000)))
    assert "hb_port" not in found
    assert len(found) == 4
    close_all(found)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null"])
def test_a_file_that_is_none_is_left_to_whoever_reads_it(tmp_path, text):
    file = tmp_path / "kernel.json"
    assert listen(str(file)) == {}
    file.write_text(text)
    assert listen(str(file)) == {}


@pytest.mark.parametrize("indent", [None, 2])
def test_first_reads_a_connection_file_as_json_does(connection, indent):
    file = connection(key='":{,"', kernel_name="hb_port")
    file.write_text(json.dumps(json.loads(file.read_text()), indent=indent))
    found = listen(str(file))
    info = json.loads(file.read_text())
    for name, descriptor in found.items():
        with socket.socket(fileno=descriptor) as listener:
            assert listener.getsockname() == (info["ip"], info[name])
    assert sorted(found) == sorted(PORTS)


def test_what_a_kernelspec_runs_loads_nothing_before_it_listens_and_has_all_packages_then(connection, tmp_path):
    (tmp_path / "json.py").write_text("raise RuntimeError('a file of the working folder')")
    code = f"import sys; before = set(sys.modules); exec(open({command()[-1]!r}).read()); print(*sorted(set(sys.modules) - before))"
    bare = subprocess.run([*command()[:-1], "-c", f"__name__ = 'first'; {code}"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(bare.stdout.split()) <= {"_socket"}
    helped = subprocess.run([*command(), "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "attach" in helped.stdout
    wrong = subprocess.run([*command(), "attach", "no such/step", "-f", str(connection())], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), wrong.stderr
