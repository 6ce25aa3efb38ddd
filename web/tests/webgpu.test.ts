import { afterEach, expect, test, vi } from "vitest";
import { gpuTrouble, testPicture, verdict } from "../src/encoder/webgpu";
import { encoderText, gpuWish, rememberGpu } from "../src/page/gpu";

afterEach(() => void vi.unstubAllGlobals());

function run(ms: number, ...latent: number[]) {
  return { ms, output: { latent: Float32Array.from(latent), height: 1, width: latent.length } };
}

function browser(gpu: object | undefined, more: object = {}): void {
  vi.stubGlobal("navigator", { gpu, userAgent: "Browser/1", ...more });
  vi.stubGlobal("WebAssembly", { Suspending: class {} });
}

test("the GPU is taken only if it is clearly faster and its numbers are right", () => {
  expect(verdict(run(10, 1, 2, 3), run(4, 1, 2, 3.0001))).toBe("");
  expect(verdict(run(10, 1, 2, 3), run(9, 1, 2, 3))).toBe("9.0 ms, not faster");
  expect(verdict(run(10, 1, 2, 3), run(1, 0, 0, 0))).toMatch(/numbers are wrong \(by 100 %\)/);
  expect(verdict(run(10, 1, 2, 3), run(1, NaN, 2, 3))).toMatch(/numbers are wrong/);
  expect(verdict(run(10, 1, 2, 3), run(1, 1, 2))).toMatch(/numbers are wrong/);
});

test("where it cannot be tried, it is said why", async () => {
  browser(undefined);
  expect(await gpuTrouble(true)).toMatch(/browser has none/);
  browser({}, { connection: { saveData: true } });
  expect(await gpuTrouble(true)).toMatch(/data is to be saved/);
  browser({ requestAdapter: () => Promise.resolve(null) });
  expect(await gpuTrouble(true)).toMatch(/no fast GPU/);
  browser({ requestAdapter: () => Promise.resolve({ info: { isFallbackAdapter: true } }) });
  expect(await gpuTrouble(true)).toBe("");
  vi.stubGlobal("OffscreenCanvas", class { getContext() { return null; } });
  expect(await gpuTrouble(false)).toMatch(/no fast GPU/);
  vi.stubGlobal("OffscreenCanvas", class { getContext() { return { getExtension: () => null }; } });
  expect(await gpuTrouble(false)).toMatch(/no fast GPU/);
  vi.stubGlobal("WebAssembly", {});
  expect(await gpuTrouble(false)).toMatch(/cannot wait/);
});

test("what was measured is remembered for this bundle and browser", () => {
  const kept = new Map<string, string>();
  vi.stubGlobal("localStorage", {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => kept.set(key, value),
    removeItem: (key: string) => kept.delete(key),
  });
  browser({});
  expect(gpuWish("", "codec")).toEqual({ gpu: "yes", why: "" });
  rememberGpu({ type: "gpu", description: "", trouble: "12.0 ms, not faster", tried: true }, "codec");
  expect(gpuWish("", "codec")).toEqual({ gpu: "no", why: "12.0 ms, not faster" });
  expect(gpuWish("", "another").gpu).toBe("yes");
  expect(gpuWish("?gpu=software", "codec").gpu).toBe("software");
  rememberGpu({ type: "gpu", description: "", trouble: "", tried: true }, "codec");
  expect(gpuWish("", "codec").gpu).toBe("yes");
});

test("the page says what is used and why not the GPU", () => {
  expect(encoderText("stem", "fp32, WebGPU, 3.0 ms", "")).toBe("stem: fp32, WebGPU, 3.0 ms");
  expect(encoderText("stem", "int8, WebAssembly, 1 thread, 5.0 ms", "there is no fast GPU")).toMatch(/; not WebGPU: there is no fast GPU$/);
});

test("the picture for comparing has something in it", () => {
  const picture = testPicture(16);
  expect(picture.length).toBe(768);
  expect(new Set(picture).size).toBeGreaterThan(30);
  expect(Math.max(...picture)).toBeLessThanOrEqual(1);
});
