/** Parity parts: what makes up for lost parts of a frame, and how many are worth their bytes (pipeline/wire/parity.py). */
import { FRAME_PARITY_PARTS_MAX } from "../limits";

const LENGTH_BYTES = 2;
const POLYNOMIAL = 0x11d;
/** One more parity part must bring so much more of the frames over, as a share. */
const WORTH = 0.015;

/** 2^0 … 2^254 in GF(256), and back. */
const POWERS = new Uint8Array(255);
const LOGARITHMS = new Uint8Array(256);
for (let exponent = 0, value = 1; exponent < 255; exponent++) {
  POWERS[exponent] = value;
  LOGARITHMS[value] = exponent;
  value = (value << 1) ^ (value & 0x80 ? POLYNOMIAL : 0);
}

/** The first `count` parity parts, each two bytes longer than the longest part: Σ 2^(k·i) · (length of part i, part i). */
export function parityOf(parts: readonly Uint8Array[], count: number): Uint8Array[] {
  const size = LENGTH_BYTES + Math.max(...parts.map((part) => part.length));
  return Array.from({ length: count }, (_, row) => {
    const sum = new Uint8Array(size);
    parts.forEach((part, index) => {
      const exponent = (row * index) % 255;
      const add = (at: number, byte: number): void => {
        if (byte) sum[at]! ^= POWERS[(LOGARITHMS[byte]! + exponent) % 255]!;
      };
      add(0, part.length & 0xff);
      add(1, part.length >> 8);
      for (let at = 0; at < part.length; at++) add(LENGTH_BYTES + at, part[at]!);
    });
    return sum;
  });
}

/**
 * How many parity parts a frame of `parts` parts should have where the share `loss` of all parts gets lost. `room`: how many
 * such frames without parity the link takes in the time of one; where that is no more than one, parity costs other frames.
 */
export function parityWorth(parts: number, loss: number, most = FRAME_PARITY_PARTS_MAX, room = Infinity): number {
  let count = 0;
  for (let value = wholeShare(parts, 0, loss) * Math.min(1, room); count < most; count++) {
    const more = wholeShare(parts, count + 1, loss) * Math.min(1, (room * parts) / (parts + count + 1));
    if (more < value * (1 + WORTH)) break;
    value = more;
  }
  return count;
}

/** Share of frames of which at most `parity` of the `parts + parity` messages get lost, each by itself. */
export function wholeShare(parts: number, parity: number, loss: number): number {
  const total = parts + parity;
  let share = 0;
  for (let lost = 0, ways = 1; lost <= parity; ways = (ways * (total - lost)) / (lost + 1), lost++) {
    share += ways * loss ** lost * (1 - loss) ** (total - lost);
  }
  return share;
}
