"""Serve Qwen3-TTS over HTTP: whole files and speech that plays while it is being made."""

__version__ = "0.1.0"
