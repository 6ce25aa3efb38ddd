/** The server's figures as `GET /api/v1/events` tells them (analytics_server/figures.py). */
import type { LessonRow } from "./lesson";

export interface Percentiles {
  p50: number;
  p95: number;
  p99: number;
}

/** The label that a task last had on top. */
export interface Recognised {
  task: string;
  label: string;
  score: number;
  age_s: number;
}

export interface SessionRow {
  session: string;
  client: string;
  transport: string;
  state: string;
  tasks: string[];
  received: number;
  answered: number;
  dropped: Record<string, number>;
  fps: number;
  payload_kbps: number;
  one_way_ms: number | null;
  answer_ms: Percentiles | null;
  recognised?: Recognised[];
}

export interface TaskRow {
  name: string;
  backbone: string;
  classes: number;
  version: number;
  sessions: number;
  answers_per_s: number;
  ms_a_frame: number;
  error: string;
}

export interface EngineRow {
  backbone: string;
  backend: string;
  device: string;
  waiting: number;
  failures: number;
  busy: number;
  batch_mean: number;
  frame_ms: number;
  heads_ms: number;
}

export interface ServerFigures {
  lesson?: LessonRow | null;
  at: number;
  state?: string;
  bundle?: unknown;
  bundle_id?: string;
  codec_id?: string;
  frames: {
    received_fps: number;
    answered_fps: number;
    dropped_fps: number;
    payload_kbps: number;
    payload_bytes_mean: number;
    dropped: Record<string, number>;
    answer_ms: Percentiles | null;
    stages_ms: Record<string, Percentiles | null>;
  };
  sessions: SessionRow[];
  sessions_open: number;
  sessions_known: number;
  engines: EngineRow[];
  tasks: TaskRow[];
  process: { cpu_percent: number; cores: number; rss_mb: number; up_s: number };
}
