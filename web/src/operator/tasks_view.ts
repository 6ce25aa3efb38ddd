/** Tasks: those of one's own with their versions, those that came along, and a new one from a folder of pictures. */
import { element } from "../page/dom";
import { AddTask } from "./add_task";
import { ask, askWith, errorLine, path } from "./api";
import type { EngineRow } from "./figures";
import type { LessonRow } from "./lesson";
import { button, confirmed, region, table, Trouble } from "./parts";

interface OwnHead {
  backbone: string;
  classes: number;
  kind: string;
  accuracy: number | null;
  interval: number[];
  trained_on: string;
  created: string;
}

interface OwnTask {
  name: string;
  current: number;
  versions: number[];
  heads: OwnHead[];
  title?: string;
  error: string;
}

interface ServedTask {
  name: string;
  backbone: string;
  classes: number;
  version: number;
  title: string;
  kind: string;
  source: string;
  error: string;
}

interface TaskTable {
  tasks: ServedTask[];
  refused: Record<string, string>;
  own: OwnTask[];
}

export class TasksView {
  readonly root = element("div", {});
  private readonly trouble = new Trouble();
  private readonly own = element("ul", { class: "cards", "aria-label": "Your tasks" });
  private readonly served = region("Served tasks");
  private readonly refused = element("ul", { class: "plain" });
  private readonly add = new AddTask();
  private asked = 0;

  constructor() {
    this.root.append(
      this.trouble.root, this.add.root, element("h2", {}, "Your tasks"), this.own, this.refused,
      element("h2", {}, "All that is served"), this.served,
    );
  }

  /** Something about tasks changed, or the view is looked at. */
  async refresh(): Promise<void> {
    const number = ++this.asked;
    try {
      const found = await ask<TaskTable>("/api/v1/tasks");
      if (number === this.asked) this.draw(found);
      this.trouble.tell("");
    } catch (error) {
      this.trouble.tell(`The tasks could not be read: ${errorLine(error)}`);
    }
  }

  follow(lesson: LessonRow | null, engines: readonly EngineRow[]): void {
    this.add.follow(lesson, engines.map((engine) => engine.backbone));
  }

  private draw({ tasks, refused, own }: TaskTable): void {
    const rows = own.map((task) => this.ownRow(task));
    const none = element("li", { class: "note" }, "None yet. A folder of pictures makes one.");
    this.own.replaceChildren(...(rows.length ? rows : [none]));
    this.refused.replaceChildren(
      ...Object.entries(refused).map(([name, why]) => element("li", {}, element("b", {}, `${name} is not served: `), why)),
    );
    table(this.served, tasks, "No task is served.", [
      ["Task", (row) => row.name], ["Title", (row) => row.title], ["Backbone", (row) => row.backbone],
      ["Classes", (row) => row.classes.toString(), "number"], ["Version", (row) => row.version.toString(), "number"],
      ["Kind", (row) => row.kind], ["From", (row) => SOURCES[row.source] ?? row.source], ["", (row) => row.error],
    ]);
  }

  private ownRow(task: OwnTask): HTMLElement {
    const state = task.current ? `version ${task.current}` : "removed";
    const others = task.versions.filter((version) => version !== task.current);
    const facts = task.heads.map((head) => element("p", { class: "note" }, headText(head)));
    const actions = [
      others.length ? button(task.current ? "Other version …" : "Take back …", () => void this.rollBack(task, others)) : null,
      task.current ? button("Remove …", () => void this.remove(task)) : null,
    ];
    return element(
      "li", { class: "card", "data-task": task.name },
      element("p", {}, element("b", {}, task.name), ` ${state}`, others.length ? element("span", { class: "note" }, `, also kept: ${others.join(", ")}`) : null),
      ...facts, task.error ? element("p", { class: "error" }, task.error) : null, element("div", { class: "line" }, ...actions),
    );
  }

  private async rollBack(task: OwnTask, others: number[]): Promise<void> {
    const select = element("select", { id: "rollback-version" }, ...others.reverse().map((version) => element("option", { value: String(version) }, `version ${version}`)));
    const label = element("label", { for: "rollback-version" }, "Version ");
    const agreed = await confirmed(
      task.current ? `Another version of ${task.name}?` : `Take ${task.name} back?`,
      "Edges that stream get its answers from their next frame on. No frame is lost, and you can change it back.", "Use it",
      element("p", { class: "line" }, label, select),
    );
    if (agreed) await this.change(() => askWith("POST", path("tasks", task.name, "rollback"), { version: Number(select.value) }));
  }

  private async remove(task: OwnTask): Promise<void> {
    const agreed = await confirmed(
      `Remove ${task.name}?`, "Edges no longer get its answers. Its versions stay on the server, so it can be taken back.", "Remove it",
    );
    if (agreed) await this.change(() => ask(path("tasks", task.name), { method: "DELETE" }));
  }

  private async change(act: () => Promise<unknown>): Promise<void> {
    try {
      await act();
    } catch (error) {
      this.trouble.tell(errorLine(error));
      return;
    }
    await this.refresh();
  }
}

const SOURCES: Record<string, string> = { bundle: "the bundle", package: "a package", home: "yours", uploaded: "until it stops" };

function headText(head: OwnHead): string {
  const interval = head.interval.length === 2 ? ` [${head.interval.map((value) => value.toFixed(1)).join(", ")}]` : "";
  const accuracy = head.accuracy === null ? "accuracy not measured" : `${head.accuracy.toFixed(1)}${interval} %`;
  return `${accuracy} · ${head.classes} ${head.classes === 1 ? "class" : "classes"} · ${head.kind}, ${head.backbone} · ${head.created}`;
}
