"""Serve Qwen3-TTS over HTTP: whole audio files, and streams that play while they are generated."""

__version__ = "0.1.0"
