"""Stands in for sox, which the official package imports and speaking does not use."""


class Transformer:
    """Never made."""
