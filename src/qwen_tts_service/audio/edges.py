"""Short fades at the edges of speech that would begin or end with a click.

A sample far from zero beside silence is a step, and a step is heard as a click. What begins or
ends near zero is left as it is.
"""

import numpy as np

from qwen_tts_service.types import Samples

FADE_S = 0.005
NEAR_ZERO = 0.001
"""The largest step beside silence: 60 dB below full scale."""


class EdgeFader:
    """Fades one stretch of speech in and out where it needs it, by half a cosine over FADE_S.

    Holds back the last FADE_S, so what comes out does not depend on how the input was cut.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        phase = np.linspace(0, np.pi, round(FADE_S * sample_rate_hz), endpoint=False)
        self._ramp: Samples = ((1 - np.cos(phase)) / 2).astype(np.float32)
        self._rising: Samples | None = None  # what is left of the fade-in; None before the start
        self._held = np.zeros(0, np.float32)

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N], give the float32 [M] that are ready."""
        if len(samples) == 0:
            return samples
        if self._rising is None:
            self._rising = self._ramp if abs(samples[0]) > NEAR_ZERO else self._ramp[:0]
        rising = self._rising[: len(samples)]
        self._rising = self._rising[len(samples) :]
        faded = [samples[: len(rising)] * rising, samples[len(rising) :]]
        ready = np.concatenate([self._held, *faded])
        self._held = ready[-len(self._ramp) :]
        return ready[: -len(self._ramp)]

    def finish(self) -> Samples:
        """Give the rest; nothing may be fed afterwards."""
        held = self._held
        if len(held) == 0 or abs(held[-1]) <= NEAR_ZERO:
            return held
        return held * self._ramp[: len(held)][::-1]
