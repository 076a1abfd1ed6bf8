// Waveform: draws the speech as bars while it arrives, and how far it has been played. Keeps
// peaks, not audio.

const PEAK_S = 0.02; // one kept peak
const BAR_PX = 3;
const STEP_PX = 5;
const QUIET = 0.03; // height of silence, so that a pause still shows as a line of dots

export class Waveform {
  #canvas;
  #peaks = [];
  #peak = 0;
  #left = 0;
  #samplesPerPeak = 480;
  #isComplete = false;
  #heardS = 0;

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear(sampleRateHz) {
    this.#peaks = [];
    this.#samplesPerPeak = this.#left = Math.round(sampleRateHz * PEAK_S);
    this.#peak = 0;
    this.#isComplete = false;
    this.#heardS = 0;
  }

  add(samples) {
    for (const sample of samples) {
      this.#peak = Math.max(this.#peak, Math.abs(sample));
      this.#left -= 1;
      if (this.#left) continue;
      this.#peaks.push(this.#peak);
      this.#left = this.#samplesPerPeak;
      this.#peak = 0;
    }
  }

  /** From now on the bars fill the whole width. */
  complete() {
    this.#isComplete = true;
  }

  draw(heardS = this.#heardS) {
    this.#heardS = heardS;
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = devicePixelRatio || 1;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    const paint = this.#canvas.getContext("2d");
    paint.scale(scale, scale);
    this.#paintBars(paint, this.#bars(Math.floor(width / STEP_PX)), height);
  }

  #paintBars(paint, { heights, heardBars }, height) {
    const colours = getComputedStyle(this.#canvas);
    heights.forEach((level, index) => {
      paint.fillStyle = colours.getPropertyValue(
        level === null ? "--wave-empty" : index < heardBars ? "--wave-heard" : "--wave",
      );
      const bar = Math.max(BAR_PX, (level ?? 0) * height);
      paint.beginPath();
      paint.roundRect(index * STEP_PX, (height - bar) / 2, BAR_PX, bar, BAR_PX / 2);
      paint.fill();
    });
  }

  /** One level per bar, null where no audio is known yet. */
  #bars(count) {
    const perBar = this.#peaksPerBar(count);
    const heights = Array.from({ length: count }, (_, index) => {
      const part = this.#peaks.slice(Math.floor(index * perBar), Math.floor((index + 1) * perBar));
      // The root lifts quiet speech to where it can be seen.
      return part.length ? Math.max(QUIET, Math.sqrt(Math.max(...part)) * 0.96) : null;
    });
    return { heights, heardBars: this.#heardS / PEAK_S / perBar };
  }

  #peaksPerBar(count) {
    const needed = this.#peaks.length / Math.max(1, count);
    if (this.#isComplete && needed > 0) return Math.max(1, needed);
    // Doubling, so that the bars stand still between two jumps instead of creeping.
    return 2 ** Math.max(1, Math.ceil(Math.log2(Math.max(1, needed))));
  }
}
