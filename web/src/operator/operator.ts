/** The operator's page: one stream of server-sent events feeds all of it; nothing is polled. */
import { savedAdminToken, saveAdminToken } from "../page/access";
import { element } from "../page/dom";
import { listen, type ServerEvent } from "./event_stream";
import type { ServerFigures } from "./figures";
import { LiveView } from "./live";
import "./operator.css";
import { RecordingsView } from "./recordings_view";
import { TasksView } from "./tasks_view";

const RETRY_MS = 2_000;
const VIEWS = ["Live", "Tasks", "Recordings"] as const;
type View = (typeof VIEWS)[number];

export class Operator {
  private readonly status = element("p", { class: "status", role: "status", "data-mood": "busy" }, "Connecting …");
  private readonly tokenForm = this.buildTokenForm();
  private readonly live = new LiveView();
  private readonly tasks = new TasksView();
  private readonly recordings = new RecordingsView();
  private readonly tabs = element("div", { class: "tabs", role: "tablist", "aria-label": "Parts of the operator's page" });
  private readonly panels: Record<View, HTMLElement>;
  private view: View = "Live";
  private listening: AbortController | null = null;

  constructor(root: HTMLElement) {
    root.classList.add("operator");
    const panel = (view: View, inside: HTMLElement) =>
      element("section", { id: `operator-${view}`, role: "tabpanel", "aria-labelledby": `operator-tab-${view}`, ...(view === "Live" ? {} : { hidden: "" }) }, inside);
    this.panels = {
      Live: panel("Live", this.live.root), Tasks: panel("Tasks", this.tasks.root), Recordings: panel("Recordings", this.recordings.root),
    };
    this.tabs.append(...VIEWS.map((view) => this.tab(view)));
    root.replaceChildren(this.status, this.tokenForm, this.tabs, ...VIEWS.map((view) => this.panels[view]));
    this.choose("Live");
  }

  show(): void {
    if (!this.listening) void this.follow();
  }

  hide(): void {
    this.listening?.abort();
    this.listening = null;
    this.recordings.hide();
  }

  private tab(view: View): HTMLButtonElement {
    const tab = element("button", { type: "button", role: "tab", id: `operator-tab-${view}`, "aria-controls": `operator-${view}` }, view);
    tab.addEventListener("click", () => this.choose(view));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      const next = VIEWS[(VIEWS.indexOf(view) + by + VIEWS.length) % VIEWS.length]!;
      this.choose(next);
      document.getElementById(`operator-tab-${next}`)!.focus();
    });
    return tab;
  }

  private choose(view: View): void {
    const before = this.view;
    this.view = view;
    for (const [name, panel] of Object.entries(this.panels)) panel.hidden = name !== view;
    for (const tab of this.tabs.children) {
      const chosen = tab.id === `operator-tab-${view}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.setAttribute("tabindex", chosen ? "0" : "-1");
    }
    if (before === "Recordings" && view !== before) this.recordings.hide();
    if (view === "Tasks") void this.tasks.refresh();
    if (view === "Recordings" && before !== view) this.recordings.show();
  }

  private async follow(): Promise<void> {
    const listening = new AbortController();
    this.listening = listening;
    while (!listening.signal.aborted) {
      let status = 0;
      this.live.forgetEvents(); // They come again.
      try {
        status = await listen("/api/v1/events?after=0", savedAdminToken(), listening.signal, (event) => this.take(event));
      } catch {
        // No server, or the page has turned away.
      }
      if (listening.signal.aborted) return;
      if (status === 401 || status === 403) {
        this.listening = null;
        this.askForToken();
        return;
      }
      this.tell(status && status !== 200 ? `The server's answer was HTTP ${status}. Trying again …` : "No answer from the server. Trying again …", "trouble");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  private take({ kind, data }: ServerEvent): void {
    if (kind !== "figures") {
      this.live.addEvent(kind, data);
      if (kind === "task" && this.view === "Tasks") void this.tasks.refresh();
      return;
    }
    const figures = data as unknown as ServerFigures;
    this.tokenForm.hidden = true;
    this.tabs.hidden = false;
    this.panels[this.view].hidden = false;
    this.tell(`${figures.state ?? "Serving"}, ${location.host}`, "live");
    this.live.draw(figures);
    this.tasks.follow(figures.lesson ?? null, figures.engines);
  }

  private askForToken(): void {
    const wrong = savedAdminToken() ? " The one that was typed in is wrong." : "";
    this.tell(`The operator's page wants the administrator's token.${wrong}`, "trouble");
    this.tabs.hidden = true;
    for (const panel of Object.values(this.panels)) panel.hidden = true;
    this.tokenForm.hidden = false;
    this.tokenForm.querySelector("input")!.focus();
  }

  private buildTokenForm(): HTMLFormElement {
    const input = element("input", { id: "admin-token", type: "password", autocomplete: "off", required: "" });
    const form = element(
      "form", { class: "card", hidden: "" }, element("label", { for: "admin-token" }, "Administrator's token"),
      element("div", { class: "line" }, input, element("button", { type: "submit" }, "Show")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      saveAdminToken(input.value);
      this.show();
    });
    return form;
  }

  private tell(text: string, mood: "busy" | "live" | "trouble"): void {
    if (this.status.textContent !== text) this.status.textContent = text;
    this.status.dataset.mood = mood;
  }
}
