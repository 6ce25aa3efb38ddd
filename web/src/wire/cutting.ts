/**
 * Where a frame is cut into parts (pipeline/wire/cutting.py). Without parity a lost part costs the layers from there on, so
 * cuts lie at ends of layers where that takes no part more. With parity all parts have the same size, which makes the
 * parity smallest.
 */
import { layerEnds } from "../codec/bitstream";
import { FRAME_PARTS_MAX } from "../limits";

/** How many parts of at most `partBytes` bytes (more, if there would be too many) a frame has. */
export function partsOf(payloadBytes: number, partBytes: number): number {
  return Math.max(1, Math.ceil(payloadBytes / sizeOf(payloadBytes, partBytes)));
}

export function cut(payload: Uint8Array, partBytes: number, atLayers: boolean): Uint8Array[] {
  const size = sizeOf(payload.length, partBytes);
  const ends = atLayers ? layerEnds(payload) : [];
  const pieces: Uint8Array[] = [];
  let start = 0;
  for (let left = partsOf(payload.length, partBytes); left > 0; left--) {
    const rest = payload.length - start;
    const least = Math.max(1, rest - (left - 1) * size); // The others must hold what remains.
    const fitting = ends.map((end) => end - start).filter((length) => length >= least && length <= size);
    const length = left === 1 ? rest : fitting.length ? Math.max(...fitting) : Math.ceil(rest / left);
    pieces.push(payload.subarray(start, start + length));
    start += length;
  }
  return pieces;
}

function sizeOf(payloadBytes: number, partBytes: number): number {
  return Math.max(partBytes, Math.ceil(payloadBytes / FRAME_PARTS_MAX));
}
