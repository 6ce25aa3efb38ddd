/** Contexts: which table codes a symbol (docs/protocol.md, "Contexts"; pipeline/codec/contexts.py is the definition). */
import { BundleError } from "../errors";

export interface Term {
  kind: "none" | "reference" | "reference_neighbourhood" | "checkerboard" | "layer" | "changes" | "previous";
  clip: number;
  thresholds: number[];
  /** Kind `layer`: for each channel of the layer, a channel of an earlier layer. */
  sources: number[];
}

/** Terms of each layer; `inter` null: the codec takes no references. */
export interface Contexts {
  intra: Term[][];
  inter: Term[][] | null;
  /** Whether frames with a reference begin with a map of refreshed places. */
  places: boolean;
}

const PARAMETERS: Record<Term["kind"], (keyof Term)[]> = {
  none: [],
  reference: ["clip"],
  reference_neighbourhood: ["thresholds"],
  checkerboard: ["thresholds"],
  layer: ["clip", "sources"],
  changes: ["thresholds"],
  previous: ["thresholds"],
};

/** Thresholds of kind `changes` are shares of this. */
const SHARE_MAX = 256;

/** Reads the `[[contexts]]` entries of a bundle's spec. Throws BundleError on kinds that this page does not know. */
export function parseContexts(entries: readonly unknown[], layers: readonly number[]): Contexts {
  const none = () => layers.map((): Term[] => []);
  const contexts: Contexts = { intra: none(), inter: null, places: false };
  for (const entry of entries as Record<string, unknown>[]) {
    if (entry.set === "places") {
      contexts.places = true;
      continue;
    }
    if (entry.set !== "intra" && entry.set !== "inter") {
      throw new BundleError(`contexts entry has set ${String(entry.set)}, expected intra or inter: reload the page`);
    }
    const rows = entry.set === "intra" ? contexts.intra : (contexts.inter ??= none());
    const terms = ((entry.terms as unknown[] | undefined) ?? []).map(parseTerm);
    for (const layer of (entry.layers as number[] | undefined) ?? layers.keys()) rows[layer] = terms;
  }
  return contexts;
}

function parseTerm(value: unknown): Term {
  const entry = value as Record<string, unknown>;
  const kind = entry.kind as Term["kind"];
  const parameters = PARAMETERS[kind];
  if (!parameters || parameters.some((name) => entry[name] === undefined)) {
    throw new BundleError(`contexts term has kind ${String(kind)} that this page does not know: reload the page`);
  }
  return {
    kind,
    clip: (entry.clip as number | undefined) ?? 0,
    thresholds: (entry.thresholds as number[] | undefined) ?? [],
    sources: (entry.sources as number[] | undefined) ?? [],
  };
}

/** How many values a term takes. */
export function termValues(term: Term): number {
  switch (term.kind) {
    case "none": return 1;
    case "reference":
    case "layer": return 2 * term.clip + 1;
    case "reference_neighbourhood":
    case "changes":
    case "previous": return term.thresholds.length + 1;
    case "checkerboard": return term.thresholds.length + 2;
  }
}

export function hasCheckerboard(terms: readonly Term[]): boolean {
  return terms.some((term) => term.kind === "checkerboard");
}

export function hasChanges(terms: readonly Term[]): boolean {
  return terms.some((term) => term.kind === "changes");
}

/** Where a channel's contexts come from. Arrays are [C, H, W]. */
export interface Surroundings {
  symbols: Int16Array;
  reference: Int16Array | null;
  /** In how many of the channels before the symbol is not its prediction, [H · W]; for kind `changes`. */
  changed: Uint16Array;
  channel: number;
  channelInLayer: number;
  height: number;
  width: number;
}

/** Writes the context number of each place of a channel to `out` [H · W]. */
export function contextValues(terms: readonly Term[], at: Surroundings, out: Uint16Array): void {
  const places = at.height * at.width;
  const own = at.channel * places;
  out.fill(0, 0, places);
  let step = 1;
  for (const term of terms) {
    switch (term.kind) {
      case "none":
        continue;
      case "reference":
        addClipped(at.reference!, own, term.clip, step, places, out);
        break;
      case "layer":
        addClipped(at.symbols, term.sources[at.channelInLayer]! * places, term.clip, step, places, out);
        break;
      case "reference_neighbourhood":
        addMagnitudes(at.reference!, own, term.thresholds, step, at, out, false);
        break;
      case "checkerboard":
        addMagnitudes(at.symbols, own, term.thresholds, step, at, out, true);
        break;
      case "previous":
        addPrevious(at.symbols, own, term.thresholds, step, at, out);
        break;
      case "changes":
        addChanges(term.thresholds, step, at, out);
        break;
    }
    step *= termValues(term);
  }
}

function addClipped(from: Int16Array, first: number, clip: number, step: number, places: number, out: Uint16Array) {
  for (let place = 0; place < places; place++) {
    const symbol = from[first + place]!;
    out[place]! += step * ((symbol < -clip ? -clip : symbol > clip ? clip : symbol) + clip);
  }
}

/** Class of the summed magnitudes of the four neighbours; with `oddOnly` even places have 0 and classes begin at 1. */
function addMagnitudes(
  from: Int16Array, first: number, thresholds: readonly number[], step: number,
  { height, width }: Surroundings, out: Uint16Array, oddOnly: boolean,
): void {
  const base = oddOnly ? 1 : 0;
  for (let row = 0, place = 0; row < height; row++) {
    for (let column = 0; column < width; column++, place++) {
      if (oddOnly && !((row + column) & 1)) continue;
      const at = first + place;
      let sum = 0;
      if (row > 0) sum += Math.abs(from[at - width]!);
      if (row < height - 1) sum += Math.abs(from[at + width]!);
      if (column > 0) sum += Math.abs(from[at - 1]!);
      if (column < width - 1) sum += Math.abs(from[at + 1]!);
      let value = base;
      for (const threshold of thresholds) if (threshold <= sum) value++;
      out[place]! += step * value;
    }
  }
}

/** Class of the sum of the symbols to the left and above. */
function addPrevious(
  from: Int16Array, first: number, thresholds: readonly number[], step: number, { height, width }: Surroundings, out: Uint16Array,
): void {
  for (let row = 0, place = 0; row < height; row++) {
    for (let column = 0; column < width; column++, place++) {
      const left = column > 0 ? from[first + place - 1]! : 0;
      const above = row > 0 ? from[first + place - width]! : 0;
      let value = 0;
      for (const threshold of thresholds) if (threshold <= left + above) value++;
      out[place]! += step * value;
    }
  }
}

/** Class of the share of changed symbols in the channels before, here and at the four neighbours. */
function addChanges(thresholds: readonly number[], step: number, { changed, channel, height, width }: Surroundings, out: Uint16Array): void {
  if (channel === 0) return;
  const reached = thresholds.map((share) => Math.ceil((share * 5 * channel) / SHARE_MAX));
  for (let row = 0, place = 0; row < height; row++) {
    for (let column = 0; column < width; column++, place++) {
      let sum = changed[place]!;
      if (row > 0) sum += changed[place - width]!;
      if (row < height - 1) sum += changed[place + width]!;
      if (column > 0) sum += changed[place - 1]!;
      if (column < width - 1) sum += changed[place + 1]!;
      let value = 0;
      for (const threshold of reached) if (threshold <= sum) value++;
      out[place]! += step * value;
    }
  }
}
