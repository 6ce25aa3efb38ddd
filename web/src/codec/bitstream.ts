/** The header of a bitstream (docs/protocol.md, "Layout"). */
import { PAYLOAD_BYTES_MAX } from "../limits";

/** Upper bound of a header, with which every language reckons whatever its own one takes (pipeline/codec/bitstream.py). */
const HEADER_BYTES_MAX = 80;
export const LAYERS_BYTES_MAX = PAYLOAD_BYTES_MAX - HEADER_BYTES_MAX;
const FIRST_BYTE = 0xf1;
const REFERENCE_FLAG = 0x10;

/** The earlier frame that a frame is coded against; `layers` of it are held by both ends. */
export interface HeaderReference {
  epoch: number;
  frame: number;
  layers: number;
}

export interface Header {
  operatingPoint: number;
  height: number;
  width: number;
  /** 16-bit words of each layer. */
  lengths: readonly number[];
  reference: HeaderReference | null;
}

/** The header's bytes, check included. */
export function packHeader(header: Header): number[] {
  const flags = (header.lengths.length - 1) | (header.reference ? REFERENCE_FLAG : 0);
  const bytes = [FIRST_BYTE, header.operatingPoint, flags, header.height - 1, header.width - 1];
  if (header.reference) {
    appendVarint(bytes, header.reference.epoch);
    appendVarint(bytes, header.reference.frame);
    bytes.push(header.reference.layers);
  }
  for (const words of header.lengths) appendVarint(bytes, words);
  const check = crc16(bytes);
  bytes.push(check & 0xff, check >> 8);
  return bytes;
}

/** Unsigned LEB128; values up to 2^53, so no bit operations on the whole. */
function appendVarint(bytes: number[], value: number): void {
  while (value > 127) {
    bytes.push((value % 128) | 128);
    value = Math.floor(value / 128);
  }
  bytes.push(value);
}

/** CRC-16/CCITT-FALSE. */
function crc16(bytes: readonly number[]): number {
  let crc = 0xffff;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff;
  }
  return crc;
}

/** Where each layer of a bitstream of our own ends; nothing, if it is none. */
export function layerEnds(bitstream: Uint8Array): number[] {
  if (bitstream.length < 8 || bitstream[0] !== FIRST_BYTE) return [];
  let at = 5;
  const takeVarint = (): number => {
    let value = 0;
    for (let scale = 1; at < bitstream.length; scale *= 128) {
      const byte = bitstream[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) break;
    }
    return value;
  };
  if (bitstream[2]! & REFERENCE_FLAG) {
    takeVarint();
    takeVarint();
    at++;
  }
  const lengths = Array.from({ length: (bitstream[2]! & 15) + 1 }, takeVarint);
  at += 2; // The check.
  return lengths.map((words) => (at += 2 * words));
}
