/** What a session tells its owner. */
import type { Cause } from "./account";
import type { BundlePart, TaskInfo, TaskResult, Welcome } from "./messages";
import type { StagesMs } from "./stages";

export type EdgeEvent =
  | { type: "Connected"; welcome: Welcome }
  | { type: "Answered"; answer: Answer }
  | { type: "FrameDropped"; frame: number; cause: Cause; detail: string }
  | { type: "TasksNow"; tasks: TaskInfo[]; error: string }
  | { type: "BundlePartReceived"; part: BundlePart }
  | Disconnected
  | { type: "Closed"; reason: string; detail: string; clean: boolean };

/** It goes on with another connection. `goodbye`: the server said why it ended this one; null: it was lost, or there was none. */
export interface Disconnected {
  type: "Disconnected";
  reason: string;
  goodbye: { reason: string; detail: string } | null;
}

export interface Answer {
  frame: number;
  tasks: TaskResult[];
  /** In seconds of our clock. */
  capturedAt: number;
  receivedAt: number;
  stages: StagesMs;
  captureToResultMs: number;
  payloadBytes: number;
  wireBytes: number;
  decodedLayers: number;
  layers: number;
}
