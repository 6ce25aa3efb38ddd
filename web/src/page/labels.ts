/** Labels over the video: what each task sees, how sure it is, and how old that is. */
import type { Answer } from "../wire/events";
import type { TaskInfo, TaskResult } from "../wire/messages";
import { element } from "./dom";

/** Older labels are grey (edge_node/overlay.py). */
const OLD_MS = 500;
const GONE_MS = 10_000;
/** A screen reader hears of new labels at most so often. */
const SPOKEN_EVERY_MS = 3_000;

interface Row {
  root: HTMLElement;
  name: HTMLElement;
  score: HTMLElement;
  bar: HTMLElement;
}

export class Labels {
  private answer: Answer | null = null;
  private readonly rows = new Map<string, Row>();
  private titles = new Map<string, string>();
  private spoken = "";
  private spokenAt = -Infinity;

  constructor(
    private readonly list: HTMLElement,
    private readonly age: HTMLElement,
    private readonly speech: HTMLElement,
  ) {}

  setTasks(tasks: readonly TaskInfo[]): void {
    this.titles = new Map(tasks.map((task) => [task.name, task.title || task.name]));
    this.clear();
  }

  clear(): void {
    this.answer = null;
    this.rows.clear();
    this.list.replaceChildren();
    this.age.textContent = "";
  }

  show(answer: Answer): void {
    if (this.answer && answer.frame < this.answer.frame) return;
    this.answer = answer;
    const shown = new Set(answer.tasks.map((result) => result.task));
    for (const [task, row] of this.rows) {
      if (shown.has(task)) continue;
      row.root.remove();
      this.rows.delete(task);
    }
    for (const result of answer.tasks) this.showTask(result);
  }

  /** Labels fade with their age; call some ten times a second. `now` in seconds. */
  grow(now: number): void {
    if (!this.answer) return;
    const ageMs = Math.max(0, (now - this.answer.capturedAt) * 1000);
    const old = ageMs > OLD_MS;
    this.list.classList.toggle("old", old);
    this.list.style.opacity = old ? String(Math.max(0.35, 1 - (ageMs - OLD_MS) / GONE_MS)) : "";
    this.age.textContent = ageMs < 1000 ? `${Math.round(ageMs)} ms old` : `${(ageMs / 1000).toFixed(1)} s old`;
    this.age.classList.toggle("old", old);
    if (ageMs > GONE_MS) this.clear();
    else this.speak(now * 1000);
  }

  private showTask(result: TaskResult): void {
    const row = this.rows.get(result.task) ?? this.addRow(result.task);
    const top = result.labels[0];
    row.name.textContent = top ? top.name : result.error || "–";
    row.score.textContent = top ? `${Math.round(top.score * 100)} %` : "";
    row.bar.style.transform = `scaleX(${top?.score ?? 0})`;
    row.root.classList.toggle("unsure", !top || top.score < 0.3);
    row.root.classList.toggle("failed", !top);
    row.root.title = result.labels.map((label) => `${label.name} ${Math.round(label.score * 100)} %`).join(", ");
  }

  private addRow(task: string): Row {
    const name = element("span", { class: "name" });
    const score = element("span", { class: "score" });
    const bar = element("span", { class: "bar" });
    const title = element("span", { class: "task" }, this.titles.get(task) ?? task);
    const root = element("li", { "data-task": task }, title, name, score, bar);
    this.list.append(root);
    const row = { root, name, score, bar };
    this.rows.set(task, row);
    return row;
  }

  private speak(nowMs: number): void {
    if (nowMs - this.spokenAt < SPOKEN_EVERY_MS) return;
    const text = this.answer!.tasks.filter((task) => task.labels[0]).map((task) => task.labels[0]!.name).join(", ");
    if (text === this.spoken) return;
    this.speech.textContent = text;
    this.spoken = text;
    this.spokenAt = nowMs;
  }
}
