/**
 * What a transport needs of one kind of connection (pipeline/transports/asyncio_edge.py). A *route* opens connections
 * of its kind; reconnecting, resuming and going over from one route to another stand above it, in edge.ts.
 */
import { TransportError } from "../errors";
import type { Channel } from "../wire/messages";
import type { Outgoing } from "../wire/outgoing";

export const SUBPROTOCOL = "frankenstream.v1";

/** Nobody there, or not ready: try again later. */
export class OpenFailed extends TransportError {}
/** This kind of connection cannot be made from here, though the server is there: take the next route. */
export class NoWay extends OpenFailed {}
/** The server does not want this page: no use in trying again. */
export class Turned extends TransportError {}

/** A connection that is open. */
export interface Connection {
  /** Whether it takes something now. */
  readonly ready: boolean;
  send(out: Outgoing, now: number): void;
  /** Delivers what was handed over, then ends; no hook is called any more. */
  close(): void;
}

/** What a connection tells its transport. Nothing comes after `lost`. */
export interface Hooks {
  received(channel: Channel | undefined, message: Uint8Array): void;
  lost(reason: string): void;
  writable(): void;
  /** A frame that `send` took did not leave in time. */
  unsent(frame: number, detail: string): void;
}

export interface Route {
  readonly name: "webrtc" | "websocket";
  /** Frames go in parts of at most so many bytes; 0: whole. */
  readonly partBytes: number;
  /** Rejects with OpenFailed, NoWay or Turned. */
  open(hooks: Hooks, signal: AbortSignal): Promise<Connection>;
}
