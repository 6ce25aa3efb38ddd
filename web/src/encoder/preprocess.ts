/** Pixels to the encoder's input: antialiased area resize to float32 planes in [0, 1] (pipeline/preprocess.py). */

/** What each output takes of the inputs first … first + weights − 1, flattened by output. */
interface Axis {
  first: Uint16Array;
  count: number;
  /** [outputs · count], padded with zeros. */
  weights: Float32Array;
}

export class AreaResize {
  private readonly axis: Axis;
  private readonly rows: Float32Array;

  /** Squares of `from` pixels to `to`. */
  constructor(
    readonly from: number,
    readonly to: number,
  ) {
    this.axis = areaWeights(from, to);
    this.rows = new Float32Array(3 * from * to);
  }

  /** RGBA [from, from, 4] to float32 RGB planes [3, to, to]. */
  run(rgba: Uint8ClampedArray, image: Float32Array): void {
    this.shrinkRows(rgba);
    this.shrinkColumns(image);
  }

  /** Along each row: [from, from, RGBA] to [3, from, to]. */
  private shrinkRows(rgba: Uint8ClampedArray): void {
    const { from, to, rows, axis: { first, count, weights } } = this;
    const plane = from * to;
    for (let row = 0, at = 0; row < from; row++) {
      const pixels = row * from;
      for (let column = 0; column < to; column++, at++) {
        let red = 0, green = 0, blue = 0;
        let pixel = 4 * (pixels + first[column]!);
        for (let tap = column * count, end = tap + count; tap < end; tap++, pixel += 4) {
          const weight = weights[tap]!;
          red += weight * rgba[pixel]!;
          green += weight * rgba[pixel + 1]!;
          blue += weight * rgba[pixel + 2]!;
        }
        rows[at] = red;
        rows[at + plane] = green;
        rows[at + 2 * plane] = blue;
      }
    }
  }

  /** Down each column: [3, from, to] to [3, to, to], scaled to [0, 1]. */
  private shrinkColumns(image: Float32Array): void {
    const { from, to, rows, axis: { first, count, weights } } = this;
    image.fill(0);
    for (let plane = 0; plane < 3; plane++) {
      for (let row = 0; row < to; row++) {
        const out = (plane * to + row) * to;
        for (let tap = 0; tap < count; tap++) {
          const weight = weights[row * count + tap]! / 255;
          if (!weight) continue;
          const input = (plane * from + first[row]! + tap) * to;
          for (let column = 0; column < to; column++) image[out + column]! += weight * rows[input + column]!;
        }
      }
    }
  }
}

/** Mean over the covered pixels; bilinear where it enlarges. Rows sum to 1. */
function areaWeights(from: number, to: number): Axis {
  const ratio = from / to;
  const rows = Array.from({ length: to }, (_, output) => {
    const low = output * ratio;
    const start = Math.max(0, ratio > 1 ? Math.floor(low + 1e-9) : Math.floor(low + ratio / 2 - 0.5));
    const end = Math.min(from, ratio > 1 ? Math.ceil(low + ratio - 1e-9) : start + 2);
    const taps = [];
    for (let sample = start; sample < end; sample++) {
      taps.push(ratio > 1
        ? Math.min(low + ratio, sample + 1) - Math.max(low, sample)
        : Math.max(0, 1 - Math.abs(sample + 0.5 - (low + ratio / 2))));
    }
    const sum = taps.reduce((total, tap) => total + tap, 0);
    return { start, taps: taps.map((tap) => tap / sum) };
  });
  const count = Math.min(from, Math.max(...rows.map((row) => row.taps.length)));
  const axis: Axis = { first: new Uint16Array(to), count, weights: new Float32Array(to * count) };
  rows.forEach(({ start, taps }, output) => {
    // Near the end the window moves back, so that it never reads beyond the picture.
    const first = Math.min(start, from - count);
    axis.first[output] = first;
    axis.weights.set(taps, output * count + start - first);
  });
  return axis;
}
