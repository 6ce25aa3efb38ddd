/** The edge half of a bundle: all that encoding needs (pipeline/bundle/store.py). */
import { parse } from "smol-toml";
import { LatentEncoder } from "../codec/latent_encoder";
import { parseContexts } from "../codec/contexts";
import { parseTables } from "../codec/tables";
import type { OperatingPoint } from "../codec/quantisation";
import { BundleError } from "../errors";
import { readZip } from "./zip";

const FORMAT = 1;
/** int8 may be used only if it loses at most so many points more than fp32, and its frames take at most so much more. */
const INT8_EXTRA_LOSS_POINTS_MAX = 0.1;
const INT8_EXTRA_BYTES_PERCENT_MAX = 5;

interface Spec {
  format: number;
  default_operating_point: string;
  latent: { layers: number[] };
  preprocess: { size: number; crop: string; colour: string; filter: string };
  analysis: { name: string; fp32: string; int8?: string; int8_extra_loss_points?: number; int8_extra_bytes_percent?: number };
  tables: { file: string };
  contexts?: unknown[];
  operating_points: {
    name: string; gain: number[]; offset: number[]; bytes_mean?: number; loss_points?: number; layer_loss_points?: number[];
    sticky_threshold?: number; refresh_threshold?: number;
  }[];
}

export class EdgeBundle {
  readonly encoder: LatentEncoder;
  readonly points: OperatingPoint[];
  readonly defaultPoint: number;
  readonly size: number;
  readonly analysisName: string;
  /** The analysis as ONNX; int8 null: not there, or not allowed. */
  readonly fp32: Uint8Array;
  readonly int8: Uint8Array | null;

  constructor(zip: Uint8Array) {
    const files = readZip(zip);
    const read = (name: string): Uint8Array => {
      const data = files.get(`edge/${name}`);
      if (!data) throw new BundleError(`the bundle lacks edge/${name}: reload the page`);
      return data;
    };
    const spec = parseSpec(read("spec.toml"));
    this.encoder = new LatentEncoder(
      spec.latent.layers, parseContexts(spec.contexts ?? [], spec.latent.layers), parseTables(read(spec.tables.file)),
    );
    this.points = spec.operating_points.map((point) => ({
      name: point.name, gain: new Float32Array(point.gain), offset: new Float32Array(point.offset),
      stickyThreshold: point.sticky_threshold ?? 0, refreshThreshold: point.refresh_threshold ?? 0,
      bytesMean: point.bytes_mean ?? 0, lossPoints: point.loss_points ?? null,
      layerLossPoints: point.layer_loss_points ?? [],
    }));
    this.defaultPoint = Math.max(0, this.points.findIndex((point) => point.name === spec.default_operating_point));
    this.size = spec.preprocess.size;
    this.analysisName = spec.analysis.name;
    this.fp32 = read(spec.analysis.fp32);
    this.int8 = int8Allowed(spec.analysis) ? read(spec.analysis.int8!) : null;
  }
}

/** Whether int8 is there and may be used (pipeline/bundle/manifest.py); not where its loss was not measured. */
export function int8Allowed(analysis: Spec["analysis"]): boolean {
  const { int8, int8_extra_loss_points: loss = Infinity, int8_extra_bytes_percent: bytes = 0 } = analysis;
  return Boolean(int8) && loss <= INT8_EXTRA_LOSS_POINTS_MAX && bytes <= INT8_EXTRA_BYTES_PERCENT_MAX;
}

function parseSpec(data: Uint8Array): Spec {
  const spec = parse(new TextDecoder().decode(data)) as unknown as Spec;
  if (spec.format !== FORMAT) {
    throw new BundleError(`edge/spec.toml has format ${spec.format}, this page reads ${FORMAT}: reload the page`);
  }
  const { crop, colour, filter } = spec.preprocess;
  if (crop !== "centre" || colour !== "rgb" || filter !== "area") {
    throw new BundleError(`the bundle wants crop ${crop}, colour ${colour}, filter ${filter}: reload the page`);
  }
  return spec;
}
