#!/usr/bin/env python3
"""Measure how long the event loop stands still while the embedded voice reads long texts.

    .venv/bin/python scripts/bench_text.py [CHARACTERS ...]

For each length of dense Russian text: seconds until the speech can begin, and the longest time
within them in which the event loop had no turn. The first line is the same without any text: what
other processes take.
"""

import asyncio
import gc
import sys
import time

from qwen_tts_service.espeak.voice import EspeakVoice
from qwen_tts_service.speech.synthesizer import Output, Synthesizer
from qwen_tts_service.types import SpeechRequest

DENSE = (
    "В 2024 году 15 января в 10:30 на ул. Ленина, д. 5 было 1 500 рублей и 25 кг яблок, т. е. "
    "3,5 % от 10 000. **Смотри** [сайт](https://example.com/docs/en), пиши на ivan@mail.ru!\n"
)
LENGTHS = (200, 1000, 4096, 50_000, 200_000)


async def longest_pause_s(work: asyncio.Task[None]) -> float:
    """Take turns until the work is done; return the longest wait for one."""
    longest_s = 0.0
    while not work.done():
        before_s = time.perf_counter()
        await asyncio.sleep(0.001)
        longest_s = max(longest_s, time.perf_counter() - before_s)
    return longest_s


async def main() -> None:
    """Print a line for each length."""
    lengths = [int(argument) for argument in sys.argv[1:]] or LENGTHS
    synthesizer = Synthesizer(EspeakVoice(), sample_rate_hz=24000)
    synthesizer.warm_up()
    gc.collect()
    gc.freeze()  # as the service does

    async def begin(text: str) -> None:
        request = SpeechRequest(request_id="bench", seed=0, text=text)
        speech = await synthesizer.speak(request, Output("pcm", is_stream=True))
        await speech.aclose()

    pause_s = await longest_pause_s(asyncio.create_task(asyncio.sleep(5)))
    print(f"{'no':>7} text:         5.000 s, longest pause {pause_s * 1000:4.0f} ms")
    for length in lengths:
        text = (DENSE * (length // len(DENSE) + 1))[:length]
        started_s = time.perf_counter()
        pause_s = await longest_pause_s(asyncio.create_task(begin(text)))
        took_s = time.perf_counter() - started_s
        print(f"{length:7} characters: {took_s:7.3f} s, longest pause {pause_s * 1000:4.0f} ms")
    synthesizer.close()


if __name__ == "__main__":
    asyncio.run(main())
