"""WS /v1/audio/speech/stream: text comes in as it is written, audio goes out meanwhile.

    client: session.config, input.text ..., input.done, input.text ..., input.done, session.close
    server: session.ready, audio.start, <audio> ..., audio.done, session.done, ...

docs/websocket.md is the contract. `connection.py` sends and receives, `session.py` handles
events, `utterance.py` speaks one text.
"""
