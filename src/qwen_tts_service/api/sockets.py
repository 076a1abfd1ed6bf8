"""Socket options that bound what the kernel buffers for a slow client, and for how long.

Left alone, Linux buffers some 4 MB for a connection, 86 seconds of speech that nobody may ever
hear, and keeps a connection whose client never reads for as long as the client likes: its slot,
too, and the server could not stop.
"""

import os
import socket

import psutil

SEND_BUFFER_BYTES = 128 * 1024
"""The kernel doubles it for its own needs: 256 KiB, five seconds of 24 kHz PCM."""


def bound_connections(stall_timeout_s: float) -> int:
    """Bound the connections to come; returns how many listening sockets were found.

    The server does not show its sockets, so they are found among this process's. A connection
    inherits the options of the socket that accepted it. A client that takes nothing for
    `stall_timeout_s` is cut off, and looks to the server as if it had left.
    """
    listeners = [
        connection.fd
        for connection in psutil.Process().net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.fd >= 0
    ]
    for descriptor in listeners:
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
                stall_ms = int(stall_timeout_s * 1000)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
    return len(listeners)
