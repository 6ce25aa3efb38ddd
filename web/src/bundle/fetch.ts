/**
 * The edge half of the server's bundle, over the wire. A first connection asks which bundle the server has; a second one
 * names it, which is what the server asks of an edge before it hands a bundle out, and fetches the parts. Both are short
 * and want every byte, so WebSocket carries them whatever carries the frames. Kept in the browser's cache by its id,
 * where the browser has one (HTTPS, or this machine).
 */
import { BundleError, TransportError } from "../errors";
import type { OnProgress } from "../progress";
import { EdgeTransport } from "../transport/edge";
import { WebSocketRoute } from "../transport/websocket";
import type { Disconnected, EdgeEvent } from "../wire/events";
import type { Welcome } from "../wire/messages";
import { EdgeSession } from "../wire/session";

const CACHE = "frankenstream-bundles";

/** The server ended the connection that asked; `reason` and `detail` as in Goodbye. */
export class Refused extends TransportError {
  constructor(readonly reason: string, readonly detail: string) {
    super(detail || reason);
  }
}

/** The server wants another token, or one at all. */
export class Unauthorised extends Refused {}

type OnTrouble = (trouble: Disconnected) => void;

/** What the server has. `onTrouble` hears of it while there is no connection; it goes on until there is one. Throws Refused. */
export function askWelcome(token: string, onTrouble: OnTrouble, signal: AbortSignal): Promise<Welcome> {
  return ask<Welcome>(token, "", onTrouble, signal, (event, _, resolve) => {
    if (event.type === "Connected") resolve(event.welcome);
  });
}

/** The bundle that `askWelcome` told of, from the browser's cache or the server; `onProgress` hears of its bytes. As there. */
export async function fetchBundle(
  token: string, codecId: string, onTrouble: OnTrouble, signal: AbortSignal, onProgress: OnProgress,
): Promise<Uint8Array> {
  const cached = await fromCache(codecId);
  if (cached) return cached;
  const bundle = await ask(token, codecId, onTrouble, signal, partsInto(codecId, onProgress));
  await check(bundle, codecId);
  signal.throwIfAborted();
  await toCache(codecId, bundle).catch(() => {}); // No room: it is asked for again next time.
  return bundle;
}

/** What it throws ends the question. */
type Step<T> = (event: EdgeEvent, transport: EdgeTransport, resolve: (value: T) => void) => void;

/** One connection for one question. */
async function ask<T>(
  token: string, codecId: string, onTrouble: OnTrouble, signal: AbortSignal, step: Step<T>,
): Promise<T> {
  signal.throwIfAborted();
  let transport: EdgeTransport | null = null;
  try {
    return await new Promise<T>((resolve, reject) => {
      signal.addEventListener("abort", () => reject(new TransportError("stopped")), { once: true });
      const onEvent = (event: EdgeEvent): void => {
        if (event.type === "Disconnected") onTrouble(event);
        else if (event.type === "Closed") {
          reject(new (event.reason === "unauthorised" ? Unauthorised : Refused)(event.reason, event.detail));
        } else if (transport) {
          try {
            step(event, transport, resolve);
          } catch (error) {
            reject(error);
          }
        }
      };
      const session = new EdgeSession({ codecId, client: "web page" });
      transport = new EdgeTransport(session, onEvent, [new WebSocketRoute(token)]);
    });
  } finally {
    (transport as EdgeTransport | null)?.close();
  }
}

/** Asks for part after part. Throws BundleError for parts that bring nothing, or that are of another bundle or size. */
function partsInto(codecId: string, onProgress: OnProgress): Step<Uint8Array> {
  let bytes = new Uint8Array(0);
  let have = 0;
  return (event, transport, resolve) => {
    if (event.type === "Connected") {
      have = 0;
      transport.call((session) => session.requestBundle(codecId, 0));
    }
    if (event.type !== "BundlePartReceived" || event.part.offset !== have) return;
    const { codec_id, total, part } = event.part;
    if (have === 0) bytes = new Uint8Array(total);
    if (codec_id !== codecId || total !== bytes.length || part.length === 0) {
      throw new BundleError(
        `the server sent ${part.length} of ${total} bytes of bundle ${codec_id.slice(0, 12)} after ${have} of ${bytes.length} `
        + `of ${codecId.slice(0, 12)}: that does not fit together`,
      );
    }
    bytes.set(part, have);
    have += part.length;
    onProgress(have, total);
    if (have === total) resolve(bytes);
    else transport.call((session) => session.requestBundle(codecId, have));
  };
}

/** The id is the SHA-256 over `path NUL sha256 LF` of the files (pipeline/bundle/files.py). */
async function check(bundle: Uint8Array, codecId: string): Promise<void> {
  if (!crypto.subtle) return; // Plain HTTP beyond this machine: nothing could be trusted anyway.
  const { readZip } = await import("./zip");
  const hex = async (data: Uint8Array): Promise<string> => {
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", data as Uint8Array<ArrayBuffer>));
    return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  };
  const lines = await Promise.all(
    [...readZip(bundle)].sort(([a], [b]) => (a < b ? -1 : 1)).map(async ([path, data]) => `${path}\0${await hex(data)}\n`),
  );
  const found = await hex(new TextEncoder().encode(lines.join("")));
  if (found !== codecId) throw new BundleError(`the server's bundle is ${found.slice(0, 12)}, it promised ${codecId.slice(0, 12)}`);
}

async function fromCache(codecId: string): Promise<Uint8Array | null> {
  if (!("caches" in self)) return null;
  const found = await (await caches.open(CACHE)).match(`/${codecId}`);
  return found ? new Uint8Array(await found.arrayBuffer()) : null;
}

async function toCache(codecId: string, bundle: Uint8Array): Promise<void> {
  if (!("caches" in self)) return;
  await caches.delete(CACHE); // One bundle is enough.
  await (await caches.open(CACHE)).put(`/${codecId}`, new Response(bundle as Uint8Array<ArrayBuffer>));
}
