/** The list of what was taught. It is brought up to date in place: a button that somebody is about to press stays. */
import type { Known } from "../teach/client";
import { counted } from "../teach/words";
import { element } from "./dom";

const ASK_AGAIN_MS = 4_000;

interface Row {
  root: HTMLElement;
  /** Says how many views there are. */
  text: Text;
}

export class KnownList {
  private readonly rows = new Map<string, Row>();

  /** `onForget`: the user is sure. It never rejects. */
  constructor(
    private readonly list: HTMLElement,
    private readonly onForget: (task: string, label: string) => Promise<void>,
  ) {}

  show(known: readonly Known[]): void {
    const before = new Map(this.rows);
    this.rows.clear();
    for (const { task, labels, error } of known) {
      if (error) this.put(before, JSON.stringify([task]), `${task}: ${error}`, () => plainRow());
      else for (const [label, views] of Object.entries(labels)) {
        this.put(before, JSON.stringify([task, label]), ` in ${task}, ${counted(views)}`, () => this.row(task, label));
      }
    }
    for (const [key, { root }] of before) if (!this.rows.has(key)) root.remove();
    let at = this.list.firstElementChild;
    for (const { root } of this.rows.values()) {
      if (root === at) at = at.nextElementSibling;
      else this.list.insertBefore(root, at);
    }
  }

  private put(before: Map<string, Row>, key: string, text: string, make: () => Row): void {
    const row = before.get(key) ?? make();
    if (row.text.data !== text) row.text.data = text;
    this.rows.set(key, row);
  }

  private row(task: string, label: string): Row {
    const text = document.createTextNode("");
    const button = element("button", { type: "button", class: "small", "aria-label": `Forget ${label} in ${task}` }, "Forget");
    let sure = false;
    button.addEventListener("click", () => {
      if (sure) {
        button.disabled = true;
        void this.onForget(task, label).then(() => (button.disabled = false));
        return;
      }
      sure = true;
      button.textContent = "Really forget?";
      setTimeout(() => {
        sure = false;
        button.textContent = "Forget";
      }, ASK_AGAIN_MS);
    });
    return { root: element("li", { class: "known" }, element("span", {}, element("b", {}, label), text), button), text };
  }
}

function plainRow(): Row {
  const text = document.createTextNode("");
  return { root: element("li", {}, text), text };
}
