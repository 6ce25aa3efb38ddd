/** The page's side of the encoder's worker. One picture at a time; JPEG ones before it is loaded, too. */
import { pageOrigin } from "../clock";
import { EngineError } from "../errors";
import type { OnProgress } from "../progress";
import type { PayloadKind } from "../wire/frames";
import type { FromWorker, Picture, ToWorker } from "./protocol";

export type Loaded = FromWorker & { type: "loaded" };
export type Encoded = FromWorker & { type: "encoded" };
export type Gpu = FromWorker & { type: "gpu" };

export class Encoder {
  /** A picture is being encoded. */
  busy = false;
  /** A bundle was given to it. */
  given = false;
  onEncoded: (encoded: Encoded) => void = () => {};
  onFailed: (frame: number, message: string) => void = () => {};
  onProgress: OnProgress = () => {};
  onGpu: (gpu: Gpu) => void = () => {};
  private readonly worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  private finish!: (loaded: Loaded) => void;
  private fail!: (error: EngineError) => void;
  private readonly loaded = new Promise<Loaded>((resolve, reject) => {
    this.finish = resolve;
    this.fail = reject;
  });

  /** Fetches ONNX Runtime. */
  constructor() {
    this.loaded.catch(() => {}); // `load` tells it.
    this.worker.onerror = (event) => this.fail(new EngineError(`the encoder's worker failed: ${event.message}`));
    this.worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      switch (data.type) {
        case "progress": this.onProgress(data.loaded, data.total); break;
        case "loaded": this.finish(data); break;
        case "failed": this.fail(new EngineError(data.message)); break;
        case "gpu": this.onGpu(data); break;
        case "encoded":
          this.busy = false;
          this.onEncoded(data);
          break;
        case "encode_failed":
          this.busy = false;
          this.onFailed(data.frame, data.message);
          break;
      }
    };
    this.tell({ type: "prepare", ortFolder: new URL("ort/", document.baseURI).href, origin: pageOrigin() });
  }

  /** Unpacks the bundle and starts ONNX Runtime. Rejects with EngineError. */
  load(bundle: Uint8Array, gpu: "yes" | "no" | "software"): Promise<Loaded> {
    this.given = true;
    this.tell({ type: "load", bundle, gpu });
    return this.loaded;
  }

  encode(frame: number, capturedAt: number, picture: Picture, kind: PayloadKind, point: number): void {
    this.busy = true;
    this.tell({ type: "encode", frame, capturedAt, picture, kind, point }, [picture]);
  }

  tell(message: ToWorker, transfer: Transferable[] = []): void {
    this.worker.postMessage(message, transfer);
  }

  close(): void {
    this.worker.terminate();
  }
}
