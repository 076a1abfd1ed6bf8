"""The bodies of POST /tts and POST /stream-tts: what fields.py says, with examples.

It does not know what becomes of a request once it is valid.
"""

from pydantic import ConfigDict, Field

from qwen_tts_service.fields import MAX_FRAMES, SpeechBody


class TTSBody(SpeechBody):
    """A text and how to say it; answered with one audio file."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "text": "Привет, мир!",
                "format": "wav",
                "voice_attributes": {"gender": "male", "age": 30, "emotion": "neutral"},
            }
        }
    )


class StreamTTSBody(SpeechBody):
    """A text or its tokens and how to say it; answered with audio while it is being made."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "text": "Привет, мир!",
                "voice_attributes": {"gender": "female", "age": 25, "emotion": "happy"},
            }
        }
    )

    max_length: int = Field(
        1000, ge=1, le=MAX_FRAMES, description="Most frames of 80 ms of the whole answer."
    )
