/**
 * The frames of a live session that have not ended, and the ways in which they end (pipeline/wire/edge_frames.py).
 * Captured → offered (encoded, at most one is pending) → sent → ended.
 */
import { RemoteProtocolError } from "../errors";
import { LOST_GRACE_MS } from "../limits";
import { FrameAccount, type Cause } from "./account";
import { cut, partsOf } from "./cutting";
import type { EdgeEvent } from "./events";
import type { Frame, FramePart, JpegFrame } from "./messages";
import type { Outgoing } from "./outgoing";
import { parityOf } from "./parity";
import { micros, type StageMarks } from "./stages";

export type PayloadKind = "bitstream" | "jpeg";

/** Times are seconds. */
export interface LiveFrame {
  capturedAt: number;
  deadline: number;
  /** Set when the frame is offered. */
  marks?: StageMarks;
  payload?: Uint8Array;
  payloadBytes: number;
  wireBytes: number;
  kind: PayloadKind;
  sentAt?: number;
}

/** Bytes of a message beside its payload, about: channel byte or length, tag, numbers. */
const FRAME_OVERHEAD = 24;

export class LiveFrames {
  readonly account = new FrameAccount();
  /** The frame that is encoded and waits to be sent. */
  pending: number | null = null;
  /** Frames are split into parts of at most so many bytes; 0: not at all. */
  partBytes = 0;
  /** Parts of the frame that is being sent. */
  private onItsWay: Outgoing[] = [];
  private readonly frames = new Map<number, LiveFrame>();
  private newest = -1;

  constructor(
    /** Age from capture at which no answer is wanted any more, in seconds. */
    private readonly budget: number,
    private readonly emit: (event: EdgeEvent) => void,
  ) {}

  capture(frame: number, capturedAt: number): void {
    this.newest = frame;
    this.account.capture(frame);
    this.frames.set(frame, {
      capturedAt, deadline: capturedAt + this.budget, payloadBytes: 0, wireBytes: 0, kind: "bitstream",
    });
  }

  /** A frame is encoded; it supersedes the one that is pending. */
  offer(frame: number, payload: Uint8Array, marks: StageMarks, kind: PayloadKind, bytesMax: number): void {
    const live = this.frames.get(frame);
    if (!live) return; // Ended meanwhile.
    if (payload.length > bytesMax) {
      this.drop(frame, "encode_failed", `payload is ${payload.length} bytes, limit ${bytesMax}: lower the quality`);
      return;
    }
    Object.assign(live, { payload, payloadBytes: payload.length, marks, kind });
    if (this.pending !== null) this.drop(this.pending, "superseded", `frame ${frame} is newer`);
    this.pending = frame;
  }

  /** The frame to be sent next; one that is too old is dropped. */
  nextToSend(now: number): number | null {
    if (this.pending === null) return null;
    const live = this.frames.get(this.pending)!;
    if (now < live.deadline) return this.pending;
    this.drop(this.pending, "too_old", ageText(live, now));
    return null;
  }

  /** In how many parts the pending frame will go, parity apart (0: as one message), and its bytes. */
  parts(frame: number): { parts: number; bytes: number } {
    const { kind, payloadBytes: bytes } = this.frames.get(frame)!;
    return { parts: this.partBytes && kind !== "jpeg" ? partsOf(bytes, this.partBytes) : 0, bytes };
  }

  /** Marks the pending frame as sent: its message, or its first part. `ordinal` counts the frames sent since Welcome. */
  send(frame: number, ordinal: number, now: number, parity = 0): Outgoing {
    const live = this.frames.get(frame)!;
    this.pending = null;
    live.sentAt = now;
    const [first, ...others] = this.messages(frame, live, ordinal, now, parity);
    live.wireBytes = others.reduce((sum, out) => sum + wireBytes(out), wireBytes(first!));
    live.payload = undefined;
    this.onItsWay = others;
    return first!;
  }

  /**
   * The next part of a frame that has begun. Parts that would arrive after the deadline stay here: the first layers are
   * there by then, and a newer frame is worth more than the last ones.
   */
  nextPart(now: number, oneWay: number): Outgoing | null {
    for (let part = this.onItsWay.shift(); part; part = this.onItsWay.shift()) {
      if (now + oneWay < part.expiresAt!) return part;
    }
    return null;
  }

