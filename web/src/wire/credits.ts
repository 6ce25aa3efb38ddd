/** How many frames may be sent: cumulative, so that an old or doubled grant does no harm (pipeline/wire/credits.py). */
export class CreditBalance {
  /** Frames sent since Welcome. */
  sent = 0;
  private sentMax = 0;
  private until = -Infinity;

  /** A new session: nothing was sent, nothing is granted. */
  begin(): void {
    this.sent = this.sentMax = 0;
    this.until = -Infinity;
  }

  take(sentMax: number, validMs: number, now: number): void {
    if (sentMax < this.sentMax) return; // Overtaken by a larger one.
    this.sentMax = sentMax;
    this.until = Math.max(this.until, now + validMs / 1000);
  }

  available(now: number): number {
    return now < this.until ? Math.max(0, this.sentMax - this.sent) : 0;
  }
}
