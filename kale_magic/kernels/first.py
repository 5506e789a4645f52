"""What a kernelspec runs: a process that listens on its ports some 10 ms after it was started, and becomes a Python with packages then.

Run as a file, by ``python -S -P FILE WORDS``, which go to :mod:`kale_magic.kernels`. A front end connects some 12 ms after it has started
its kernel's process, and where a port is closed libzmq tries again after 100 to 200 ms only (``ZMQ_RECONNECT_IVL`` and its jitter): who
waits for all channels waits 170 ms in the median. A kernel that binds when its modules are loaded is always too late. This one is mostly
found by the first try, and the system's kernel keeps what comes until somebody answers. So nothing is loaded here that takes time: not
``site`` (``-S``, and called later), nor ``json``, ``re``, ``socket`` and ``typing``.
"""

import _socket
import sys

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
_BACKLOG = 100  # ZMQ_BACKLOG's default


def listen(file: str) -> dict[str, int]:
    """Return the descriptors of listening sockets by the ports' names in a connection file, for ``ZMQ_USE_FD``.

    Those that can't be listened on are left out, and so are all of a file that can't be read, of a transport other than
    tcp, and of an address that is no IPv4 number: whoever binds them says what is wrong.
    """
    found: dict[str, int] = {}
    try:
        with open(file, encoding="utf-8") as stream:
            text = stream.read()
        ip, ports = _word(text, "ip"), {name: int(_number(text, name)) for name in PORTS}
        _socket.inet_pton(_socket.AF_INET, ip)
    except (OSError, ValueError):
        return found
    if _word(text, "transport") != "tcp":
        return found
    for name, port in ports.items():
        if port <= 0:  # still to be chosen
            continue
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        try:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            listener.bind((ip, port))
            listener.listen(_BACKLOG)
        except (OSError, OverflowError):
            listener.close()
        else:
            found[name] = listener.detach()
    return found


def _after(text: str, name: str) -> str:
    """Return what stands behind a key of a flat JSON object."""
    return text.partition(f'"{name}"')[2].lstrip().removeprefix(":").lstrip()


def _word(text: str, name: str) -> str:
    rest = _after(text, name)
    return rest[1:].partition('"')[0] if rest.startswith('"') else ""


def _number(text: str, name: str) -> str:
    return _after(text, name).partition(",")[0].partition("}")[0]


def command() -> list[str]:
    """Return what stands before the words in a kernelspec's ``argv``."""
    return [sys.executable, "-S", "-P", __file__]


def main() -> int:
    """Listen, load the rest, and run the command line; return the exit code."""
    words = sys.argv[1:]
    listening = listen(words[words.index("-f") + 1]) if "-f" in words[:-1] else {}
    import site

    site.main()
    from kale_magic.kernels.__main__ import main as run

    return run(words, listening)


if __name__ == "__main__":
    sys.exit(main())
