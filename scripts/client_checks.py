"""Make one real client say a sentence with a server, and print what it heard.

    python scripts/client_checks.py livekit http://127.0.0.1:8188/v1

Run by scripts/test_clients in an environment that has the client. A client that heard nothing,
or not about as much as the sentence takes, fails. It knows nothing of the service but its URL.
"""

import asyncio
import os
import socket
import sys
import time
from contextlib import closing
from typing import Any

TEXT = "The kettle is on. Tea will be ready in three minutes."
KEY = os.environ.get("API_KEY") or "none"


async def livekit(base_url: str) -> float:
    """LiveKit agents: server-sent events with mp3 inside."""
    from livekit.plugins import openai  # noqa: PLC0415

    tts = openai.TTS(model="gpt-4o-mini-tts", voice="ash", base_url=base_url, api_key=KEY)
    frame = await tts.synthesize(TEXT).collect()
    await tts.aclose()
    assert (frame.sample_rate, frame.num_channels) == (24000, 1)
    return frame.duration


async def pipecat(base_url: str) -> float:
    """Pipecat: pcm, in a pipeline that ends after the sentence."""
    from pipecat.frames.frames import EndFrame, TTSAudioRawFrame, TTSSpeakFrame  # noqa: PLC0415
    from pipecat.pipeline.pipeline import Pipeline  # noqa: PLC0415
    from pipecat.pipeline.runner import PipelineRunner  # noqa: PLC0415
    from pipecat.pipeline.task import PipelineTask  # noqa: PLC0415
    from pipecat.processors.frame_processor import FrameProcessor  # noqa: PLC0415
    from pipecat.services.openai.tts import OpenAITTSService  # noqa: PLC0415

    class Listener(FrameProcessor):
        heard_s = 0.0

        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TTSAudioRawFrame):
                self.heard_s += len(frame.audio) / 2 / frame.sample_rate
            await self.push_frame(frame, direction)

    listener = Listener()
    voice = OpenAITTSService.Settings(voice="marin")
    tts = OpenAITTSService(api_key=KEY, base_url=base_url, settings=voice)
    task = PipelineTask(Pipeline([tts, listener]))
    await task.queue_frames([TTSSpeakFrame(TEXT), EndFrame()])
    await PipelineRunner(handle_sigint=False).run(task)
    return listener.heard_s


async def realtimetts(base_url: str) -> float:
    """RealtimeTTS: muted, so that it needs no sound card."""
    os.environ["OPENAI_BASE_URL"] = base_url
    from RealtimeTTS import OpenAIEngine, TextToAudioStream  # noqa: PLC0415

    engine = OpenAIEngine(voice="nova", response_format="pcm", api_key=KEY)
    # Its other ways of finding sentences download data first.
    stream = TextToAudioStream(engine, muted=True, tokenizer="rule-based")
    heard: list[bytes] = []
    stream.feed(TEXT)
    stream.play(muted=True, tokenizer="rule-based", on_audio_chunk=heard.append)
    return sum(map(len, heard)) / 2 / 24000


async def wyoming(base_url: str) -> float:
    """wyoming_openai as Home Assistant runs it, and Home Assistant's protocol on its other side."""
    from wyoming.audio import AudioChunk, AudioStop  # noqa: PLC0415
    from wyoming.client import AsyncTcpClient  # noqa: PLC0415
    from wyoming.tts import Synthesize, SynthesizeVoice  # noqa: PLC0415

    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "wyoming_openai", "--uri", f"tcp://127.0.0.1:{port}"]
    command += ["--languages", "en", "--tts-openai-url", base_url, "--tts-openai-key", KEY]
    command += ["--tts-models", "tts-1", "--tts-voices", "echo"]
    bridge = await asyncio.create_subprocess_exec(*command)
    try:
        await _until_open(port)
        heard_s = 0.0
        async with AsyncTcpClient("127.0.0.1", port) as client:
            voice = SynthesizeVoice(name="echo")
            await client.write_event(Synthesize(text=TEXT, voice=voice).event())
            while (event := await client.read_event()) and not AudioStop.is_type(event.type):
                if AudioChunk.is_type(event.type):
                    chunk = AudioChunk.from_event(event)
                    heard_s += len(chunk.audio) / chunk.width / chunk.rate
        return heard_s
    finally:
        bridge.terminate()
        await bridge.wait()


async def _until_open(port: int) -> None:
    deadline_s = time.monotonic() + 60
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert time.monotonic() < deadline_s, "the bridge did not start"
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return


def main() -> None:
    """Run the client that the command line names."""
    name, base_url = sys.argv[1:]
    check = {c.__name__: c for c in (livekit, pipecat, realtimetts, wyoming)}[name]
    heard_s = asyncio.run(check(base_url))
    if not 2 < heard_s < 8:
        sys.exit(f"heard {heard_s:.2f} s, and the sentence takes about 3.4 s")
    print(f"heard {heard_s:.2f} s: {check.__doc__}")


if __name__ == "__main__":
    main()
