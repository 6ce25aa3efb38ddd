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
  | { type: "Disconnected"; reason: string }
  | { type: "Closed"; reason: string; detail: string; clean: boolean };

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
