// Raw audio: bytes to samples, samples to a WAV file.

/** Turns network chunks of any size into int16 samples; an odd byte waits for its other half. */
export class PcmReader {
  #odd = null;

  read(bytes) {
    const joined = new Uint8Array((this.#odd === null ? 0 : 1) + bytes.length);
    if (this.#odd !== null) joined[0] = this.#odd;
    joined.set(bytes, joined.length - bytes.length);
    this.#odd = joined.length % 2 ? joined[joined.length - 1] : null;
    // Samples are little-endian, and so is every machine with a browser.
    return new Int16Array(joined.buffer, 0, joined.length >> 1);
  }
}

export function toFloat(samples) {
  return Float32Array.from(samples, (sample) => sample / 32768);
}

/** A WAV file of mono 16-bit audio; `chunks` are Int16Arrays. */
export function wavFile(chunks, sampleRateHz) {
  const dataBytes = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
  const header = new DataView(new ArrayBuffer(44));
  const write = (at, text) => [...text].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
  write(0, "RIFF");
  header.setUint32(4, 36 + dataBytes, true);
  write(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // integer PCM
  header.setUint16(22, 1, true); // mono
  header.setUint32(24, sampleRateHz, true);
  header.setUint32(28, sampleRateHz * 2, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  write(36, "data");
  header.setUint32(40, dataBytes, true);
  return new Blob([header, ...chunks], { type: "audio/wav" });
}
