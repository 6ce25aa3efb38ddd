/** Quality and tasks. */
import type { Loaded } from "../encoder/encoder";
import type { TaskInfo } from "../wire/messages";
import type { PayloadKind } from "../wire/frames";
import { bytesText, byId, element } from "./dom";

export class Controls {
  onQuality: (point: number, kind: PayloadKind) => void = () => {};
  onTasks: (tasks: string[]) => void = () => {};
  private readonly slider = byId<HTMLInputElement>("quality");
  private readonly text = byId("quality-text");
  private readonly pictures = byId<HTMLInputElement>("send-pictures");
  private readonly fieldset = byId("tasks");
  private points: Loaded["points"] = [];

  constructor() {
    this.slider.addEventListener("input", () => this.tellQuality());
    this.pictures.addEventListener("change", () => this.tellQuality());
  }

  get kind(): PayloadKind {
    return this.pictures.checked ? "jpeg" : "bitstream";
  }

  /** null: the encoder does not run here, only pictures are left. */
  setEncoder(loaded: Loaded | null): void {
    this.points = loaded?.points ?? [];
    this.slider.max = String(Math.max(0, this.points.length - 1));
    this.slider.value = String(loaded?.defaultPoint ?? 0);
    this.pictures.checked ||= !loaded;
    this.pictures.disabled = !loaded;
    this.tellQuality();
  }

  /** The server's tasks; all are ticked but those that the user has taken out before. */
  setTasks(offered: readonly TaskInfo[], wanted: readonly string[] | null): void {
    const boxes = offered.map((task) => {
      const box = element("input", { type: "checkbox", value: task.name });
      box.checked = wanted === null || wanted.includes(task.name);
      box.addEventListener("change", () => this.tellTasks(box));
      const note = element("span", { class: "note" }, `${task.classes} classes`);
      return element("label", {}, box, element("span", {}, task.title || task.name), note);
    });
    this.fieldset.replaceChildren(element("legend", {}, "Tasks"), ...boxes);
  }

  private tellTasks(changed: HTMLInputElement): void {
    const boxes = [...this.fieldset.querySelectorAll("input")];
    const ticked = boxes.filter((box) => box.checked).map((box) => box.value);
    if (!ticked.length) {
      changed.checked = true; // An empty wish would mean every task.
      return;
    }
    this.onTasks(ticked);
  }

  private tellQuality(): void {
    const index = Number(this.slider.value);
    const point = this.points[index];
    const jpeg = this.kind === "jpeg";
    this.slider.disabled = jpeg || !point;
    this.text.textContent = jpeg || !point ? "pictures (JPEG), for the unmodified backbone" : pointText(point);
    this.slider.setAttribute("aria-valuetext", this.text.textContent);
    this.onQuality(index, this.kind);
  }
}

function pointText({ name, bytesMean, lossPoints }: Loaded["points"][number]): string {
  const size = bytesMean ? `, about ${bytesText(bytesMean)} a frame` : "";
  const loss = lossPoints === null ? "" : `, ${lossPoints.toFixed(1)} points below the unmodified backbone`;
  return `${name}${size}${loss}`;
}
