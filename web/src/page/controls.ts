/** Quality and tasks. */
import type { TaskInfo } from "../wire/messages";
import type { MeasuredPoint } from "../wire/rungs";
import { bytesText, byId, element } from "./dom";
import type { Offer, Quality } from "./feed";

export class Controls {
  onQuality: (quality: Quality) => void = () => {};
  onTasks: (tasks: string[]) => void = () => {};
  private readonly slider = byId<HTMLInputElement>("quality");
  private readonly auto = byId<HTMLInputElement>("quality-auto");
  private readonly text = byId("quality-text");
  private readonly pictures = byId<HTMLInputElement>("send-pictures");
  private readonly fieldset = byId("tasks");
  private points: readonly MeasuredPoint[] = [];
  /** Pictures are sent because there is no encoder, not because they are wanted. */
  private forced = false;

  constructor() {
    this.slider.addEventListener("input", () => {
      this.auto.checked = false;
      this.tellQuality();
    });
    this.auto.addEventListener("change", () => this.tellQuality());
    this.pictures.addEventListener("change", () => this.tellQuality());
  }

  /** What the user wants. */
  get quality(): Quality {
    return {
      kind: this.pictures.checked ? "jpeg" : "bitstream",
      pinned: this.auto.checked || !this.points.length ? null : Number(this.slider.value),
    };
  }

  /** null: the encoder does not run here, only pictures are left. A pinned quality stays if there is one of that name. */
  setEncoder(offer: Offer | null): void {
    const pinned = this.auto.checked ? undefined : this.points[Number(this.slider.value)]?.name;
    this.points = offer?.points ?? [];
    const kept = this.points.findIndex(({ name }) => name === pinned);
    if (kept < 0) this.auto.checked = true;
    this.slider.max = String(Math.max(0, this.points.length - 1));
    this.slider.value = String(kept < 0 ? (offer?.defaultPoint ?? 0) : kept);
    this.force(!offer);
    this.tellQuality();
  }

  /** Whether only pictures are left; what the user had ticked comes back. */
  force(pictures: boolean): void {
    if (pictures && !this.pictures.checked) this.forced = this.pictures.checked = true;
    else if (!pictures && this.forced) this.forced = this.pictures.checked = false;
    this.pictures.disabled = pictures;
  }

  /** What was chosen automatically: the slider is there, too. */
  follow(point: number): void {
    if (this.quality.pinned !== null || Number(this.slider.value) === point) return;
    this.slider.value = String(point);
    this.say();
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
    this.say();
    this.onQuality(this.quality);
  }

  private say(): void {
    const { kind, pinned } = this.quality;
    const point = this.points[Number(this.slider.value)];
    const pictures = kind === "jpeg" || !point;
    this.slider.disabled = this.auto.disabled = pictures;
    const words = pictures ? "pictures (JPEG), for the unmodified backbone" : pointText(point);
    this.text.textContent = pictures || pinned !== null ? words : `automatic: ${words}`;
    this.slider.setAttribute("aria-valuetext", this.text.textContent);
  }
}

function pointText({ name, bytesMean, lossPoints }: MeasuredPoint): string {
  const size = bytesMean ? `, about ${bytesText(bytesMean)} a frame` : "";
  const loss = lossPoints === null ? "" : `, ${Math.abs(lossPoints).toFixed(1)} points ${lossPoints < 0 ? "above" : "below"} the unmodified backbone`;
  return `${name}${size}${loss}`;
}
