/** Parts that several views are built from. */
import { element } from "../page/dom";

export type Column<Row> = [title: string, cell: (row: Row) => string | Node, kind?: string];

export function tile(title: string, value: string): HTMLElement {
  return element("div", {}, element("dt", {}, title), element("dd", {}, value));
}

/** Fills `root` with a table, or with a line where there are no rows. */
export function table<Row>(root: HTMLElement, rows: readonly Row[], empty: string, columns: readonly Column<Row>[]): void {
  if (!rows.length) {
    root.replaceChildren(element("p", { class: "note inset" }, empty));
    return;
  }
  const cell = (tag: "th" | "td", content: string | Node, kind?: string) => element(tag, kind ? { class: kind } : {}, content);
  const head = element("tr", {}, ...columns.map(([title, , kind]) => cell("th", title, kind)));
  const body = rows.map((row) => element("tr", {}, ...columns.map(([, content, kind]) => cell("td", content(row), kind))));
  root.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

/** A box that scrolls sideways, reached by keyboard. */
export function region(label: string): HTMLElement {
  return element("div", { class: "table", tabindex: "0", role: "region", "aria-label": label });
}

export function button(text: string, onClick: () => void, attributes: Record<string, string> = {}): HTMLButtonElement {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", onClick);
  return made;
}

/** Asks before something is done that others notice. `fields` stand between the question and the buttons. */
export function confirmed(question: string, detail: string, doIt: string, ...fields: HTMLElement[]): Promise<boolean> {
  return new Promise((resolve) => {
    const dialog = element("dialog", { class: "card", "aria-label": question });
    const end = (answer: boolean) => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    dialog.append(
      element("h2", {}, question), element("p", {}, detail), ...fields,
      element("div", { class: "line" }, button(doIt, () => end(true), { class: "main" }), button("Leave it", () => end(false))),
    );
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      end(false);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A line that says what went wrong, or nothing. */
export class Trouble {
  readonly root = element("p", { class: "error", role: "alert", hidden: "" });

  tell(text: string): void {
    this.root.textContent = text;
    this.root.hidden = !text;
  }
}

export function sizeText(bytes: number): string {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

/** Seconds as people read them: 1:02.5, 1:00:00. */
export function clockText(seconds: number, decimals = 0): string {
  const factor = 10 ** decimals;
  const whole = Math.round(Math.max(0, seconds) * factor) / factor;
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  const rest = (whole % 60).toFixed(decimals).padStart(decimals ? 3 + decimals : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function percent(score: number): string {
  return `${Math.round(100 * score)} %`;
}
