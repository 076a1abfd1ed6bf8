"""FFmpeg's meter of loudness and true peak by ITU-R BS.1770, through PyAV."""

import math
from fractions import Fraction
from typing import Any

import av
import numpy as np


def loudness_and_peak(samples: Any, rate_hz: int) -> tuple[float, float]:
    """Integrated loudness in LUFS and true peak in dBTP of mono samples, float32 [N]."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=rate_hz, format="flt", layout="mono", time_base=Fraction(1, rate_hz)
    )
    meter = graph.add("ebur128", "peak=true:metadata=1")
    sink = graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], "flt", "mono")
    frame.sample_rate, frame.pts = rate_hz, 0
    source.push(frame)
    source.push(None)
    measured: dict[str, str] = {}
    while True:
        try:
            measured |= sink.pull().metadata  # none with the last, which is no whole step
        except av.error.EOFError:
            break
    true_peak = 20 * math.log10(float(measured["lavfi.r128.true_peak"]))
    return float(measured["lavfi.r128.I"]), true_peak
