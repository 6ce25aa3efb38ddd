/** The encoder's worker: a picture in, a bitstream (or a JPEG) out, away from the page so that it never stutters. */
import { EdgeBundle } from "../bundle/edge_bundle";
import { monotonic, setOrigin } from "../clock";
import type { Grid } from "../codec/latent_encoder";
import { quantise } from "../codec/quantisation";
import { EngineError, InputError } from "../errors";
import type { PayloadKind } from "../wire/frames";
import { Analysis, runtime, type Latent } from "./analysis";
import { AreaResize } from "./preprocess";
import type { FromWorker, Picture, ToWorker } from "./protocol";
import { ReferenceShelf } from "./references";
import { gpuTrouble, testPicture, verdict } from "./webgpu";

/** Larger squares are first drawn at this many times the encoder's size: reading a whole 4K frame takes longer than the rest. */
const OVERSAMPLING_MAX = 2.5;
/** Squares up to this many times the encoder's size are read from a video frame directly, without a canvas: a third of the time. */
const COPY_MAX = 4;
/** A frame is coded alone too, to compare, if its way with a reference takes more than this part of the last one alone. */
const WORTH_COMPARING = 0.8;
const JPEG_QUALITY = 0.9;
/** Of pictures that are sent before the bundle says which size the encoder takes. */
const PICTURE_SIDE = 224;
/** The first answers come before the GPU is tried. */
const GPU_AFTER_MS = 5_000;
const GPU_HUNG_MS = 2_000;

let ortFolder = "";
let bundle: EdgeBundle;
let pictureSide = PICTURE_SIDE;
let analysis: Analysis | null = null;
/** What is gone back to if the GPU fails. */
let onWasm: Analysis | null = null;
/** Operating point of the last frame, and bytes of the last one that was coded alone there. */
let lastPoint = -1;
let lastAloneBytes = 0;
const references = new ReferenceShelf();
const resizes = new Map<number, AreaResize>();
let copyBuffer = new Uint8ClampedArray(0);
let canCopy = true;
let canvas: OffscreenCanvas;
let context: OffscreenCanvasRenderingContext2D;

function tell(message: FromWorker, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}

function prepare(message: ToWorker & { type: "prepare" }): void {
  setOrigin(message.origin);
  ortFolder = message.ortFolder;
  runtime(ortFolder, "wasm", (loaded, total) => tell({ type: "progress", loaded, total })).catch(() => {}); // `load` tries again and tells what is wrong.
}

async function load({ bundle: zip, gpu }: ToWorker & { type: "load" }): Promise<void> {
  try {
    bundle = new EdgeBundle(zip);
    pictureSide = bundle.size;
    analysis = onWasm = await Analysis.load(ortFolder, bundle.size, { fp32: bundle.fp32, int8: bundle.int8 });
  } catch (error) {
    tell({ type: "failed", message: words(error) });
    return;
  }
  tell({
    type: "loaded",
    points: bundle.points.map(({ name, bytesMean, lossPoints, layerLossPoints }) => ({ name, bytesMean, lossPoints, layerLossPoints })),
    defaultPoint: bundle.defaultPoint, analysis: bundle.analysisName, description: analysis.description,
  });
  if (gpu !== "no") setTimeout(() => void tryGpu(gpu === "software"), GPU_AFTER_MS);
}

/** Measures the analysis on the GPU and takes it if that is faster; the page hears what came of it. */
async function tryGpu(software: boolean): Promise<void> {
  const wasm = analysis!;
  let trouble = await gpuTrouble(software);
  const tried = !trouble;
  if (!trouble) {
    try {
      const gpu = await Analysis.load(ortFolder, bundle.size, { fp32: bundle.fp32, int8: null }, "webgpu");
      const picture = testPicture(bundle.size);
      trouble = verdict({ ms: wasm.ms, output: await wasm.run(picture) }, { ms: gpu.ms, output: await gpu.run(picture) });
      if (!trouble) analysis = gpu;
    } catch (error) {
      trouble = words(error).slice(0, 200);
    }
  }
  tell({ type: "gpu", description: analysis!.description, trouble, tried });
}

/** A GPU can be lost or hang at any time: then WebAssembly goes on. */
async function analysed(image: Float32Array): Promise<Latent> {
  if (analysis === onWasm) return analysis!.run(image);
  let timer = 0;
  try {
    const hung = new Promise<never>((_, reject) => {
      timer = self.setTimeout(() => reject(new EngineError(`no answer within ${GPU_HUNG_MS / 1000} s`)), GPU_HUNG_MS);
    });
    return await Promise.race([analysis!.run(image), hung]);
  } catch (error) {
    analysis = onWasm!;
    tell({ type: "gpu", description: analysis.description, trouble: `it failed: ${words(error).slice(0, 200)}`, tried: true });
    return analysis.run(image);
  } finally {
    clearTimeout(timer);
  }
}

async function encode({ frame, capturedAt, picture, kind, point }: ToWorker & { type: "encode" }): Promise<void> {
  const captureDone = monotonic();
  try {
    const encoded = kind === "jpeg" ? await asJpeg(picture) : await asBitstream(frame, picture, point);
    tell(
      {
        type: "encoded", frame, payload: encoded.payload, kind: encoded.kind,
        marks: { capturedAt, captureDone, ...encoded.marks, encodeDone: monotonic() },
      },
      [encoded.payload.buffer as ArrayBuffer],
    );
  } catch (error) {
    tell({ type: "encode_failed", frame, message: words(error) });
  } finally {
    picture.close();
  }
}

