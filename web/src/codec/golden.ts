/** Checks the codec against a golden vector file (tests/golden/bitstream). Used by `npm test` and in the page. */
import { LatentEncoder, type Reference } from "./latent_encoder";
import { parseContexts } from "./contexts";
import { parseTables } from "./tables";

export interface GoldenFile {
  spec: { layers: number[]; contexts: unknown[] };
  tables: string;
  frames: GoldenFrame[];
}

interface GoldenFrame {
  what: string;
  operating_point: number;
  shape: [number, number, number];
  symbols: string;
  layers_asked: number | null;
  cut: number | null;
  reference: { epoch: number; frame: number; layers: number; symbols: string } | null;
  bitstream: string;
}

/** [what, expected hex, hex as encoded here] of each frame. */
export function encodeGolden(file: GoldenFile): [string, string, string][] {
  const encoder = new LatentEncoder(
    file.spec.layers, parseContexts(file.spec.contexts, file.spec.layers), parseTables(fromBase64(file.tables)),
  );
  return file.frames.map((frame) => {
    const [, height, width] = frame.shape;
    const reference: Reference | null = frame.reference && { ...frame.reference, symbols: int16(frame.reference.symbols) };
    const bytes = encoder.encode(int16(frame.symbols), { height, width }, frame.operating_point, {
      layers: frame.layers_asked ?? undefined, reference,
    });
    return [frame.what, frame.bitstream, toHex(bytes.slice(0, frame.cut ?? undefined))];
  });
}

function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function int16(text: string): Int16Array {
  return new Int16Array(fromBase64(text).buffer as ArrayBuffer);
}
