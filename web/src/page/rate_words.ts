/** What rate control has chosen and what that is expected to lose, in words. */
import type { RateChoice } from "../wire/rate_control";
import { lossWith, type Rung } from "../wire/rungs";
import { short } from "./dom";

/** The newest answer: what its frame was encoded as, and how much of it arrived. */
export interface Arrived {
  rung: Rung;
  decodedLayers: number;
  layers: number;
}

export function rateText(choice: RateChoice, pinned: boolean, newest: Arrived | null): string {
  const { name, lossPoints } = choice.rung;
  const words = `Quality ${name}${pinned ? pinnedText(choice) : chosenText(choice)}. ${lossText(lossPoints)} against the unmodified backbone.`;
  if (!newest || newest.decodedLayers >= newest.layers) return words;
  const part = lossText(lossWith(newest.rung, newest.decodedLayers, newest.layers)).toLowerCase();
  return `${words} Of the newest answer ${newest.decodedLayers} of ${newest.layers} layers arrived: ${part}.`;
}

function chosenText({ fps, kbps }: RateChoice): string {
  return kbps === null ? " until the link is measured" : `, chosen for a link of about ${linkText(kbps)}: ${short(fps)} frames/s`;
}

function pinnedText({ fps, kbps }: RateChoice): string {
  return `, your choice${kbps === null ? "" : `; a link of about ${linkText(kbps)} takes ${short(fps)} frames/s of it`}`;
}

function lossText(points: number | null): string {
  if (points === null) return "Expected loss not measured";
  return points <= 0 ? "No loss expected" : `Expected loss ${points.toFixed(1)} points`; // Below 0 is chance.
}

function linkText(kbps: number): string {
  return kbps < 1000 ? `${Math.round(kbps)} kbit/s` : `${short(kbps / 1000)} Mbit/s`;
}
