"""Send buffers are bounded through the listening socket."""

import socket

from qwen_tts_service.api.sockets import SEND_BUFFER_BYTES, bound_send_buffers


def test_a_connection_accepted_later_has_a_bounded_send_buffer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert bound_send_buffers() >= 1
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with accepted, client:
                size = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert size <= 2 * SEND_BUFFER_BYTES
