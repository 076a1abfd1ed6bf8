"""Connections are bounded through the listening socket."""

import socket

from qwen_tts_service.api.sockets import SEND_BUFFER_BYTES, bound_connections


def test_a_connection_accepted_later_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert bound_connections(7.5) >= 1
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with accepted, client:
                size = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                stall_ms = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert size <= 2 * SEND_BUFFER_BYTES
    assert stall_ms == 7500
