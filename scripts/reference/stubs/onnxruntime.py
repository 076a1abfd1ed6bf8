"""Stands in for onnxruntime, which the official package imports and speaking does not use."""


class InferenceSession:
    """Never made."""


class SessionOptions:
    """Never made."""


class GraphOptimizationLevel:
    """Never looked at."""
