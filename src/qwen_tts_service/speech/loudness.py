"""One loudness for all speakers: each has a fixed gain, measured once on a fixed sentence.

A gain depends on the speaker alone, never on the request: a whisper stays quieter than a shout.
"""

import asyncio
import hashlib
import logging
import math
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from weakref import WeakValueDictionary

import numpy as np

from qwen_tts_service.audio.loudness import integrated_lufs
from qwen_tts_service.errors import CannotSpeak, InvalidRequest, SynthesisFailed
from qwen_tts_service.types import KeptVoice, SpeechRequest, Voice

from .loudness_file import MOST_KEPT, LoudnessFile

logger = logging.getLogger(__name__)

SENTENCE = (
    "The quick brown fox jumps over the lazy dog, and nobody in the village was surprised to see "
    "it again."
)
_LONGEST_FRAMES = 125


class SpeakerGains:
    """Gains that bring every speaker of a voice to the same loudness, measured when first needed.

    target_lufs: integrated loudness by BS.1770
    identity: changes when the voice's sound may, such as with another version of its weights
    kept: the cloned voices that `speaker` may name
    """

    def __init__(
        self,
        voice: Voice,
        file: LoudnessFile,
        *,
        target_lufs: float,
        identity: str,
        kept: Mapping[str, KeptVoice],
    ) -> None:
        self._voice = voice
        self._file = file
        self._target_lufs = target_lufs
        self._identity = identity
        self._kept = kept
        self._measured: dict[str, float] = {}
        self._measuring: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def gain_db(self, request: SpeechRequest) -> float:
        """The gain of the speaker of a request; the first who asks waits until it is measured."""
        reference = self._reference(request)
        key = self._key(reference)
        if key not in self._measured:
            async with self._measuring.setdefault(key, asyncio.Lock()):
                if len(self._measured) >= MOST_KEPT:
                    self._measured.clear()
                if key not in self._measured:
                    self._measured[key] = await self._find(key, reference)
        return round(self._target_lufs - self._measured[key], 1)

    def _reference(self, request: SpeechRequest) -> SpeechRequest:
        """The fixed sentence by the speaker of a request.

        Where a voice is made of a description, it is the voice that nothing describes: each
        description and each seed is another person.
        """
        neutral = replace(request.attributes, emotion=None)
        choice = self._voice.choose(replace(request, attributes=neutral, instruct=None))
        is_named = request.voice is None or bool((request.speaker or "").strip())
        cloned = self._kept.get(choice.speaker) if is_named else request.voice
        is_speaker = cloned is None and choice.speaker in self._voice.speakers
        return SpeechRequest(
            request_id="loudness",
            seed=0,
            text=SENTENCE,
            language="english",
            speaker=choice.speaker if is_speaker else None,
            voice=cloned,
            max_frames=_LONGEST_FRAMES,
        )

    def _key(self, reference: SpeechRequest) -> str:
        """Readable, and another one when anything changes that the measurement depends on."""
        what = hashlib.sha256(repr((self._identity, reference)).encode()).hexdigest()[:16]
        who = reference.speaker or ("cloned" if reference.voice else "designed")
        return f"{self._voice.model_name}/{who}/{what}"

    async def _find(self, key: str, reference: SpeechRequest) -> float:
        known = await asyncio.to_thread(self._file.get, key)
        if known is not None:
            return known
        lufs = round(await self._measure(reference), 1)
        logger.info("loudness: %s has %.1f LUFS", key, lufs)
        await asyncio.to_thread(self._file.put, key, lufs)
        return lufs

    async def _measure(self, reference: SpeechRequest) -> float:
        chunks = [np.zeros(0, np.float32)]
        try:
            async with aclosing(self._voice.prepare(reference).speak()) as stream:
                chunks += [chunk async for chunk in stream]
        except (CannotSpeak, InvalidRequest) as error:  # not the caller's fault
            raise SynthesisFailed(
                f"the speaker's loudness could not be measured: {error}"
            ) from error
        lufs = integrated_lufs(np.concatenate(chunks), self._voice.sample_rate_hz)
        if math.isinf(lufs):
            raise SynthesisFailed("the speaker's loudness could not be measured: silence")
        return lufs
