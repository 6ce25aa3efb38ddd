/** Symbols to a bitstream. The encoding half of pipeline/codec/latent_codec.py; equal bytes for equal symbols. */
import { BitstreamError, BundleError } from "../errors";
import { LATENT_SIDE_MAX, SYMBOL_MAGNITUDE_MAX } from "../limits";
import { LAYERS_BYTES_MAX, packHeader } from "./bitstream";
import { contextCount, contextValues, hasChanges, hasCheckerboard, type Contexts, type Term } from "./contexts";
import { layerCheck, Steps } from "./range_coder";
import { PLACE_CONTEXTS, type Tables, type TableSet } from "./tables";

/** A frame that both ends hold: `layers` of its symbols [C, H, W]. */
export interface Reference {
  epoch: number;
  frame: number;
  layers: number;
  symbols: Int16Array;
}

export interface Grid {
  height: number;
  width: number;
}

/** What coding a layer needs. */
interface Job extends Grid {
  set: TableSet;
  terms: readonly Term[][];
  point: number;
  symbols: Int16Array;
  held: Int16Array | null;
  /** 1 where a place is refreshed, [H · W]; null: the frame has no map of places. */
  refreshed: Uint8Array | null;
}

export class LatentEncoder {
  readonly channels: number;
  /** First channel of each layer, and the number of channels. */
  private readonly layerFirst: number[];
  private readonly steps = new Steps();
  private context = new Uint16Array(0);
  /** In how many channels so far the symbol is not its prediction; only kept where a term of kind `changes` asks. */
  private changed = new Uint16Array(0);

  constructor(
    readonly layers: readonly number[],
    readonly contexts: Contexts,
    readonly tables: Tables,
  ) {
    this.layerFirst = [0];
    for (const channels of layers) this.layerFirst.push(this.layerFirst.at(-1)! + channels);
    this.channels = this.layerFirst.at(-1)!;
    if (this.channels !== tables.channels) {
      throw new BundleError(`tables are for ${tables.channels} channels, the layers have ${this.channels}`);
    }
    this.checkContexts(contexts.intra, tables.intra);
    if (contexts.inter) this.checkContexts(contexts.inter, tables.inter);
    if (contexts.places !== Boolean(tables.inter?.places)) {
      throw new BundleError("the bundle's contexts and tables differ about a map of places: fetch it again");
    }
  }

  get takesReferences(): boolean {
    return this.contexts.inter !== null;
  }

  /** The channels of a reference that both ends hold, [c, H, W]. */
  heldSymbols(reference: Reference): Int16Array {
    const places = reference.symbols.length / this.channels;
    return reference.symbols.subarray(0, this.layerFirst[reference.layers]! * places);
  }

  /** Bitstream of a frame. `symbols` is [C, H, W]; `layers` sends only the first ones. Throws BitstreamError. */
  encode(
    symbols: Int16Array, grid: Grid, operatingPoint: number,
    { layers = this.layers.length, reference = null }: { layers?: number; reference?: Reference | null } = {},
  ): Uint8Array {
    this.check(symbols, grid, operatingPoint, layers, reference);
    const set = reference ? this.tables.inter! : this.tables.intra;
    const terms = reference ? this.contexts.inter! : this.contexts.intra;
    const held = reference ? this.withFill(reference) : null;
    const refreshed = held && set.places ? this.refreshedPlaces(symbols, held, grid, layers) : null;
    const job: Job = { ...grid, set, terms, point: operatingPoint, symbols, held, refreshed };
    const places = grid.height * grid.width;
    if (this.context.length !== places) {
      this.context = new Uint16Array(places);
      this.changed = new Uint16Array(places);
    }
    this.changed.fill(0);
    const parts: Uint8Array[] = [];
    for (let layer = 0; layer < layers; layer++) parts.push(this.encodeLayer(job, layer));
    return assemble(parts, grid, operatingPoint, reference);
  }

