/** What rate control may choose from: the bundle's measured table (pipeline/bundle/ladder.py, pipeline/rate_control). */

/** One setting with its measured price and loss, as the bundle says. */
export interface Rung {
  /** The operating point's index. */
  point: number;
  name: string;
  /** Of a frame that stands alone. */
  bytesMean: number;
  /** Points of top-1 below the unmodified backbone; null: not measured. */
  lossPoints: number | null;
  /** The same where only the first 1, 2, … layers arrived; empty: not measured. */
  layerLossPoints: readonly number[];
}

/** Expected loss of an answer from so many layers; null: not measured. */
export function lossWith(rung: Rung, decodedLayers: number, sentLayers: number): number | null {
  if (decodedLayers >= sentLayers) return rung.lossPoints;
  return rung.layerLossPoints[decodedLayers - 1] ?? null;
}

/** An operating point as far as the ladder needs it. */
export type MeasuredPoint = Omit<Rung, "point">;

/**
 * One rung for each operating point; `pinned`, the index of one, is the user's choice and leaves only that. A bundle
 * whose points were not measured has nothing to choose by: its default point alone.
 */
export function rateLadder(points: readonly MeasuredPoint[], defaultPoint: number, pinned: number | null = null): Rung[] {
  const measured = points.every((point) => point.bytesMean > 0);
  const only = pinned ?? (measured ? null : defaultPoint);
  return points
    .map(({ name, bytesMean, lossPoints, layerLossPoints }, point) => ({
      point, name, bytesMean: bytesMean || 1, lossPoints, layerLossPoints,
    }))
    .filter(({ point }) => only === null || point === only);
}

/** From the smallest frames to the largest. */
export function byBytes(ladder: readonly Rung[]): Rung[] {
  if (!ladder.length) throw new RangeError("a ladder needs at least one rung");
  return [...ladder].sort((a, b) => a.bytesMean - b.bytesMean);
}
