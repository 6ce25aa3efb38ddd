/** The range coder's encoder: rANS with 16-bit words (docs/protocol.md, "Coder"; pipeline/codec/range_coder.py). */

const STATE_LOW = 65_536;
const GOLDEN = 0x9e3779b1;
const ESCAPE_LENGTH_BITS = 4;
/** 2^n: a look-up takes a fifth of the time of `**`. */
const POWER = Float64Array.from({ length: 33 }, (_, n) => 2 ** n);

/** The steps of one layer, in the decoder's order, until they are coded from the last to the first. */
export class Steps {
  length = 0;
  private starts = new Uint16Array(4096);
  private freqs = new Uint16Array(4096);
  private bits = new Uint8Array(4096);
  private words = new Uint16Array(4098);

  clear(): void {
    this.length = 0;
  }

  /** A slot of a table of 2^bits. */
  slot(start: number, freq: number, bits: number): void {
    if (this.length === this.starts.length) this.grow();
    this.starts[this.length] = start;
    this.freqs[this.length] = freq;
    this.bits[this.length++] = bits;
  }

  /** The raw bits that follow the escape slot of a table that holds `count` symbols from `low`. */
  escape(symbol: number, low: number, count: number): void {
    const value = symbol < low ? 2 * (low - 1 - symbol) + 1 : 2 * (symbol - low - count);
    const bits = 31 - Math.clz32(value + 1);
    this.slot(bits, 1, ESCAPE_LENGTH_BITS);
    if (bits) this.slot(value + 1 - (1 << bits), 1, bits);
  }

  /** Little-endian words: the layer's bytes. Numbers stay below 2^53, so every division is exact. */
  encode(check: number): Uint8Array {
    const words = this.words;
    const { starts, freqs, bits: allBits } = this;
    let at = words.length;
    let x = STATE_LOW + check;
    for (let step = this.length - 1; step >= 0; step--) {
      const freq = freqs[step]!;
      const bits = allBits[step]!;
      if (x >= freq * POWER[32 - bits]!) {
        words[--at] = x & 0xffff;
        x = x >>> 16;
      }
      const quotient = Math.floor(x / freq);
      x = quotient * POWER[bits]! + starts[step]! + (x - quotient * freq);
    }
    words[--at] = x >>> 16;
    words[--at] = x & 0xffff;
    return new Uint8Array(words.slice(at).buffer);
  }

  private grow(): void {
    const longer = <T extends Uint16Array | Uint8Array>(from: T, to: T): T => (to.set(from), to);
    const length = 2 * this.starts.length;
    this.starts = longer(this.starts, new Uint16Array(length));
    this.freqs = longer(this.freqs, new Uint16Array(length));
    this.bits = longer(this.bits, new Uint8Array(length));
    this.words = new Uint16Array(length + 2);
  }
}

/** 16-bit check of a layer's symbols, `symbols[first … end − 1]`. */
export function layerCheck(symbols: Int16Array, first: number, end: number, layer: number): number {
  let sum = Math.imul(GOLDEN, layer + 1);
  for (let place = first; place < end; place++) {
    sum = (sum + Math.imul(symbols[place]!, Math.imul(place - first, GOLDEN) | 1)) | 0;
  }
  return Math.imul(sum ^ (sum >>> 16), 0x7feb352d) >>> 16;
}
