/** The card that teaches a task: a folder is dropped or chosen, named, sent, learnt, and told what it is worth. */
import { element } from "../page/dom";
import { ask, errorLine } from "./api";
import { begin, cancel, isOver, start, upload, type LessonReport, type LessonRow, type Percentage } from "./lesson";
import { button, sizeText, Trouble } from "./parts";
import { chosen, dropped, sort, type Found, type Limits, type PictureFolder } from "./picture_folder";

const CLASSES_SHOWN = 24;
const WHAT_HAPPENS =
  "The pictures go to the server, are looked at as frames of a camera would be, and are removed from it when the lesson ends. " +
  "What stays are their features, which say what is in a picture but not how it looked.";

export class AddTask {
  readonly root = element("section", { class: "card add-task", "aria-label": "Add a task" });
  private readonly input = element("input", { id: "choose-folder", type: "file", webkitdirectory: "", multiple: "", class: "hidden-text" });
  private readonly zone = element("div", { class: "drop-zone" });
  private readonly trouble = new Trouble();
  private readonly summary = element("div", {});
  private readonly form = element("form", { hidden: "" });
  private readonly name = element("input", { id: "task-name", type: "text", required: "", maxlength: "128", autocomplete: "off", spellcheck: "false" });
  private readonly kind = element("select", { id: "task-kind" });
  private readonly unknown = element("input", { type: "checkbox", checked: "" });
  private readonly backbones = element("fieldset", { class: "backbones", hidden: "" });
  private readonly teach = element("button", { type: "submit", class: "main" }, "Teach it");
  private readonly progress = element("div", { class: "lesson", hidden: "" });
  private readonly step = element("p", { role: "status" });
  private readonly bar = element("progress", { "aria-label": "Progress of the lesson" });
  private readonly stop = button("Cancel", () => void this.giveUp());
  private readonly result = element("div", { class: "lesson-result", role: "status" });
  private folder: PictureFolder | null = null;
  private limits: Limits | null = null;
  private sending: AbortController | null = null;
  private skipped: string[] = [];
  /** The lesson that is shown, and what is known of it. */
  private lesson: LessonRow | null = null;
  /** One that had ended before this page came. */
  private old: string | null | undefined;

  constructor() {
    for (const [value, text] of [["linear", "linear: learns fast, is nearly always right"], ["mlp", "mlp: one hidden layer"], ["nearest", "nearest: the nearest examples vote"], ["map", "map: small things anywhere in the frame"]]) {
      this.kind.append(element("option", { value: value! }, text!));
    }
    this.zone.append(
      element("p", {}, element("b", {}, "Drop a folder here"), ": a folder for each class, with pictures in it."),
      element("label", { class: "button main", for: "choose-folder" }, "Choose a folder"), this.input,
      element("p", { class: "note" }, WHAT_HAPPENS),
    );
    this.form.append(
      element("label", { for: "task-name" }, "Name of the task"), this.name,
      element("details", {}, element("summary", {}, "More"),
        element("p", { class: "line" }, element("label", { for: "task-kind" }, "Kind "), this.kind),
        element("label", { class: "check" }, this.unknown, "Answer “unknown” for what fits no class"), this.backbones),
      element("div", { class: "line" }, this.teach, button("Another folder", () => this.reset())),
    );
    this.progress.append(this.step, this.bar, this.stop);
    this.root.append(element("h2", {}, "Add a task"), this.zone, this.summary, this.form, this.trouble.root, this.progress, this.result);
    this.listen();
  }

  /** What the server says of its lesson, once a second. */
  follow(row: LessonRow | null, backbones: readonly string[]): void {
    this.offer(backbones);
    if (this.old === undefined) this.old = row && isOver(row) ? row.id : null;
    if (!row || row.id === this.old) return;
    if (row.id === this.lesson?.id && isOver(this.lesson)) return;
    const ours = row.id === this.lesson?.id;
    this.lesson = row;
    if (isOver(row)) this.finish(row);
    else if (!(ours && this.sending)) this.showStep(row);
  }

