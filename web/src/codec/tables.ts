/** The entropy model: the integer tables of `edge/tables.msgpack` (docs/protocol.md, "Tables file"). */
import { decode } from "@msgpack/msgpack";
import { BundleError } from "../errors";

const FORMAT = 1;
/** Of tables whose inter set has freqs of places. */
const FORMAT_PLACES = 2;
export const PLACE_CONTEXTS = 16;

/** Which table codes what, for frames without (`intra`) or with (`inter`) a reference. */
export interface TableSet {
  /** Contexts of each channel. */
  contexts: Uint16Array;
  /** First place of each channel in a row of `index`. */
  contextFirst: Uint32Array;
  /** Σ contexts: length of a row of `index`. */
  rowLength: number;
  /** Table of each (operating point, channel, context). */
  index: Uint32Array;
  /** Freq of slot 1 of the skip table of each (operating point, channel); 0: no skip flag. */
  skip: Uint16Array;
  /** Freq of "the place is refreshed" of each (operating point, context); null: no map of places. */
  places: Uint16Array | null;
}

export interface Tables {
  precision: number;
  points: number;
  channels: number;
  fill: Int16Array;
  /** First symbol, slots with escape, first slot of each table. */
  low: Int16Array;
  size: Uint16Array;
  first: Uint32Array;
  /** Of each slot, table after table. */
  freq: Uint16Array;
  start: Uint16Array;
  intra: TableSet;
  inter: TableSet | null;
}

/** Reads and checks a tables file. Throws BundleError. */
export function parseTables(data: Uint8Array): Tables {
  let file: Record<string, unknown>;
  try {
    file = decode(data) as Record<string, unknown>;
  } catch {
    throw new BundleError(`tables file of ${data.length} bytes does not parse: fetch the bundle again`);
  }
  if (file === null || typeof file !== "object" || (file.format !== FORMAT && file.format !== FORMAT_PLACES)) {
    throw new BundleError(`tables file has format ${String(file?.format)}, this page reads ${FORMAT} and ${FORMAT_PLACES}: reload the page`);
  }
  const precision = number(file, "precision", 12, 16);
  const points = number(file, "points", 1, 32);
  const channels = number(file, "channels", 1, 256);
  const fill = new Int16Array(words(file, "fill", 2));
  const low = new Int16Array(words(file, "low", 2));
  const size = new Uint16Array(words(file, "size", 2));
  const freq = new Uint16Array(words(file, "freq", 2));
  if (fill.length !== channels || low.length !== size.length || low.length === 0) throw unsound("sizes");
  const { first, start } = slotStarts(size, freq, precision);
  const tables: Tables = {
    precision, points, channels, fill, low, size, first, freq, start,
    intra: parseSet(file.intra, points, channels, low.length, precision),
    inter: file.inter === null ? null : parseSet(file.inter, points, channels, low.length, precision),
  };
  return tables;
}

function slotStarts(size: Uint16Array, freq: Uint16Array, precision: number) {
  const first = new Uint32Array(size.length);
  const start = new Uint16Array(freq.length);
  let slot = 0;
  for (let table = 0; table < size.length; table++) {
    first[table] = slot;
    let sum = 0;
    if (size[table]! < 2 || size[table]! > 256) throw unsound("a table's size");
    for (let end = slot + size[table]!; slot < end; slot++) {
      if (!freq[slot]) throw unsound("freqs");
      start[slot] = sum;
      sum += freq[slot]!;
    }
    if (sum !== 1 << precision) throw unsound("a table's sum");
  }
  if (slot !== freq.length) throw unsound("freqs");
  return { first, start };
}

function parseSet(value: unknown, points: number, channels: number, tables: number, precision: number): TableSet {
  if (value === null || typeof value !== "object") throw unsound("sets");
  const file = value as Record<string, unknown>;
  const contexts = new Uint16Array(words(file, "contexts", 2));
  const index = new Uint32Array(words(file, "index", 4));
  const skip = new Uint16Array(words(file, "skip", 2));
  if (contexts.length !== channels || skip.length !== points * channels) throw unsound("contexts");
  const contextFirst = new Uint32Array(channels);
  let rowLength = 0;
  for (let channel = 0; channel < channels; channel++) {
    contextFirst[channel] = rowLength;
    rowLength += contexts[channel]!;
  }
  if (index.length !== points * rowLength || index.some((table) => table >= tables)) throw unsound("index");
  if (skip.some((share) => share >= 1 << precision)) throw unsound("skip freqs");
  const places = file.places === undefined ? null : new Uint16Array(words(file, "places", 2));
  if (places && (places.length !== points * PLACE_CONTEXTS || places.some((share) => !share || share >= 1 << precision))) {
    throw unsound("freqs of places");
  }
  return { contexts, contextFirst, rowLength, index, skip, places };
}

function number(file: Record<string, unknown>, key: string, min: number, max: number): number {
  const value = file[key];
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
    throw new BundleError(`tables file has ${key} ${String(value)}, expected ${min} to ${max}: fetch the bundle again`);
  }
  return value;
}

/** An aligned copy; the file is little-endian, as is every machine that runs a browser. */
function words(file: Record<string, unknown>, key: string, itemBytes: number): ArrayBuffer {
  const value = file[key];
  if (!(value instanceof Uint8Array) || value.length % itemBytes) throw unsound(key);
  return new Uint8Array(value).buffer;
}

function unsound(what: string): BundleError {
  return new BundleError(`tables file has ${what} that do not fit: fetch the bundle again`);
}
