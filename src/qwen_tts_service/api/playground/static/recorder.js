// Recordings to clone: from the microphone or a file, as files that the server reads.

import { wavFile } from "./pcm.js";
import { withReason } from "./service.js";

const READABLE = /\.(wav|flac|ogg|oga|opus|mp3|aiff?)$/i;
// The voice as it is: what makes calls clearer changes it.
const UNTOUCHED = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

/** Records from the microphone, from start() until stop(). */
export class Recorder {
  #recorder;
  #parts = [];

  static async start() {
    // On plain http there is no microphone.
    const { mediaDevices } = navigator;
    const asking = mediaDevices?.getUserMedia({ audio: UNTOUCHED }) ?? Promise.reject(new Error());
    return new Recorder(await withReason(asking, "noMicrophone"));
  }

  constructor(stream) {
    this.#recorder = new MediaRecorder(stream);
    this.#recorder.addEventListener("dataavailable", ({ data }) => this.#parts.push(data));
    this.#recorder.start();
  }

  /** End it; gives a WAV file. */
  async stop() {
    const ended = new Promise((resolve) =>
      this.#recorder.addEventListener("stop", resolve, { once: true }),
    );
    this.#recorder.stop();
    await ended;
    for (const track of this.#recorder.stream.getTracks()) track.stop();
    return asWav(new Blob(this.#parts));
  }
}

/** The file as the server can read it: what it does not know is decoded here. */
export const readable = (file) => (READABLE.test(file.name) ? file : asWav(file));

async function asWav(blob) {
  const context = new AudioContext();
  try {
    const decoding = context.decodeAudioData(await blob.arrayBuffer());
    const sound = await withReason(decoding, "notARecording");
    const channels = Array.from({ length: sound.numberOfChannels }, (_, i) =>
      sound.getChannelData(i),
    );
    const mixed = Int16Array.from(channels[0], (_, i) => {
      const mean = channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
      return Math.max(-1, Math.min(1, mean)) * 32767;
    });
    return new File([wavFile([mixed], sound.sampleRate)], "recording.wav");
  } finally {
    await context.close();
  }
}
