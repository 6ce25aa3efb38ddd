/** What page and worker say to each other. */
import type { PayloadKind } from "../wire/frames";
import type { MeasuredPoint } from "../wire/rungs";
import type { StageMarks } from "../wire/stages";

export type Picture = VideoFrame | ImageBitmap;

export type ToWorker =
  /** The first one: ONNX Runtime is on its way before the bundle is there. */
  | { type: "prepare"; ortFolder: string; origin: number }
  /** `gpu`: whether WebGPU is tried, or even one in software (for tests). */
  | { type: "load"; bundle: Uint8Array; gpu: "yes" | "no" | "software" }
  | { type: "opened"; referenceWindow: number; referenceEpoch: number }
  | { type: "answered"; frame: number; decodedLayers: number }
  | { type: "dropped"; frame: number; cause: string }
  /** `point`: the operating point, of a bitstream. */
  | { type: "encode"; frame: number; capturedAt: number; picture: Picture; kind: PayloadKind; point: number };

export type FromWorker =
  /** Bytes of ONNX Runtime that are here; `total` 0: nobody said how many there are. */
  | { type: "progress"; loaded: number; total: number }
  | { type: "loaded"; points: MeasuredPoint[]; defaultPoint: number; analysis: string; description: string }
  | { type: "failed"; message: string }
  /** What came of WebGPU; `trouble` "": it is used. `tried`: it was measured. */
  | { type: "gpu"; description: string; trouble: string; tried: boolean }
  | { type: "encoded"; frame: number; payload: Uint8Array; kind: PayloadKind; marks: StageMarks }
  | { type: "encode_failed"; frame: number; message: string };
