"""The slow service with sessions that wait for nobody, for tests of being sent away.

Served as `tests.api.impatient_service:QwenTTS`.
"""

from tests.api.slow_service import QwenTTS

from qwen_tts_service.api import websocket

__all__ = ["QwenTTS"]

websocket.CONFIG_TIMEOUT_S = 0.5
websocket.TEXT_TIMEOUT_S = 1.0
websocket.IDLE_TIMEOUT_S = 1.5
