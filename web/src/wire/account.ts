/** The counts of frames: every captured frame ends in exactly one counted state (pipeline/accounting.py). */
import { REMEMBERED_FRAMES } from "../limits";

export const SERVER_CAUSES = ["shed", "deadline", "incomplete", "undecodable", "engine_failed"] as const;
export const COMMON_CAUSES = ["disconnected", "stopped"] as const;
type EdgeCause = "superseded" | "too_old" | "encode_failed" | "send_failed" | "lost";
export type Cause = EdgeCause | (typeof SERVER_CAUSES)[number] | (typeof COMMON_CAUSES)[number];

export class FrameAccount {
  captured = 0;
  answered = 0;
  readonly dropped: Partial<Record<Cause, number>> = {};
  lateResults = 0;
  duplicates = 0;
  readonly inFlight = new Set<number>();
  /** State of frames that have ended, oldest first. */
  private readonly ended = new Map<number, string>();

  capture(frame: number): void {
    this.captured++;
    this.inFlight.add(frame);
  }

  /** A result for `frame`. True if it is the frame's terminal state. */
  answer(frame: number): boolean {
    if (this.inFlight.has(frame)) {
      this.answered++;
      this.end(frame, "answered");
      return true;
    }
    if (this.ended.get(frame) === "answered") this.duplicates++;
    else if (this.ended.has(frame)) this.lateResults++;
    return false;
  }

  /** `frame` is dropped. True if that is its terminal state. */
  drop(frame: number, cause: Cause): boolean {
    if (!this.inFlight.has(frame)) return false;
    this.dropped[cause] = (this.dropped[cause] ?? 0) + 1;
    this.end(frame, cause);
    return true;
  }

  get droppedTotal(): number {
    return Object.values(this.dropped).reduce((sum, count) => sum + count, 0);
  }

  /** Whether the count equation holds. False is a bug of ours. */
  get balanced(): boolean {
    return this.captured === this.answered + this.droppedTotal + this.inFlight.size;
  }

  private end(frame: number, state: string): void {
    this.inFlight.delete(frame);
    this.ended.set(frame, state);
    if (this.ended.size > REMEMBERED_FRAMES) this.ended.delete(this.ended.keys().next().value!);
  }
}
