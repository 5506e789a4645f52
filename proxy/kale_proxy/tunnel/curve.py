"""The visitor's end of a step's TCP port (:mod:`kale_proxy.door`): a socket like any other, carried by ZeroMQ with CURVE."""

from __future__ import annotations

import contextlib
import socket
import threading

import zmq
from zmq.utils.monitor import recv_monitor_message

from kale_proxy.tunnel.flow import MOST, PING, Flow

_OPTIONS = {"SNDHWM": 0, "RCVHWM": 0, "LINGER": 10_000, "RECONNECT_IVL": -1, "MAXMSGSIZE": MOST, "HEARTBEAT_IVL": 5000, "HEARTBEAT_TIMEOUT": 15000}
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_CLOSED


def dial(endpoint: str, server: str, client: str) -> socket.socket:
    """Return a stream to a step's port at once; it ends if there is none, or the keys are not the right ones.

    Parameters
    ----------
    endpoint : str
        ZeroMQ's: ``tcp://node1:41234``, or ``ipc://PATH`` of a socket that leads there.
    server : str
        The port's public key (Z85).
    client : str
        The secret key that it lets in (Z85).
    """
    ours, theirs = socket.socketpair()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    for name, value in _OPTIONS.items():
        dealer.setsockopt(getattr(zmq, name), value)
    dealer.setsockopt(zmq.CURVE_SERVERKEY, server.encode())
    dealer.setsockopt(zmq.CURVE_SECRETKEY, client.encode())
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(client.encode()))
    events = dealer.get_monitor_socket(_LOST)
    dealer.connect(endpoint)
    dealer.send(PING)
    threading.Thread(target=_carry, args=(context, dealer, events, theirs), daemon=True, name="kale-curve").start()
    return ours


def _carry(context: zmq.Context[zmq.Socket[bytes]], dealer: zmq.Socket[bytes], events: zmq.Socket[bytes], sock: socket.socket) -> None:
    """Copy both ways until an end, and what has come before it to the end of that."""

    def send(data: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it has no peer any more, of which an event tells
            dealer.send(data, zmq.NOBLOCK)

    flow = Flow(sock, send)
    ports = [dealer, events]
    try:
        while not flow.is_over:
            readable, writable, _ = zmq.select([*ports, *([flow.descriptor] if flow.may_read else [])], [flow.descriptor] if flow.wants_write else [], [])
            is_lost = events in readable and bool(recv_monitor_message(events)["event"] & _LOST)
            while not flow.is_over and int(dealer.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                flow.take(dealer.recv(zmq.NOBLOCK))
            if not flow.is_over and flow.descriptor in writable:
                flow.write()
            if not flow.is_over and flow.descriptor in readable:
                flow.read()
            if is_lost:
                ports = []
                flow.end()
    finally:
        flow.close()
        dealer.disable_monitor()
        dealer.close()
        context.term()
