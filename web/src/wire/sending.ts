/** Which frame leaves when, and in what: credit, the turns of rate control, parts and their parity (pipeline/wire/edge_sending.py). */
import { FRAME_PARITY_PARTS_MAX } from "../limits";
import type { ClockOffset } from "./clock";
import { CreditBalance } from "./credits";
import { wireBytes, type LiveFrames } from "./frames";
import { LossEstimate } from "./loss";
import type { Outgoing } from "./outgoing";
import { parityWorth } from "./parity";
import type { RateControl } from "./rate_control";

/** A frame may leave so much before its time: sums of floats do not come out even. */
const PACE_S = 1e-6;

export class Sending {
  readonly credit = new CreditBalance();
  /** How many parts get lost; of use where frames go in parts. */
  readonly loss = new LossEstimate();
  /** Frames leave when it says so; null: as soon as there is credit. */
  control: RateControl | null = null;
  /** The server takes so many parity parts. */
  parityMax = 0;
  /** When a Ping is due that tells the server what was sent, because there is no credit. */
  probeAt = Infinity;
  /** When the frame that waits for its turn has it. */
  turnAt = Infinity;
  private settled = 0;
  private settledAt = -Infinity;

  constructor(private readonly frames: LiveFrames, private readonly clock: ClockOffset) {}

  /** Another session: nothing was sent. */
  begin(): void {
    this.credit.begin();
    this.loss.begin();
    this.settled = 0;
  }

  /** Another connection: another way. */
  connected(): void {
    if (!this.control) return;
    this.control.partBytes = this.frames.partBytes;
    this.control.opened();
  }

  /** From now on `control` says when frames leave. */
  steer(control: RateControl | null, now: number): void {
    this.control = control;
    this.turnAt = Infinity;
    if (!control) return;
    control.partBytes = this.frames.partBytes;
    control.credited(this.credit.available(now));
  }

  takeCredit(sentMax: number, validMs: number, now: number): void {
    this.credit.take(sentMax, validMs, now);
    const available = this.credit.available(now);
    this.control?.credited(available);
    if (available) this.probeAt = Infinity;
  }

  /** The parts of a frame that has begun, then (`open`: on an open session) the next frame if it may leave. */
  next(now: number, open: boolean): Outgoing | null {
    const part = this.frames.nextPart(now, this.clock.oneWay);
    if (part) {
      this.loss.sent(this.credit.sent);
      return part;
    }
    const frame = open ? this.frames.nextToSend(now) : null;
    if (frame === null) return null;
    if (this.credit.available(now)) return this.isItsTurn(now) ? this.send(frame, now) : null;
    // No credit: perhaps every frame of the window was lost.
    if (this.probeAt === Infinity) this.probeAt = now + this.settling;
    return null;
  }

  private isItsTurn(now: number): boolean {
    const at = this.control?.sendAt(now) ?? -Infinity;
    const its = at <= now + PACE_S;
    this.turnAt = its ? Infinity : at;
    return its;
  }

  private send(frame: number, now: number): Outgoing {
    this.settledAt = now + this.settling;
    this.loss.sent(++this.credit.sent);
    const first = this.frames.send(frame, this.credit.sent, now, this.parity(frame));
    this.control?.sent(frame, this.frames.wireBytes(frame), now, wireBytes(first));
    this.control?.credited(this.credit.available(now));
    return first;
  }

  /** How many parity parts the pending frame gets. */
  private parity(frame: number): number {
    const { parts, bytes } = this.frames.parts(frame);
    const most = Math.min(this.parityMax, FRAME_PARITY_PARTS_MAX);
    return parts && most ? parityWorth(parts, this.loss.share, most, this.control?.room(bytes)) : 0;
  }

  /** After this long a frame has arrived or is lost: a few one-way times. */
  private get settling(): number {
    return Math.max(0.05, 4 * this.clock.oneWay);
  }

  /** Frames that have arrived by now or are lost. */
  settledFrames(now: number): number {
    if (now >= this.settledAt) this.settled = this.credit.sent;
    return this.settled;
  }
}
