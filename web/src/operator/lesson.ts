/** A lesson: pictures go up one by one, a few at a time; the server learns, and tells how it goes in its figures. */
import { ask, askWith, path, Refused } from "./api";
import type { PictureFolder } from "./picture_folder";

const AT_A_TIME = 4;
const TRIES = 3;

export interface Percentage {
  value: number;
  low: number;
  high: number;
}

export interface LessonReport {
  backbone: string;
  classes: number;
  examples: number;
  fewest: [string, number];
  held_out: number;
  accuracy: Percentage | null;
  unknown: Percentage | null;
  confusions: [string, string, number, number][];
  cost_ms: number;
  size_bytes: number;
  features_s: number;
  taught_s: number;
}

/** As the server tells it (analytics_server/lessons.py). */
export interface LessonRow {
  id: string;
  task: string;
  state: "uploading" | "learning" | "done" | "failed" | "cancelled";
  step: string;
  done: number;
  total: number;
  error: string;
  version?: number;
  kept?: boolean;
  pictures?: number;
  reports?: LessonReport[];
  notes?: string[];
  broken?: string[];
  broken_count?: number;
}

export interface LessonWish {
  task: string;
  title: string;
  kind: string;
  unknown: boolean;
  backbones: string[];
}

export type Send = (lesson: string, path: string, file: Blob, signal: AbortSignal) => Promise<void>;

export function isOver(row: LessonRow): boolean {
  return row.state !== "uploading" && row.state !== "learning";
}

export async function begin(wish: LessonWish, folder: PictureFolder): Promise<LessonRow> {
  const { pictures, bytes, name: source } = folder;
  return askWith<LessonRow>("POST", "/api/v1/lessons", { ...wish, pictures: pictures.length, bytes, source });
}

export async function start(lesson: string): Promise<LessonRow> {
  return ask<LessonRow>(path("lessons", lesson, "start"), { method: "POST" });
}

export async function cancel(lesson: string): Promise<void> {
  await ask(path("lessons", lesson), { method: "DELETE" });
}

/** Sends all pictures. `onBytes` hears how many bytes are there. A picture whose name the server refuses is skipped and named. */
export async function upload(
  lesson: string, folder: PictureFolder, signal: AbortSignal, onBytes: (bytes: number) => void, send: Send = sendPicture,
): Promise<string[]> {
  const refused: string[] = [];
  let next = 0;
  let there = 0;
  const worker = async () => {
    while (next < folder.pictures.length && !signal.aborted) {
      const { path: name, file } = folder.pictures[next++]!;
      try {
        await withRetries(() => send(lesson, name, file, signal), signal);
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 422) {
          next = folder.pictures.length; // The others need not try.
          throw error;
        }
        refused.push(error.message);
      }
      there += file.size;
      onBytes(there);
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, worker));
  signal.throwIfAborted();
  return refused;
}

/** A connection that broke is tried again; what the server refused is not. */
async function withRetries(send: () => Promise<void>, signal: AbortSignal): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await send();
    } catch (error) {
      if (signal.aborted || attempt === TRIES || !(error instanceof Refused) || error.status !== 0) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500 * attempt));
    }
  }
}

async function sendPicture(lesson: string, name: string, file: Blob, signal: AbortSignal): Promise<void> {
  await ask(path("lessons", lesson, "pictures", ...name.split("/")), { method: "PUT", body: file, signal });
}
