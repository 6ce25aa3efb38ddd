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

const CONTEXTS_MAX = 256;
const CLIP_MAX = 7;
const THRESHOLDS_MAX = 8;
/** More than four neighbours' magnitudes can sum to. */
const THRESHOLD_MAX = 16_384;
const TERMS_MAX = 8;
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

/** Reads the `[[contexts]]` entries of a bundle's spec. Throws BundleError on anything unknown or out of range, as Python. */
export function parseContexts(entries: readonly unknown[], layers: readonly number[]): Contexts {
  const none = () => layers.map((): Term[] => []);
  const contexts: Contexts = { intra: none(), inter: null, places: false };
  for (const value of entries) {
    const entry = table(value, "contexts entry");
    if (entry.set === "places" && Object.keys(entry).length === 1) {
      contexts.places = true;
      continue;
    }
    if (entry.set !== "intra" && entry.set !== "inter") {
      throw unsound("contexts entry", `set is ${String(entry.set)}, expected intra or inter, or places and nothing else`);
    }
    const unknown = Object.keys(entry).filter((key) => !["set", "layers", "terms"].includes(key));
    if (unknown.length) throw unsound("contexts entry", `it has ${unknown.join(", ")}, expected set, layers, terms`);
    const rows = entry.set === "intra" ? contexts.intra : (contexts.inter ??= none());
    const terms = list(entry.terms ?? [], "terms").map(parseTerm);
    for (const layer of integers(entry.layers ?? [...layers.keys()], "layers")) {
      if (!(layer in rows)) throw unsound("contexts entry", `layer ${layer} is not one of 0 to ${layers.length - 1}`);
      rows[layer] = terms;
    }
  }
  checkContexts(contexts, layers);
  return contexts;
}

function parseTerm(value: unknown): Term {
  const entry = table(value, "contexts term");
  const kind = entry.kind as Term["kind"];
  if (typeof kind !== "string" || !Object.hasOwn(PARAMETERS, kind)) {
    throw unsound("contexts term", `kind is ${String(kind)}, expected ${Object.keys(PARAMETERS).join(", ")}`);
  }
  const given = Object.keys(entry).filter((key) => key !== "kind").sort();
  const wanted = [...PARAMETERS[kind]].sort();
  if (given.join() !== wanted.join()) {
    throw unsound(`contexts term ${kind}`, `parameters are ${given.join(", ") || "none"}, expected ${wanted.join(", ") || "none"}`);
  }
  return {
    kind,
    clip: integers([entry.clip ?? 0], "clip")[0]!,
    thresholds: integers(entry.thresholds ?? [], "thresholds"),
    sources: integers(entry.sources ?? [], "sources"),
  };
}

function table(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw unsound(what, "it is no table");
  return value as Record<string, unknown>;
}

function list(value: unknown, what: string): unknown[] {
  if (!Array.isArray(value)) throw unsound("contexts entry", `${what} is no list`);
  return value;
}

function integers(value: unknown, what: string): number[] {
  const numbers = list(value, what);
  if (!numbers.every(Number.isInteger)) throw unsound("contexts entry", `${what} has ${String(numbers)}, expected whole numbers`);
  return numbers as number[];
}

function checkContexts({ intra, inter, places }: Contexts, layers: readonly number[]): void {
  if (places && !inter) throw unsound("contexts", "there is a map of places, but no inter set: it needs a reference");
  for (const [name, rows] of [["intra", intra], ["inter", inter ?? []]] as const) {
    let firstChannel = 0;
    rows.forEach((terms, layer) => {
      const where = `${name} contexts of layer ${layer}`;
      checkTerms(terms, where, name === "inter");
      for (const term of terms) if (term.kind === "layer") checkSources(term, where, layers[layer]!, firstChannel);
      firstChannel += layers[layer]!;
    });
  }
}

function checkTerms(terms: readonly Term[], where: string, withReference: boolean): void {
  for (const { kind, clip, thresholds } of terms) {
    if (kind.startsWith("reference") && !withReference) throw unsound(where, `kind ${kind} stands in the inter set only`);
    const wants = PARAMETERS[kind];
    if (wants.includes("clip") && !(clip >= 1 && clip <= CLIP_MAX)) {
      throw unsound(where, `clip is ${clip}, expected 1 to ${CLIP_MAX}`);
    }
    const least = kind === "previous" ? -THRESHOLD_MAX : 1;
    const most = kind === "changes" ? SHARE_MAX : THRESHOLD_MAX;
    if (wants.includes("thresholds") && !thresholdsAreSound(thresholds, least, most)) {
      throw unsound(where, `thresholds are [${thresholds.join(", ")}], expected 1 to ${THRESHOLDS_MAX} rising numbers from ${least} to ${most}`);
    }
  }
  if (terms.filter(({ kind }) => kind === "checkerboard" || kind === "previous").length > 1) {
    throw unsound(where, "more than one term of kind checkerboard or previous, expected at most one");
  }
  const count = contextCount(terms);
  if (terms.length > TERMS_MAX || count > CONTEXTS_MAX) {
    throw unsound(where, `${terms.length} terms make ${count} contexts, limit ${TERMS_MAX} and ${CONTEXTS_MAX}`);
  }
}

function thresholdsAreSound(thresholds: readonly number[], least: number, most: number): boolean {
  const rising = thresholds.every((threshold, index) => index === 0 || threshold > thresholds[index - 1]!);
  return rising && thresholds.length >= 1 && thresholds.length <= THRESHOLDS_MAX && thresholds[0]! >= least && thresholds.at(-1)! <= most;
}

function checkSources({ sources }: Term, where: string, channels: number, firstChannel: number): void {
  if (sources.length !== channels) throw unsound(where, `${sources.length} sources for ${channels} channels, expected one a channel`);
  const late = sources.find((source) => source < 0 || source >= firstChannel);
  if (late !== undefined) throw unsound(where, `source channel ${late} is in no earlier layer, expected 0 to ${firstChannel - 1}`);
}

function unsound(where: string, what: string): BundleError {
  return new BundleError(`${where}: ${what}: the bundle is not for this page, reload it`);
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

/** Product of the terms' values: how many contexts a channel has. */
export function contextCount(terms: readonly Term[]): number {
  return terms.reduce((product, term) => product * termValues(term), 1);
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
