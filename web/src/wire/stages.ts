/** The stages of a frame's way, and how time stamps become stages (pipeline/wire/stage_marks.py). */
import type { Result } from "./messages";

export const STAGES = [
  "capture", "preprocess", "analysis", "entropy_encode", "send_wait", "uplink", "entropy_decode", "queue", "synthesis",
  "tail", "heads", "downlink",
] as const;
export type Stage = (typeof STAGES)[number];
const SERVER_STAGES = ["entropy_decode", "queue", "synthesis", "tail", "heads"] as const;

/** When a frame passed the page's stages, in seconds of our clock. */
export interface StageMarks {
  capturedAt: number;
  captureDone: number;
  preprocessDone: number;
  analysisDone: number;
  encodeDone: number;
}

export type StagesMs = Record<Stage, number>;

export function micros(seconds: number): number {
  return Math.round(seconds * 1e6);
}

/** Every stage in milliseconds; none is negative, and they sum to capture-to-result. */
export function stagesMs(
  marks: StageMarks, sentAt: number, result: Result, receivedAt: number, offset: number | null,
): StagesMs {
  const captured = micros(marks.capturedAt);
  const captureDone = Math.max(captured, micros(marks.captureDone));
  const preprocessDone = Math.max(captureDone, micros(marks.preprocessDone));
  const analysisDone = Math.max(preprocessDone, micros(marks.analysisDone));
  const encodeDone = Math.max(analysisDone, micros(marks.encodeDone));
  const sent = Math.max(encodeDone, micros(sentAt));
  let left = Math.max(0, micros(receivedAt) - sent);
  const server = result.stages_us.map((stage) => {
    const kept = Math.min(Math.max(0, stage), left);
    left -= kept;
    return kept;
  });
  const wanted = offset === null ? Math.floor(left / 2) : result.received_at_us - micros(offset) - sent;
  const uplink = Math.min(Math.max(0, wanted), left);
  const stages = {
    capture: captureDone - captured, preprocess: preprocessDone - captureDone, analysis: analysisDone - preprocessDone,
    entropy_encode: encodeDone - analysisDone, send_wait: sent - encodeDone, uplink, downlink: left - uplink,
  } as Partial<StagesMs>;
  SERVER_STAGES.forEach((stage, index) => { stages[stage] = server[index] ?? 0; });
  return Object.fromEntries(STAGES.map((stage) => [stage, stages[stage]! / 1000])) as StagesMs;
}
