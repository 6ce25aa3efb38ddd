/**
 * Frames that wait for a channel, by age (pipeline/transports/send_buffer.py). The buffer of a data channel knows no
 * age: on a slow link it would hold seconds of old frames. So it gets only a little at a time, and the rest waits here,
 * where a part leaves nothing behind when its frame's budget is used up.
 */
import { pack } from "../wire/messages";
import type { Outgoing } from "../wire/outgoing";

export interface Waiting {
  frame: number;
  expiresAt: number;
  bytes: Uint8Array;
}

export class SendBuffer {
  private waiting: Waiting[] = [];
  /** The frame of which a part has left. */
  private begun = -1;

  get length(): number {
    return this.waiting.length;
  }

  add({ message, frame, expiresAt }: Outgoing): void {
    this.waiting.push({ frame: frame!, expiresAt: expiresAt!, bytes: pack(message) });
  }

  /** The next one to send; `ended`: frames that ended here without a part having left. */
  take(now: number): { next: Waiting | null; ended: number[] } {
    const ended = new Set<number>();
    for (let first = this.waiting.shift(); first; first = this.waiting.shift()) {
      if (now < first.expiresAt) {
        this.begun = first.frame;
        return { next: first, ended: [...ended] };
      }
      if (first.frame !== this.begun) ended.add(first.frame);
    }
    return { next: null, ended: [...ended] };
  }
}