  /** All bytes of the messages of a frame that was sent, about. */
  wireBytes(frame: number): number {
    return this.frames.get(frame)!.wireBytes;
  }

  private messages(frame: number, live: LiveFrame, ordinal: number, now: number, parity: number): Outgoing[] {
    const payload = live.payload!;
    const head = {
      frame, age_at_send_us: micros(now - live.capturedAt), budget_us: micros(this.budget), sent: ordinal,
    };
    let built: (Frame | FramePart | JpegFrame)[];
    if (live.kind === "jpeg") built = [{ type: "JpegFrame", ...head, image: payload }];
    else if (this.partBytes && (parity || payload.length > this.partBytes)) {
      const pieces = cut(payload, this.partBytes, !parity);
      const parts = pieces.length;
      built = [...pieces, ...parityOf(pieces, parity)].map((bytes, part) => (
        { type: "FramePart", ...head, part, parts, bytes, parity }
      ));
    } else built = [{ type: "Frame", ...head, bitstream: payload }];
    return built.map((message) => ({ channel: "frames", message, frame, expiresAt: live.deadline }));
  }

  isSent(frame: number): boolean {
    return this.frames.get(frame)?.sentAt !== undefined;
  }

  /** The frame that a message speaks of, or undefined if it has ended. Throws if it was never sent. */
  spokenOf(type: string, frame: number): LiveFrame | undefined {
    const live = this.frames.get(frame);
    if (frame > this.newest || (live && live.sentAt === undefined)) {
      throw new RemoteProtocolError(`${type} for frame ${frame}, which was not sent`);
    }
    return live;
  }

  /** A result came. True if it is the frame's terminal state. */
  answer(frame: number): boolean {
    if (!this.account.answer(frame)) return false;
    this.forget(frame);
    return true;
  }

  /** Ends a frame, unless it has ended. */
  drop(frame: number, cause: Cause, detail = ""): void {
    if (!this.account.drop(frame, cause)) return;
    this.forget(frame);
    this.emit({ type: "FrameDropped", frame, cause, detail });
  }

  private forget(frame: number): void {
    this.frames.delete(frame);
    if (this.pending === frame) this.pending = null;
    if (this.onItsWay[0]?.frame === frame) this.onItsWay = [];
  }

  dropAll(cause: Cause, detail = ""): void {
    for (const frame of [...this.frames.keys()]) this.drop(frame, cause, detail);
  }

  /** Ends the frames that are under way. */
  dropSent(cause: Cause, detail: string): void {
    for (const frame of [...this.frames.keys()]) if (this.isSent(frame)) this.drop(frame, cause, detail);
  }

  /** When the next frame ends by itself. */
  nextDueAt(): number {
    let at = Infinity;
    for (const live of this.frames.values()) at = Math.min(at, dueAt(live));
    return at;
  }

  /** Ends the frames whose time is up. */
  endOverdue(now: number, connected: boolean): void {
    for (const [frame, live] of [...this.frames]) {
      if (dueAt(live) > now) continue;
      if (live.sentAt === undefined) this.drop(frame, "too_old", ageText(live, now));
      else this.drop(frame, connected ? "lost" : "disconnected", `no answer ${ageText(live, now)}`);
    }
  }
}

/** Bytes of a frame's message, or of a part's, about. */
export function wireBytes({ message }: Outgoing): number {
  switch (message.type) {
    case "Frame": return message.bitstream.length + FRAME_OVERHEAD;
    case "FramePart": return message.bytes.length + FRAME_OVERHEAD;
    case "JpegFrame": return message.image.length + FRAME_OVERHEAD;
    default: return 0;
  }
}

/** Too old while it is pending, lost while it is under way. */
function dueAt(live: LiveFrame): number {
  if (live.sentAt !== undefined) return live.deadline + LOST_GRACE_MS / 1000;
  return live.marks ? live.deadline : Infinity;
}

function ageText(live: LiveFrame, now: number): string {
  return `${Math.round((now - live.capturedAt) * 1000)} ms after capture`;
}