  private encodeLayer(job: Job, layer: number): Uint8Array {
    const places = job.height * job.width;
    const first = this.layerFirst[layer]!;
    const end = this.layerFirst[layer + 1]!;
    const countsChanges = job.terms.some(hasChanges);
    this.steps.clear();
    let allPredicted = layer > 0 || !this.addPlaces(job);
    for (let channel = first; channel < end; channel++) {
      const predicted = this.isPredicted(job, channel);
      allPredicted &&= predicted;
      if (this.addSkip(job, channel, predicted)) continue;
      contextValues(
        job.terms[layer]!, { ...job, reference: job.held, changed: this.changed, channel, channelInLayer: channel - first },
        this.context,
      );
      this.addChannel(job, channel, hasCheckerboard(job.terms[layer]!));
      if (countsChanges && !predicted) this.countChanges(job, channel);
    }
    if (allPredicted) return new Uint8Array(0);
    return this.steps.encode(layerCheck(job.symbols, first * places, end * places, layer));
  }

  /** Where a symbol of the layers that are sent is not the reference's. */
  private refreshedPlaces(symbols: Int16Array, held: Int16Array, { height, width }: Grid, layers: number): Uint8Array {
    const places = height * width;
    const refreshed = new Uint8Array(places);
    for (let channel = 0, at = 0; channel < this.layerFirst[layers]!; channel++) {
      for (let place = 0; place < places; place++, at++) if (symbols[at] !== held[at]) refreshed[place] = 1;
    }
    return refreshed;
  }

  /** Adds the map of places. False: there is none, or nothing is refreshed. */
  private addPlaces({ refreshed, set, point, height, width }: Job): boolean {
    if (!refreshed?.includes(1)) return false;
    const { precision } = this.tables;
    for (let row = 0, place = 0; row < height; row++) {
      for (let column = 0; column < width; column++, place++) {
        const left = column > 0;
        let context = left ? refreshed[place - 1]! : 0;
        if (row > 0) {
          context += 2 * refreshed[place - width]!;
          if (column + 1 < width) context += 4 * refreshed[place - width + 1]!;
          if (left) context += 8 * refreshed[place - width - 1]!;
        }
        const share = set.places![point * PLACE_CONTEXTS + context]!;
        const rest = (1 << precision) - share;
        if (refreshed[place]) this.steps.slot(rest, share, precision);
        else this.steps.slot(0, rest, precision);
      }
    }
    return true;
  }

  /** Adds the skip flag if the channel has one. True: nothing more follows. */
  private addSkip({ set, point }: Job, channel: number, predicted: boolean): boolean {
    const share = set.skip[point * this.channels + channel]!;
    if (!share) return false;
    const rest = (1 << this.tables.precision) - share;
    if (predicted) this.steps.slot(rest, share, this.tables.precision);
    else this.steps.slot(0, rest, this.tables.precision);
    return predicted;
  }

  private isPredicted({ symbols, held, height, width }: Job, channel: number): boolean {
    const places = height * width;
    const fill = this.tables.fill[channel]!;
    for (let at = channel * places, end = at + places; at < end; at++) {
      if (symbols[at] !== (held ? held[at] : fill)) return false;
    }
    return true;
  }

  private countChanges({ symbols, held, height, width }: Job, channel: number): void {
    const places = height * width;
    const first = channel * places;
    const fill = this.tables.fill[channel]!;
    for (let place = 0; place < places; place++) {
      if (symbols[first + place] !== (held ? held[first + place] : fill)) this.changed[place]!++;
    }
  }

  private addChannel(job: Job, channel: number, checkerboard: boolean): void {
    const { height, width } = job;
    const firstContext = job.point * job.set.rowLength + job.set.contextFirst[channel]!;
    if (!checkerboard) {
      for (let place = 0; place < height * width; place++) this.addSymbol(job, channel, place, firstContext);
      return;
    }
    for (let half = 0; half < 2; half++) {
      for (let row = 0; row < height; row++) {
        for (let column = (row + half) & 1; column < width; column += 2) {
          this.addSymbol(job, channel, row * width + column, firstContext);
        }
      }
    }
  }