interface Coded {
  symbols: Int16Array;
  payload: Uint8Array;
}

interface Encoded {
  payload: Uint8Array;
  kind: PayloadKind;
  marks: { preprocessDone: number; analysisDone: number };
}

async function asBitstream(frame: number, picture: Picture, point: number): Promise<Encoded> {
  if (!analysis) throw new EngineError("the encoder is not loaded");
  const image = await preprocess(picture, bundle.size);
  const preprocessDone = monotonic();
  const { latent, height, width } = await analysed(image);
  const analysisDone = monotonic();
  const { symbols, payload } = choose(latent, { height, width }, point);
  references.keep(frame, symbols);
  return { payload, kind: "bitstream", marks: { preprocessDone, analysisDone } };
}

/** Against the newest frame that the server has, or alone where that is shorter: the scene has changed. */
function choose(latent: Float32Array, grid: Grid, point: number): Coded {
  const { encoder, points } = bundle;
  if (point !== lastPoint) lastAloneBytes = 0; // What it takes alone is not known there.
  lastPoint = point;
  const reference = encoder.takesReferences ? references.newest : null;
  if (reference) {
    const symbols = quantise(latent, points[point]!, encoder.heldSymbols(reference));
    const payload = encoder.encode(symbols, grid, point, { reference });
    if (payload.length < WORTH_COMPARING * lastAloneBytes) return { symbols, payload };
    const alone = encodeAlone(latent, grid, point);
    return payload.length <= alone.payload.length ? { symbols, payload } : alone;
  }
  return encodeAlone(latent, grid, point);
}

function encodeAlone(latent: Float32Array, grid: Grid, point: number): Coded {
  const symbols = quantise(latent, bundle.points[point]!);
  const payload = bundle.encoder.encode(symbols, grid, point);
  lastAloneBytes = payload.length;
  return { symbols, payload };
}

async function asJpeg(picture: Picture): Promise<Encoded> {
  draw(picture, pictureSide);
  const preprocessDone = monotonic();
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
  const payload = new Uint8Array(await blob.arrayBuffer());
  return { payload, kind: "jpeg", marks: { preprocessDone, analysisDone: preprocessDone } };
}

/** The largest centred square as RGB planes [3, size, size] in [0, 1]. */
async function preprocess(picture: Picture, size: number): Promise<Float32Array> {
  let side = Math.min(...sides(picture));
  let pixels = "copyTo" in picture && side <= COPY_MAX * size ? await copied(picture, side) : null;
  if (!pixels) {
    side = Math.min(side, Math.round(size * OVERSAMPLING_MAX));
    draw(picture, side);
    pixels = context.getImageData(0, 0, side, side).data;
  }
  let resize = resizes.get(side);
  if (!resize) resizes.set(side, (resize = new AreaResize(side, size)));
  const image = new Float32Array(3 * size * size);
  resize.run(pixels, image);
  return image;
}

/** RGBA of the centred square of a video frame; null where the browser, or the frame, does not allow it. */
async function copied(frame: VideoFrame, side: number): Promise<Uint8ClampedArray | null> {
  const seen = frame.visibleRect;
  const turned = "rotation" in frame && frame.rotation !== 0;
  if (!canCopy || turned || !seen || seen.width !== frame.displayWidth || seen.height !== frame.displayHeight) return null;
  const rect = { x: seen.x + ((seen.width - side) >> 1), y: seen.y + ((seen.height - side) >> 1), width: side, height: side };
  if ((rect.x | rect.y | side) & 1) return null; // Colour has half the resolution.
  try {
    const wish = { rect, format: "RGBA" } as VideoFrameCopyToOptions;
    if (copyBuffer.length !== 4 * side * side) copyBuffer = new Uint8ClampedArray(4 * side * side);
    await frame.copyTo(copyBuffer, wish);
    return copyBuffer;
  } catch {
    canCopy = false; // An older browser copies in the frame's own format only.
    return null;
  }
}

/** Draws the largest centred square to the canvas, `side` wide. */
function draw(picture: Picture, side: number): void {
  const [width, height] = sides(picture);
  const square = Math.min(width, height);
  if (!square) throw new InputError("the video gave an empty picture");
  if (!canvas) {
    canvas = new OffscreenCanvas(side, side);
    context = canvas.getContext("2d", { willReadFrequently: true, alpha: false })!;
    context.imageSmoothingQuality = "high";
  }
  if (canvas.width !== side) canvas.width = canvas.height = side;
  context.drawImage(picture, (width - square) >> 1, (height - square) >> 1, square, square, 0, 0, side, side);
}

function sides(picture: Picture): [number, number] {
  return "displayWidth" in picture ? [picture.displayWidth, picture.displayHeight] : [picture.width, picture.height];
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

self.onmessage = ({ data }: MessageEvent<ToWorker>): void => {
  switch (data.type) {
    case "prepare": prepare(data); break;
    case "load": void load(data); break;
    case "opened": references.open(data.referenceWindow, data.referenceEpoch); break;
    case "answered": references.acknowledge(data.frame, data.decodedLayers); break;
    case "dropped": references.drop(data.frame, data.cause); break;
    case "encode": void encode(data); break;
  }
};
