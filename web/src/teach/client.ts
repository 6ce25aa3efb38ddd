/** The server's few-shot interface (analytics_server/few_shot_routes.py), with a line in words for whatever goes wrong. */
import { FrankenError } from "../errors";

/** Something was refused or failed. */
export class TeachError extends FrankenError {}
/** The server lets only its administrator change what it knows. */
export class NotAllowed extends TeachError {}

export interface Known {
  task: string;
  /** Views of each label. */
  labels: Record<string, number>;
  error: string;
}

export interface Lesson {
  task: string;
  version: number;
  labels: Record<string, number>;
  confusions: [string, string][];
  notes: string[];
  taught_s: number;
}

/** Of one request while a button is held: few, so that little is lost when it is let go. */
const SLICE_FRAMES = 2;
const EVERY_S = 0.15;
const WAIT_S = 8;

export class TeachClient {
  constructor(private readonly token: () => string) {}

  /** Features of the session's next frames, as the server packs them. */
  async capture(session: string, signal: AbortSignal): Promise<Uint8Array> {
    const wish = { session, frames: SLICE_FRAMES, every_s: EVERY_S, wait_s: WAIT_S };
    const response = await this.call("POST", "captures", signal, JSON.stringify(wish));
    return new Uint8Array(await response.arrayBuffer());
  }

  async known(): Promise<Known[]> {
    return ((await (await this.call("GET", "examples")).json()) as { tasks: Known[] }).tasks;
  }

  async add(task: string, label: string, captures: readonly Uint8Array[]): Promise<Record<string, number>> {
    const form = new FormData();
    form.append("label", label);
    for (const capture of captures) form.append("capture", new Blob([capture as Uint8Array<ArrayBuffer>]));
    const response = await this.call("POST", `tasks/${encodeURIComponent(task)}/examples`, undefined, form);
    return ((await response.json()) as { labels: Record<string, number> }).labels;
  }

  async teach(task: string): Promise<Lesson> {
    return (await (await this.call("POST", `tasks/${encodeURIComponent(task)}/teach`, undefined, "{}")).json()) as Lesson;
  }

  /** What is left. */
  async forget(task: string, label: string): Promise<Record<string, number>> {
    const path = `tasks/${encodeURIComponent(task)}/examples?label=${encodeURIComponent(label)}`;
    return ((await (await this.call("DELETE", path)).json()) as { labels: Record<string, number> }).labels;
  }

  /** The task is answered no more. One that was never learnt has nothing to remove. */
  async remove(task: string): Promise<void> {
    await this.call("DELETE", `tasks/${encodeURIComponent(task)}`, undefined, undefined, [404]);
  }

  private async call(
    method: string, path: string, signal?: AbortSignal, body?: BodyInit, fine: readonly number[] = [],
  ): Promise<Response> {
    const headers: Record<string, string> = {};
    const token = this.token();
    if (token) headers.Authorization = `Bearer ${token}`;
    if (typeof body === "string") headers["Content-Type"] = "application/json";
    let response: Response;
    try {
      response = await fetch(`/api/v1/${path}`, { method, headers, body, signal, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new TeachError("The server did not answer, nothing was changed. Try again.");
    }
    if (response.ok || fine.includes(response.status)) return response;
    throw refusal(response.status, await response.text());
  }
}

/** In words, what a status and the body of a refusal mean. */
export function refusal(status: number, body: string): TeachError {
  let line = "";
  try {
    line = String((JSON.parse(body) as { error?: unknown }).error ?? "");
  } catch {
    // No JSON: not one of our own answers.
  }
  if (status === 401) return new NotAllowed("Only the administrator may teach this server. Enter its admin token.");
  if (status === 404 || status === 405) return new TeachError(line || "This server cannot be taught from the page: it is an older one.");
  if (!line) return new TeachError(`The server did not do it (HTTP ${status}). Try again.`);
  return new TeachError(`${line[0]!.toUpperCase()}${line.slice(1)}.`.replace(/\.\.$/, "."));
}

/** How many views a capture (safetensors) holds. */
export function viewsIn(capture: Uint8Array): number {
  try {
    const size = new DataView(capture.buffer, capture.byteOffset).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(capture.subarray(8, 8 + size))) as { pooled?: { shape?: number[] } };
    return header.pooled?.shape?.[0] ?? 0;
  } catch {
    return 0;
  }
}
