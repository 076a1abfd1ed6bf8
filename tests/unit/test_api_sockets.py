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
    assert SEND_BUFFER_BYTES == 128 * 1024
    assert size in (SEND_BUFFER_BYTES, 2 * SEND_BUFFER_BYTES)  # Linux says what it really holds
    assert stall_ms == 7500


def test_only_listening_sockets_are_bounded_and_they_stay_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = bound_connections(7.5)
        with socket.create_server(("127.0.0.1", 0)) as second:
            assert bound_connections(0.25) == before + 1
            for bound in (listener, second):
                assert bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 250
            with socket.create_connection(second.getsockname()) as client:
                assert bound_connections(9) == before + 1
                assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        assert bound_connections(7.5) == before
