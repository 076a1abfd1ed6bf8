"""Audio output: float samples to encoded bytes."""
