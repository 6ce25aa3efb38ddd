/** Latents to symbols: scale by channel and round to even (pipeline/codec/quantisation.py and sticky.py). */
import { SYMBOL_MAGNITUDE_MAX } from "../limits";

export interface OperatingPoint {
  name: string;
  gain: Float32Array;
  offset: Float32Array;
  /** How far, in symbols, a latent may lie from its reference's symbol that is kept; 0: off. */
  stickyThreshold: number;
  /** The same for a whole place, root mean square over its channels: within it all of its symbols are kept; 0: off. */
  refreshThreshold: number;
  /** Measured mean payload, in bytes; 0: not measured. */
  bytesMean: number;
  /** Measured loss in points; null: not measured. */
  lossPoints: number | null;
  /** The same where only the first 1, 2, … layers arrived; empty: not measured. */
  layerLossPoints: readonly number[];
}

/** Adding and taking away 1.5 · 2^52 rounds a double to the nearest whole number, halves to even. */
const ROUND = 6_755_399_441_055_744;

/**
 * Symbols [C, H, W] of a latent [C, H, W]. NaN becomes 0. With `held`, symbols of a reference [c, H, W], those are kept
 * where the latent lies within the point's sticky threshold of them, or its place within the refresh threshold. Every
 * step is rounded to float32 where numpy does (tests/golden/quantisation): at a border one rounding decides.
 */
export function quantise(latent: Float32Array, point: OperatingPoint, held: Int16Array | null = null): Int16Array {
  const channels = point.gain.length;
  const places = latent.length / channels;
  const symbols = new Int16Array(latent.length);
  const kept = held && point.refreshThreshold > 0 ? keptPlaces(latent, point, held, places) : null;
  const reach = held && (kept || point.stickyThreshold > 0.5) ? Math.fround(Math.max(0.5, point.stickyThreshold)) : -1;
  for (let channel = 0, at = 0; channel < channels; channel++) {
    const gain = point.gain[channel]!;
    const offset = point.offset[channel]!;
    for (let place = 0; place < places; place++, at++) {
      const scaled = inSymbols(latent[at]!, gain, offset);
      if (reach > 0 && at < held!.length && (kept?.[place] || Math.abs(Math.fround(scaled - held![at]!)) <= reach)) {
        symbols[at] = held![at]!;
      } else {
        symbols[at] = Math.max(-SYMBOL_MAGNITUDE_MAX, Math.min(SYMBOL_MAGNITUDE_MAX, scaled + ROUND - ROUND));
      }
    }
  }
  return symbols;
}

function inSymbols(latent: number, gain: number, offset: number): number {
  return Math.fround(Math.fround(latent * gain) - offset);
}

/** 1 where the place lies within the refresh threshold of the reference's symbols; NaN does not. */
function keptPlaces(latent: Float32Array, point: OperatingPoint, held: Int16Array, places: number): Uint8Array {
  const squares = new Float32Array(places); // Channel after channel, as numpy adds them.
  const channels = held.length / places;
  for (let channel = 0, at = 0; channel < channels; channel++) {
    const gain = point.gain[channel]!;
    const offset = point.offset[channel]!;
    for (let place = 0; place < places; place++, at++) {
      const distance = Math.fround(inSymbols(latent[at]!, gain, offset) - held[at]!);
      squares[place]! += Math.fround(distance * distance);
    }
  }
  const limit = Math.fround(channels * point.refreshThreshold ** 2);
  return Uint8Array.from(squares, (sum) => (sum <= limit ? 1 : 0));
}
