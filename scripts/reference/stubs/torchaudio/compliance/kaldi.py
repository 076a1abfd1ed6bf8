"""Stands in for torchaudio.compliance.kaldi."""


def fbank(*_: object, **__: object) -> None:
    """Never called."""
    raise NotImplementedError
