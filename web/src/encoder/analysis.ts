/** The bundle's analysis in ONNX Runtime, from our own files: nothing is fetched from elsewhere. */
import type { InferenceSession, Tensor } from "onnxruntime-web";
import { EngineError } from "../errors";
import type { OnProgress } from "../progress";

interface Runtime {
  env: { wasm: { numThreads: number; wasmBinary: ArrayBuffer; proxy: boolean }; logLevel: string };
  InferenceSession: typeof InferenceSession;
  Tensor: typeof Tensor;
}

export type Provider = "wasm" | "webgpu";

/** WebGPU's runtime is another build, a third larger: it is loaded only where it may be of use. */
const FILES: Record<Provider, { script: string; binary: string }> = {
  wasm: { script: "ort.wasm.bundle.min.mjs", binary: "ort-wasm-simd-threaded.wasm.gz" },
  webgpu: { script: "ort.jspi.bundle.min.mjs", binary: "ort-wasm-simd-threaded.jspi.wasm.gz" },
};
const RUNS_MEASURED = 5;
const THREADS_MAX = 4;

const runtimes = new Map<Provider, Promise<Runtime>>();

/** ONNX Runtime from `folder` (a URL that ends with /); each build is loaded once. Throws EngineError. */
export function runtime(folder: string, provider: Provider = "wasm", onProgress: OnProgress = () => {}): Promise<Runtime> {
  let loading = runtimes.get(provider);
  if (!loading) {
    loading = loadRuntime(folder, provider, onProgress);
    runtimes.set(provider, loading);
    loading.catch(() => runtimes.delete(provider)); // The next one tries again.
  }
  return loading;
}

async function loadRuntime(folder: string, provider: Provider, onProgress: OnProgress): Promise<Runtime> {
  const { script, binary } = FILES[provider];
  const loaded = (await import(/* @vite-ignore */ `${folder}${script}`)) as Runtime;
  const response = await fetch(`${folder}${binary}`);
  if (!response.ok || !response.body) throw new EngineError(`ONNX Runtime could not be loaded: HTTP ${response.status}`);
  loaded.env.wasm.wasmBinary = await new Response(unzipped(response, onProgress)).arrayBuffer();
  loaded.env.wasm.numThreads = threadsFor(provider);
  loaded.env.logLevel = "error";
  return loaded;
}

function threadsFor(provider: Provider): number {
  if (provider !== "wasm" || !self.crossOriginIsolated) return 1;
  return Math.min(THREADS_MAX, Math.max(1, navigator.hardwareConcurrency >> 1));
}

/** The file is stored compressed (4 instead of 14 MB). A server that says so has the browser unpack it already. */
function unzipped(response: Response, onProgress: OnProgress): ReadableStream<Uint8Array<ArrayBuffer>> {
  const total = Number(response.headers.get("Content-Length") ?? 0);
  let loaded = 0;
  const counting = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(chunk, controller): void {
      onProgress((loaded += chunk.length), total);
      controller.enqueue(chunk);
    },
  });
  onProgress(0, total);
  const body = response.body!.pipeThrough(counting);
  if (response.headers.get("Content-Encoding") === "gzip") return body;
  if (typeof DecompressionStream === "undefined") {
    throw new EngineError("this browser is too old to unpack the encoder: update it, or send pictures instead");
  }
  return body.pipeThrough(new DecompressionStream("gzip"));
}

export interface Latent {
  latent: Float32Array;
  height: number;
  width: number;
}

export class Analysis {
  private constructor(
    private readonly session: InferenceSession,
    private readonly tensor: typeof Tensor,
    private readonly size: number,
    /** For people: precision, provider, threads, measured milliseconds. */
    readonly description: string,
    readonly ms: number,
  ) {}

  /** Loads the forms that are allowed and keeps the faster one. Throws EngineError. */
  static async load(
    folder: string, size: number, forms: { fp32: Uint8Array; int8: Uint8Array | null }, provider: Provider = "wasm",
  ): Promise<Analysis> {
    try {
      const threads = threadsFor(provider);
      const { InferenceSession, Tensor } = await runtime(folder, provider).catch(() => runtime(folder, provider)); // A network may fail once.
      const where = provider === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
      let best: Analysis | null = null;
      for (const [precision, model] of Object.entries(forms)) {
        if (!model) continue;
        const session = await InferenceSession.create(model, { executionProviders: [provider], graphOptimizationLevel: "all" });
        const ms = await measured(session, Tensor, size);
        const text = `${precision}, ${where}, ${ms.toFixed(1)} ms`;
        if (!best || ms < best.ms) best = new Analysis(session, Tensor, size, text, ms);
      }
      return best!;
    } catch (error) {
      if (error instanceof EngineError) throw error;
      throw new EngineError(`the encoder does not run in this browser: ${String(error)}`);
    }
  }

  /** RGB planes [3, S, S] in [0, 1] to the latent [C, H, W]. */
  async run(image: Float32Array): Promise<Latent> {
    const output = await this.session.run({ image: new this.tensor("float32", image, [1, 3, this.size, this.size]) });
    const latent = output.latent!;
    return { latent: latent.data as Float32Array, height: latent.dims[2]!, width: latent.dims[3]! };
  }
}

/** The least of a few runs: the others were disturbed. */
async function measured(session: InferenceSession, Tensor_: typeof Tensor, size: number): Promise<number> {
  const image = new Tensor_("float32", new Float32Array(3 * size * size).fill(0.5), [1, 3, size, size]);
  let least = Infinity;
  for (let run = 0; run < RUNS_MEASURED; run++) {
    const before = performance.now();
    await session.run({ image });
    least = Math.min(least, performance.now() - before);
  }
  return least;
}
