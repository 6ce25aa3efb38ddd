/** Whether the GPU is worth trying here: what was measured once is remembered for this bundle and browser. */
import type { Gpu } from "../encoder/encoder";

const KEY = "frankenstream.gpu";

export interface GpuWish {
  gpu: "yes" | "no" | "software";
  /** Why it is not tried; "" if it is, or if that was wished. */
  why: string;
}

/** `?gpu=no` leaves it out, `?gpu=software` takes one in software too and forgets what was measured (for tests). */
export function gpuWish(search: string, codecId: string): GpuWish {
  const wish = new URLSearchParams(search).get("gpu");
  if (wish === "no" || wish === "software") return { gpu: wish, why: "" };
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "") as { codecId: string; agent: string; why: string };
    if (kept.codecId === codecId && kept.agent === navigator.userAgent && kept.why) return { gpu: "no", why: kept.why };
  } catch {
    // Nothing is remembered.
  }
  return { gpu: "yes", why: "" };
}

export function rememberGpu({ tried, trouble }: Gpu, codecId: string): void {
  if (!tried) return; // Asking again costs nothing.
  if (trouble) localStorage.setItem(KEY, JSON.stringify({ codecId, agent: navigator.userAgent, why: trouble }));
  else localStorage.removeItem(KEY);
}

export function encoderText(analysis: string, description: string, whyNoGpu: string): string {
  return `${analysis}: ${description}${whyNoGpu && `; not WebGPU: ${whyNoGpu}`}`;
}
