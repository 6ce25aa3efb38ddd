/** The least one-way delay of late, and the median (pipeline/rate_control). */

/** How long a least one-way delay counts at least, in seconds, and half as long again at most: the way may change. */
const BASE_WINDOW_S = 10;

/** The least of the samples of the last BASE_WINDOW_S or a little more (two halves of it and the one begun). */
export class LeastDelay {
  private readonly halves: { at: number; delay: number }[] = [];

  add(delay: number, now: number): void {
    const last = this.halves.at(-1);
    if (!last || now - last.at >= BASE_WINDOW_S / 2) {
      this.halves.push({ at: now, delay });
      if (this.halves.length > 3) this.halves.shift();
    } else if (delay < last.delay) {
      last.delay = delay;
    }
  }

  get value(): number | null {
    return this.halves.length ? Math.min(...this.halves.map((half) => half.delay)) : null;
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
