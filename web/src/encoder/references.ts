/** Frames that both ends hold, so that a new one can be coded against them (edge_node/references.py). */
import type { Reference } from "../codec/latent_encoder";

const SENT_KEPT = 32;

export class ReferenceShelf {
  newest: Reference | null = null;
  private window = 0;
  private epoch = -1;
  private readonly sent = new Map<number, Int16Array>();

  /** A session was welcomed. References of another epoch are forgotten. */
  open(window: number, epoch: number): void {
    if (epoch !== this.epoch || window === 0) this.forget();
    this.window = window;
    this.epoch = epoch;
  }

  /** `frame` goes out with these symbols. */
  keep(frame: number, symbols: Int16Array): void {
    if (!this.window) return;
    this.sent.set(frame, symbols);
    if (this.sent.size > SENT_KEPT) this.sent.delete(this.sent.keys().next().value!);
  }

  /** The server decoded `layers` layers of `frame`. */
  acknowledge(frame: number, layers: number): void {
    const symbols = this.sent.get(frame);
    this.sent.delete(frame);
    if (!symbols || layers < 1 || (this.newest && this.newest.frame > frame)) return;
    this.newest = { epoch: this.epoch, frame, layers, symbols };
  }

  /** `frame` got no answer. If it was undecodable, perhaps for its reference, nothing here is trusted. */
  drop(frame: number, cause: string): void {
    this.sent.delete(frame);
    if (cause === "undecodable") this.forget();
  }

  private forget(): void {
    this.sent.clear();
    this.newest = null;
  }
}
