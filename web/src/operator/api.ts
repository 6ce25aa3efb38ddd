/** Requests of the operator's page: with the administrator's token, and one line for whatever goes wrong. */
import { FrankenError } from "../errors";
import { savedAdminToken } from "../page/access";

/** The server said no; the message is its own line. */
export class Refused extends FrankenError {
  constructor(message: string, readonly status: number) {
    super(message);
  }
}

export interface Wish {
  method?: string;
  body?: BodyInit;
  signal?: AbortSignal;
}

/** What the server answers, as JSON. Throws Refused, or what `fetch` throws when it was aborted. */
export async function ask<T>(path: string, wish: Wish = {}): Promise<T> {
  const response = await send(path, wish);
  if (response.status === 204) return undefined as T;
  return (await response.json()) as T;
}

export function askWith<T>(method: string, path: string, body: unknown): Promise<T> {
  return ask<T>(path, { method, body: JSON.stringify(body) });
}

/** A file, or null where there is none. */
export async function askBlob(path: string, signal?: AbortSignal): Promise<Blob | null> {
  try {
    return await (await send(path, { signal })).blob();
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}

async function send(path: string, { method, body, signal }: Wish): Promise<Response> {
  const token = savedAdminToken();
  const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
  let response: Response;
  try {
    response = await fetch(path, { method: method ?? "GET", headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused("the server cannot be reached: is it running?", 0);
  }
  if (!response.ok) throw new Refused(await line(response), response.status);
  return response;
}

async function line(response: Response): Promise<string> {
  if (response.status === 401) return "the administrator's token is missing or wrong: reload the page and type it in";
  try {
    return ((await response.json()) as { error: string }).error;
  } catch {
    return `the server's answer was HTTP ${response.status}`;
  }
}

/** Parts of an address, each of them quoted. */
export function path(...parts: string[]): string {
  return `/api/v1/${parts.map(encodeURIComponent).join("/")}`;
}

/** Any error as a line for people. */
export function errorLine(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
