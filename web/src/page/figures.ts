/** Rolling figures of the last seconds. */
import type { Answer } from "../wire/events";
import { STAGES, type StagesMs } from "../wire/stages";

const WINDOW_S = 3;

export interface Figures {
  fps: number;
  kbps: number;
  payloadBytes: number;
  /** Median, milliseconds; null: no answer in the window. */
  captureToResultMs: number | null;
  /** Mean of each stage. */
  stages: StagesMs | null;
}

export class Rolling {
  private answers: Answer[] = [];
  private startedAt = Infinity;

  add(answer: Answer): void {
    this.startedAt = Math.min(this.startedAt, answer.receivedAt);
    this.answers.push(answer);
  }

  clear(): void {
    this.answers = [];
    this.startedAt = Infinity;
  }

  at(now: number): Figures {
    while (this.answers.length && this.answers[0]!.receivedAt < now - WINDOW_S) this.answers.shift();
    const count = this.answers.length;
    const span = Math.max(1, Math.min(WINDOW_S, now - this.startedAt));
    const sum = (of: (answer: Answer) => number) => this.answers.reduce((total, answer) => total + of(answer), 0);
    const times = this.answers.map((answer) => answer.captureToResultMs).sort((a, b) => a - b);
    return {
      fps: count / span,
      kbps: (sum((answer) => answer.wireBytes) * 8) / 1000 / span,
      payloadBytes: count ? sum((answer) => answer.payloadBytes) / count : 0,
      captureToResultMs: count ? times[count >> 1]! : null,
      stages: count
        ? (Object.fromEntries(STAGES.map((stage) => [stage, sum((answer) => answer.stages[stage]) / count])) as StagesMs)
        : null,
    };
  }
}
