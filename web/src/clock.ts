/** One monotonic clock for the page and its worker, whose `performance.now()` start at different times. */
let origin = performance.timeOrigin;

/** In the worker: count from the page's origin. */
export function setOrigin(pageOrigin: number): void {
  origin = pageOrigin;
}

export function pageOrigin(): number {
  return origin;
}

/** Seconds, monotonic. */
export function monotonic(): number {
  return (performance.timeOrigin - origin + performance.now()) / 1000;
}
