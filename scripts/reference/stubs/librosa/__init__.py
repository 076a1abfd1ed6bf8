"""Stands in for librosa, which the official package imports and speaking does not use."""


def load(*_: object, **__: object) -> None:
    """Never called."""
    raise NotImplementedError


def resample(*_: object, **__: object) -> None:
    """Never called."""
    raise NotImplementedError
