/**
 * The analysis on the GPU, where that is faster. It is tried after the first answers, beside the running encoder, and
 * taken only if its numbers are those of WebAssembly and it is clearly faster; what was found is remembered.
 */
import type { Latent } from "./analysis";

/** Of WebAssembly's time, or nothing is gained: the GPU's own runtime has to be loaded each time. */
export const WORTH = 0.8;
/** Of the latents, root mean square. Another order of adding gives 1e-6, int8 against float32 some percent, a bug about 1. */
const DIFFERENCE_MAX = 0.2;

/** Why the GPU is not tried here; "": it may be. `software`: one in software will do, for tests. */
export async function gpuTrouble(software: boolean): Promise<string> {
  const { gpu, connection } = navigator as Navigator & { gpu?: GPU; connection?: { saveData?: boolean } };
  if (!gpu) return "this browser has none";
  if (!("Suspending" in WebAssembly)) return "this browser's WebAssembly cannot wait for it";
  if (connection?.saveData) return "data is to be saved";
  if (!software && !hasFastGraphics()) return "there is no fast GPU";
  try {
    const adapter = await gpu.requestAdapter();
    if (!adapter) return "there is no fast GPU";
    return !software && adapter.info?.isFallbackAdapter ? "there is no fast GPU" : "";
  } catch {
    return "there is no fast GPU";
  }
}

/** Asked of WebGL first: asking WebGPU where there is no GPU writes a warning into the console. */
function hasFastGraphics(): boolean {
  const context = new OffscreenCanvas(1, 1).getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return context !== null;
}

/** Why the GPU is not taken, in words; "": it is. */
export function verdict(wasm: { ms: number; output: Latent }, gpu: { ms: number; output: Latent }): string {
  const off = difference(wasm.output.latent, gpu.output.latent);
  if (!(off <= DIFFERENCE_MAX)) return `its numbers are wrong (by ${(100 * off).toFixed(0)} %)`;
  return gpu.ms <= WORTH * wasm.ms ? "" : `${gpu.ms.toFixed(1)} ms, not faster`;
}

function difference(expected: Float32Array, actual: Float32Array): number {
  if (expected.length !== actual.length) return Infinity;
  let all = 0;
  let off = 0;
  for (let index = 0; index < expected.length; index++) {
    all += expected[index]! ** 2;
    off += (expected[index]! - actual[index]!) ** 2;
  }
  return Math.sqrt(off / (all || 1)); // NaN if one is, which is no number below a limit either.
}

/** A picture with something in it: gradients. RGB planes [3, size, size]. */
export function testPicture(size: number): Float32Array {
  return Float32Array.from({ length: 3 * size * size }, (_, index) => ((index % size) + 3 * (Math.floor(index / size) % size)) / (4 * size));
}
