"""Stands in for torchaudio, which the official package imports and speaking does not use."""
