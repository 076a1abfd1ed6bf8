// One take: a request, the speech that answers it, and the figures about it. Plays and keeps the
// audio; calls `on` for every event.

import { PcmReader, toFloat, wavFile } from "./pcm.js";
import { Player, decode } from "./player.js";
import { factsOf, isAudio, withReason, requestFor, send } from "./service.js";

const STREAM_FORMAT = "pcm";

export class Take {
  facts = [];
  firstAudioMs = null;
  isReceived = false;
  #chunks = []; // Int16Arrays, as they came
  #decoded = null; // Float32Array of a whole file in another format
  #file = null;
  #lastAudioMs = 0;
  #sampleCount = 0;
  #abort = new AbortController();
  #player;

  /** `on` has facts(), audio(samples), received() and ended(). */
  constructor({ body, format, isStream, key, sampleRateHz }, on) {
    this.body = body;
    this.format = isStream ? STREAM_FORMAT : format;
    this.isStream = isStream;
    this.sampleRateHz = sampleRateHz;
    this.on = on;
    this.#player = new Player(sampleRateHz, () => on.ended());
    this.key = key;
  }

  get audioS() {
    return this.#sampleCount / this.sampleRateHz;
  }

  get underruns() {
    return this.#player.underruns;
  }

  get heardS() {
    return Math.min(this.audioS, this.#player.positionS);
  }

  /** Seconds of work for a second of speech; null before there is any. */
  get realTimeFactor() {
    return this.#sampleCount ? this.#lastAudioMs / 1000 / this.audioS : null;
  }

  get hasAudio() {
    return this.#sampleCount > 0;
  }

  /** Send the request and play the answer; throws what went wrong. */
  async run() {
    const startedMs = performance.now();
    const { signal } = this.#abort;
    const request = requestFor(this.body, this.format, this.isStream);
    const response = await send(request, { key: this.key, signal });
    if (!isAudio(response)) throw new Error("notAudio");
    this.facts = factsOf(response);
    this.on.facts();
    const read = this.format === STREAM_FORMAT ? this.#readRaw : this.#readFile;
    try {
      await read.call(this, response, startedMs);
    } finally {
      this.isReceived = true;
      this.on.received();
      if (!signal.aborted) this.#player.complete();
    }
  }

  async #readRaw(response, startedMs) {
    const pcm = new PcmReader();
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await withReason(reader.read(), "broken");
      if (done) return;
      const samples = pcm.read(value);
      if (!samples.length) continue;
      this.#chunks.push(samples);
      this.#take(toFloat(samples), startedMs);
    }
  }

  async #readFile(response, startedMs) {
    this.#file = await withReason(response.blob(), "broken");
    const bytes = await this.#file.arrayBuffer();
    const buffer = await withReason(decode(bytes, this.sampleRateHz), "unplayable");
    this.#decoded = buffer.getChannelData(0);
    this.#take(this.#decoded, startedMs);
  }

  #take(samples, startedMs) {
    this.#lastAudioMs = performance.now() - startedMs;
    this.firstAudioMs ??= this.#lastAudioMs;
    this.#sampleCount += samples.length;
    this.#player.play(samples);
    this.on.audio(samples);
  }

  /** Silence now, and the server learns that nobody listens. */
  stop() {
    this.isReceived = true;
    this.#abort.abort();
    this.#player.stop();
  }

  /** Play what was heard once more; `ended()` is told again. */
  replay() {
    const { underruns } = this.#player;
    this.#player.stop();
    this.#player = new Player(this.sampleRateHz, () => this.on.ended());
    this.#player.underruns = underruns;
    for (const samples of this.#decoded ? [this.#decoded] : this.#chunks.map(toFloat))
      this.#player.play(samples);
    this.#player.complete();
  }

  /** The same sound as a Blob: what is here already, or the same seed asked for once more. */
  async fileAs(format) {
    if (this.#file && this.format === format) return this.#file;
    if (this.#chunks.length && format === "wav") return wavFile(this.#chunks, this.sampleRateHz);
    if (this.#chunks.length && format === "pcm") return new Blob(this.#chunks);
    const body = { ...this.body, ...this.#seed() };
    const response = await send(requestFor(body, format, false), { key: this.key });
    return withReason(response.blob(), "broken");
  }

  #seed() {
    const seed = this.facts.find(([name]) => name === "x-seed")?.[1];
    return seed === undefined ? {} : { seed: Number(seed) };
  }
}
