"""A living manager whose socket somebody removed, as cleaners of /tmp do; and what its log holds afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys

from kale_magic import config
from kale_magic.client import Client
from kale_proxy.places import socket_dir


def test_a_manager_whose_socket_was_removed_is_found_again_and_not_replaced(kale_home):
    with Client.connect() as client:
        pid = client.hello.pid
    settings = config.load()
    settings.socket.unlink()
    with Client.connect(timeout=20) as client:
        assert client.hello.pid == pid
    shutil.rmtree(settings.socket_dir)
    socket_dir()
    with Client.connect(timeout=20) as client:
        assert client.hello.pid == pid
        assert client.runs() == []
    assert json.loads(settings.manager_file.read_text())["pid"] == pid


def test_a_manager_that_is_called_without_need_goes_on(kale_home):
    with Client.connect() as client:
        settings = config.load()
        inode = settings.socket.stat().st_ino
        os.kill(client.hello.pid, signal.SIGHUP)
        assert client.manager()["pid"] == client.hello.pid
        assert settings.socket.stat().st_ino == inode


def test_shutdown_with_clients_connected_logs_no_traceback(kale_home, until):
    log = config.load().log_file
    with Client.connect() as other, Client.connect() as client:
        other.manager()
        client.shutdown()
    until(lambda: "ended" in log.read_text(), "the last line of the log")
    assert "Traceback" not in log.read_text()


def test_a_program_that_drops_its_run_is_not_warned(kale_home, tmp_path):
    code = "from kale_magic import Workflow; w = Workflow('w'); w.step('a', 'pass'); w.submit().wait(timeout=30)"
    command = [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert "ResourceWarning" not in done.stderr
