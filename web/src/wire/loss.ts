/** What share of the parts gets lost: the server counts, tells it with its replies, and this smooths it (pipeline/wire/part_loss.py). */
import { REMEMBERED_FRAMES } from "../limits";

/** Taken for lossy until it has shown that it is not, which takes some 300 parts. */
const LOSS_AT_START = 0.02;
/** Parts over which the loss is averaged. */
const LOSS_PARTS = 200;

export class LossEstimate {
  share = LOSS_AT_START;
  /** What was not told of yet; an old server never tells. */
  private frames: { ordinal: number; parts: number }[] = [];
  private counted = 0;

  /** A new session: nothing was sent. */
  begin(): void {
    this.share = LOSS_AT_START;
    this.frames = [];
    this.counted = 0;
  }

  /** A part of the frame with this ordinal leaves. */
  sent(ordinal: number): void {
    const last = this.frames.at(-1);
    if (last?.ordinal === ordinal) last.parts++;
    else this.frames.push({ ordinal, parts: 1 });
    if (this.frames.length > REMEMBERED_FRAMES) this.frames.shift();
  }

  /** The server has counted the frames up to `settled`: `parts` parts of them since Welcome. */
  told(settled: number, parts: number): void {
    let left = 0;
    while (this.frames.length && this.frames[0]!.ordinal <= settled) left += this.frames.shift()!.parts;
    if (!left) return; // Told before, or overtaken by a newer reply.
    const lost = Math.min(1, Math.max(0, 1 - (parts - this.counted) / left));
    this.counted = Math.max(this.counted, parts);
    this.share += (lost - this.share) * (1 - (1 - 1 / LOSS_PARTS) ** left);
  }
}
