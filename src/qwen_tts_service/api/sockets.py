"""Bounds what the kernel takes of a stream that its client does not read.

Left alone, Linux buffers some 4 MB for a connection: 86 seconds of speech that nobody may ever
hear. It does not know streams or routes.
"""

import os
import socket

import psutil

SEND_BUFFER_BYTES = 128 * 1024
"""The kernel doubles it for its own needs: 256 KiB, five seconds of 24 kHz PCM."""


def bound_send_buffers() -> int:
    """Bound the send buffers of connections to come; returns how many listeners were found.

    The server does not show its sockets, so they are found among this process's. A connection
    inherits the buffer size of the socket that accepted it.
    """
    listeners = [
        connection.fd
        for connection in psutil.Process().net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.fd >= 0
    ]
    for descriptor in listeners:
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return len(listeners)
