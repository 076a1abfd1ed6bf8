// Plays audio while it arrives: each chunk becomes a source node that starts where the last
// one ends.
//
// Source nodes and not an AudioWorklet: worklets do not exist on plain http, and a team tries
// this service as http://some-host:8188 first.

const LEAD_S = 0.08; // one codec frame: hides the jitter between two network chunks

let context = null;

/** The one AudioContext, at the rate of the audio so that chunk borders are never resampled. */
function contextAt(sampleRateHz) {
  if (context?.sampleRate !== sampleRateHz) {
    context?.close();
    context = new AudioContext({ sampleRate: sampleRateHz });
  }
  return context;
}

/** Call inside a click or key press: browsers let sound start only there. */
export function wakeSound(sampleRateHz) {
  contextAt(sampleRateHz).resume();
}

export const decode = (bytes, sampleRateHz) => contextAt(sampleRateHz).decodeAudioData(bytes);

export class Player {
  underruns = 0;
  #context;
  #nodes = new Set();
  #startsAt = null;
  #endsAt = 0;
  #isComplete = false;
  #onEnded;

  constructor(sampleRateHz, onEnded) {
    this.#context = contextAt(sampleRateHz);
    this.#onEnded = onEnded;
  }

  /** Seconds of audio already heard. After an underrun it is late by the gap, as the sound is. */
  get positionS() {
    if (this.#startsAt === null) return 0;
    return Math.max(0, this.#context.currentTime - this.#startsAt);
  }

  /** Queue float32 samples. */
  play(samples) {
    if (!samples.length) return;
    const now = this.#context.currentTime;
    if (this.#startsAt === null) {
      this.#endsAt = this.#startsAt = now + LEAD_S;
    } else if (this.#endsAt < now) {
      this.underruns += 1;
      this.#startsAt += now + LEAD_S - this.#endsAt;
      this.#endsAt = now + LEAD_S;
    }
    const buffer = this.#context.createBuffer(1, samples.length, this.#context.sampleRate);
    buffer.copyToChannel(samples, 0);
    this.#start(buffer);
  }

  #start(buffer) {
    const node = new AudioBufferSourceNode(this.#context, { buffer });
    node.connect(this.#context.destination);
    node.onended = () => {
      this.#nodes.delete(node);
      this.#endIfDone();
    };
    this.#nodes.add(node);
    node.start(this.#endsAt);
    this.#endsAt += buffer.duration;
  }

  /** No more audio will come; `onEnded` is called once the last of it has been heard. */
  complete() {
    this.#isComplete = true;
    this.#endIfDone();
  }

  #endIfDone() {
    if (this.#isComplete && !this.#nodes.size) this.#onEnded();
  }

  /** Silence now; `onEnded` is not called. */
  stop() {
    for (const node of this.#nodes) {
      node.onended = null;
      node.stop();
      node.disconnect();
    }
    this.#nodes.clear();
  }
}