  private listen(): void {
    this.input.addEventListener("change", () => {
      if (this.input.files?.length) void this.take(Promise.resolve(chosen(this.input.files)));
    });
    this.zone.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.zone.classList.add("over");
    });
    this.zone.addEventListener("dragleave", () => this.zone.classList.remove("over"));
    this.zone.addEventListener("drop", (event) => {
      event.preventDefault();
      this.zone.classList.remove("over");
      if (event.dataTransfer) void this.take(dropped(event.dataTransfer));
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.send();
    });
  }

  private async take(finding: Promise<Found[]>): Promise<void> {
    this.trouble.tell("");
    this.result.replaceChildren();
    try {
      const found = await finding;
      this.limits ??= (await ask<{ limits: Limits }>("/api/v1/lessons")).limits;
      this.folder = sort(found, this.limits);
    } catch (error) {
      this.trouble.tell(errorLine(error));
      return;
    }
    const { name, pictures, bytes, classes, notes, error } = this.folder;
    this.show(error ? "zone" : "folder");
    this.summary.hidden = false; // What was left aside may say why there is nothing.
    this.trouble.tell(error);
    const shown = classes.slice(0, CLASSES_SHOWN);
    const more = classes.length - shown.length;
    this.summary.replaceChildren(
      ...(error ? [] : [
        element("p", {}, element("b", {}, `${pictures.length} pictures`), ` of ${classes.length} ${classes.length === 1 ? "class" : "classes"}, ${sizeText(bytes)}`),
        element("ul", { class: "class-chips", "aria-label": "Classes" }, ...shown.map(([label, count]) => element("li", {}, label, element("span", {}, ` ${count}`))),
          more > 0 ? element("li", {}, `and ${more} more`) : null),
      ]),
      ...notes.map((note) => element("p", { class: "note" }, note)),
    );
    if (!error) {
      this.name.value ||= name.trim();
      this.name.focus();
    }
  }

  private async send(): Promise<void> {
    const folder = this.folder;
    if (!folder || this.sending) return;
    this.trouble.tell("");
    const sending = (this.sending = new AbortController());
    this.teach.disabled = true;
    try {
      const wish = {
        task: this.name.value.trim(), title: "", kind: this.kind.value, unknown: this.unknown.checked,
        backbones: [...this.backbones.querySelectorAll<HTMLInputElement>("input:checked")].map((box) => box.value),
      };
      this.lesson = await begin(wish, folder);
      const lesson = this.lesson.id;
      this.show("sending");
      this.skipped = await upload(lesson, folder, sending.signal, (bytes) => {
        this.tellStep(`Sending pictures: ${sizeText(bytes)} of ${sizeText(folder.bytes)}`, bytes, folder.bytes);
      });
      this.sending = null;
      const row = await start(lesson);
      if (!isOver(this.lesson)) this.showStep((this.lesson = row));
    } catch (error) {
      if (sending.signal.aborted) return;
      this.show("folder");
      this.trouble.tell(errorLine(error));
    } finally {
      this.sending = null;
      this.teach.disabled = false;
    }
  }

  private async giveUp(): Promise<void> {
    this.sending?.abort();
    try {
      if (this.lesson) await cancel(this.lesson.id);
    } catch (error) {
      this.trouble.tell(errorLine(error));
    }
  }

  private showStep(row: LessonRow): void {
    this.show("sending");
    if (row.state === "uploading") this.tellStep(`${row.task}: pictures are on their way, ${row.done} of ${row.total}`, row.done, row.total);
    else if (row.total <= 1) this.tellStep(`${row.task}: ${row.step} …`, null, 1);
    else this.tellStep(`${row.task}: ${row.step}, ${row.done} of ${row.total}`, row.done, row.total);
  }

  private tellStep(text: string, done: number | null, total: number): void {
    this.step.textContent = text;
    this.bar.max = Math.max(1, total);
    if (done === null) this.bar.removeAttribute("value");
    else this.bar.value = done;
  }

  private finish(row: LessonRow): void {
    const broken = [
      ...(row.broken ?? []).map((line) => element("li", {}, line)),
      (row.broken_count ?? 0) > (row.broken?.length ?? 0) ? element("li", {}, `and ${row.broken_count! - row.broken!.length} more`) : null,
      ...this.skipped.map((line) => element("li", {}, line)),
    ].filter((line) => line !== null);
    const unread = broken.length ? [element("p", {}, element("b", {}, "Could not be read:")), element("ul", { class: "plain", "aria-label": "Broken pictures" }, ...broken)] : [];
    this.skipped = [];
    if (row.state === "done") {
      this.reset();
      this.result.replaceChildren(...reportParts(row), ...unread, element("p", { class: "note" }, "The pictures are removed from the server."));
      return;
    }
    this.show(this.folder ? "folder" : "zone");
    this.result.replaceChildren(...unread);
    const why = row.error || "it was cancelled";
    this.trouble.tell(`${row.task} was not learnt: ${why}. The pictures are removed from the server.`);
  }

  private reset(): void {
    this.folder = null;
    this.input.value = "";
    this.name.value = "";
    this.summary.replaceChildren();
    this.result.replaceChildren();
    this.trouble.tell("");
    this.show("zone");
  }

  private show(what: "zone" | "folder" | "sending"): void {
    this.zone.hidden = what !== "zone";
    this.summary.hidden = what === "zone";
    this.form.hidden = what !== "folder";
    this.progress.hidden = what !== "sending";
    if (what === "sending") this.result.replaceChildren();
  }

  private offer(backbones: readonly string[]): void {
    if (backbones.length < 2 || this.backbones.children.length) return;
    this.backbones.hidden = false;
    this.backbones.append(
      element("legend", {}, "Backbones"),
      ...backbones.map((name, place) => element("label", { class: "check" }, element("input", { type: "checkbox", value: name, ...(place ? {} : { checked: "" }) }), name)),
    );
  }
}

