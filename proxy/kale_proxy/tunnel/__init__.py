"""Ways to a Unix socket on another host: what comes out is always a connected socket of this process.

``route`` says where something is, ``dialer`` chooses the way and remembers what works, ``openssh`` runs the user's ssh,
``pipe`` is what it runs at the other end where sockets can't be forwarded, ``library`` is ssh without a program.
Standard library only, but for ``library``, which needs paramiko.
"""
