"""The tiny checkpoints, as the model's tests have them."""

from tests.model.conftest import _one_thread, data, model

__all__ = ["_one_thread", "data", "model"]