function reportParts(row: LessonRow): HTMLElement[] {
  const kept = row.kept ? "" : ", until the server stops";
  return [
    element("p", { class: "learnt" }, element("b", {}, `${row.task} version ${row.version} answers now${kept}.`)),
    ...(row.reports ?? []).flatMap((report) => reportOf(report, (row.reports?.length ?? 1) > 1)),
    ...(row.notes ?? []).map((note) => element("p", { class: "note" }, note)),
  ];
}

function reportOf(report: LessonReport, named: boolean): HTMLElement[] {
  const facts: [string, string][] = [
    ["accuracy", report.accuracy ? `${interval(report.accuracy)} of ${report.held_out} held-out pictures` : `not measured: ${report.classes === 1 ? "there is one class" : "no picture could be held out"}`],
    ["unknown", report.unknown ? `${interval(report.unknown)} of them would be called unknown` : "–"],
    ["learnt from", `${report.examples} pictures of ${report.classes} ${report.classes === 1 ? "class" : "classes"}; fewest: ${report.fewest[0]} (${report.fewest[1]})`],
    ["cost", `${report.cost_ms.toFixed(2)} ms a frame beside the backbone's, ${sizeText(report.size_bytes)}`],
    ["took", `${report.features_s.toFixed(1)} s for features, ${report.taught_s.toFixed(1)} s for learning`],
  ];
  const mixed = report.confusions.map(([first, second, count, of]) => element("li", {}, `${first} ↔ ${second}: ${count} of ${of}`));
  return [
    ...(named ? [element("h3", {}, report.backbone)] : []),
    element("dl", { class: "facts" }, ...facts.flatMap(([title, text]) => [element("dt", {}, title), element("dd", {}, text)])),
    ...(mixed.length ? [element("p", {}, "Often mixed up:"), element("ul", { class: "plain" }, ...mixed)] : []),
  ];
}

function interval({ value, low, high }: Percentage): string {
  return `${value.toFixed(1)} % [${low.toFixed(1)}, ${high.toFixed(1)}]`;
}
