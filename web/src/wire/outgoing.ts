/** What a session hands to a transport. */
import { pack, type Channel, type Message } from "./messages";

export const CHANNELS: readonly Channel[] = ["control", "frames", "results"];

export interface Outgoing {
  channel: Channel;
  message: Message;
  /** Of a frame or a part of one: which, and until when it is worth sending (seconds). */
  frame?: number;
  expiresAt?: number;
}

/** The bytes of `out` for a transport with one pipe: a channel byte and the message. */
export function packed(out: Outgoing): Uint8Array {
  return pack(out.message, CHANNELS.indexOf(out.channel));
}
