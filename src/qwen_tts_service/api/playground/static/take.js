// One take: a request, the speech that answers it, and the figures about it. Plays and keeps the
// audio; calls `on` for every event.

import { PcmReader, toFloat, wavFile } from "./pcm.js";
import { Player, decode } from "./player.js";
import {
  bytesOf,
  eventsOf,
  factsOf,
  isAudio,
  isEvents,
  isJson,
  requestFor,
  send,
  withReason,
} from "./service.js";

const STREAM_FORMAT = "pcm";

export class Take {
  facts = [];
  firstAudioMs = null;
  isReceived = false;
  #times = []; // of sentences or words, in their order: {start_s, start_char, end_char}
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

  /** The sentence or word that is heard now, or was last; null before the first and without times. */
  get heardNow() {
    return this.#times.findLast(({ start_s }) => start_s <= this.heardS) ?? null;
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
    if (![isAudio, isEvents, isJson].some((isIt) => isIt(response))) throw new Error("notAudio");
    this.facts = factsOf(response);
    this.on.facts();
    try {
      if (isEvents(response)) await this.#readEvents(response, startedMs);
      else if (isAudio(response) && this.format === STREAM_FORMAT)
        await this.#readRaw(response, startedMs);
      else await this.#readFile(response, startedMs);
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
      this.#takeRaw(pcm.read(value), startedMs);
    }
  }

  async #readEvents(response, startedMs) {
    const pcm = new PcmReader();
    for await (const event of eventsOf(response)) {
      if (event.type === "speech.audio.delta")
        this.#takeRaw(pcm.read(bytesOf(event.audio)), startedMs);
      // A sentence is known when it begins, a word when it has ended, before it is heard.
      const isNew = event.start_s !== undefined && event.start_s !== this.#times.at(-1)?.start_s;
      if (isNew) this.#times.push(event);
    }
  }

  #takeRaw(samples, startedMs) {
    if (!samples.length) return;
    this.#chunks.push(samples);
    this.#take(toFloat(samples), startedMs);
  }

  async #readFile(response, startedMs) {
    this.#file = await this.#fileIn(response);
    const bytes = await this.#file.arrayBuffer();
    if (this.format === STREAM_FORMAT) {
      this.#takeRaw(new PcmReader().read(new Uint8Array(bytes)), startedMs);
      return;
    }
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
    return this.#fileIn(response);
  }

  /** The file of a response, which may be in JSON together with its times. */
  async #fileIn(response) {
    if (!isJson(response)) return withReason(response.blob(), "broken");
    const { audio, timestamps } = await withReason(response.json(), "broken");
    this.#times = timestamps;
    return new Blob([bytesOf(audio)]);
  }

  #seed() {
    const seed = this.facts.find(([name]) => name === "x-seed")?.[1];
    return seed === undefined ? {} : { seed: Number(seed) };
  }
}