  private addSymbol({ symbols, set, height, width, refreshed }: Job, channel: number, place: number, firstContext: number): void {
    if (refreshed && !refreshed[place]) return;
    const { low, size, first, freq, start, precision } = this.tables;
    const table = set.index[firstContext + this.context[place]!]!;
    const symbol = symbols[channel * height * width + place]!;
    const count = size[table]! - 1;
    const slot = symbol - low[table]!;
    const escaped = slot < 0 || slot >= count;
    const at = first[table]! + (escaped ? count : slot);
    this.steps.slot(start[at]!, freq[at]!, precision);
    if (escaped) this.steps.escape(symbol, low[table]!, count);
  }

  /** A reference whose channels beyond its layers are fill. */
  private withFill(reference: Reference): Int16Array {
    const places = reference.symbols.length / this.channels;
    const from = this.layerFirst[reference.layers]!;
    if (from === this.channels) return reference.symbols;
    const held = reference.symbols.slice();
    for (let channel = from; channel < this.channels; channel++) {
      held.fill(this.tables.fill[channel]!, channel * places, (channel + 1) * places);
    }
    return held;
  }

  private check(symbols: Int16Array, grid: Grid, point: number, layers: number, reference: Reference | null): void {
    const places = grid.height * grid.width;
    if (grid.height > LATENT_SIDE_MAX || grid.width > LATENT_SIDE_MAX || symbols.length !== this.channels * places) {
      throw new BitstreamError(`${symbols.length} symbols do not fill ${this.channels}x${grid.height}x${grid.width}`);
    }
    if (!(point >= 0 && point < this.tables.points) || layers < 1 || layers > this.layers.length) {
      throw new BitstreamError(`operating point ${point} or ${layers} layers are not in the bundle`);
    }
    if (reference && (!this.takesReferences || reference.symbols.length !== symbols.length)) {
      throw new BitstreamError("the reference does not fit the frame");
    }
    for (const symbol of symbols) {
      if (symbol > SYMBOL_MAGNITUDE_MAX || symbol < -SYMBOL_MAGNITUDE_MAX) {
        throw new BitstreamError(`a symbol is ${symbol}, limit ±${SYMBOL_MAGNITUDE_MAX}`);
      }
    }
  }

  private checkContexts(terms: readonly Term[][], set: TableSet | null): void {
    if (!set) throw new BundleError("the bundle declares inter contexts, its tables have none: fetch it again");
    terms.forEach((layerTerms, layer) => {
      const count = contextCount(layerTerms);
      for (let channel = this.layerFirst[layer]!; channel < this.layerFirst[layer + 1]!; channel++) {
        if (set.contexts[channel] !== count) {
          throw new BundleError(`tables have ${set.contexts[channel]} contexts for channel ${channel}, expected ${count}`);
        }
      }
    });
  }
}

/** Header and layers. Throws BitstreamError where Python and C do: the layers alone count. */
export function assemble(parts: readonly Uint8Array[], grid: Grid, point: number, reference: Reference | null): Uint8Array {
  const layersBytes = parts.reduce((sum, part) => sum + part.length, 0);
  if (layersBytes > LAYERS_BYTES_MAX) {
    throw new BitstreamError(`the layers need ${layersBytes} bytes, limit ${LAYERS_BYTES_MAX}: take a lower quality`);
  }
  const header = packHeader({
    ...grid, operatingPoint: point, lengths: parts.map((part) => part.length / 2), reference,
  });
  const bitstream = new Uint8Array(header.length + layersBytes);
  bitstream.set(header);
  let at = header.length;
  for (const part of parts) {
    bitstream.set(part, at);
    at += part.length;
  }
  return bitstream;
}
