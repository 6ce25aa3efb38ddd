/** The operator's page: one stream of server-sent events feeds tiles, charts and tables. Nothing is polled. */
import { savedAdminToken, saveAdminToken } from "../page/access";
import { bytesText, element, short } from "../page/dom";
import { Chart } from "./charts";
import { listen, type ServerEvent } from "./event_stream";
import type { Percentiles, ServerFigures } from "./figures";

const EVENTS_SHOWN = 30;
const RETRY_MS = 2_000;

type Column<Row> = [title: string, text: (row: Row) => string, kind?: "number"];

export class Operator {
  private readonly status = element("p", { class: "status", role: "status", "data-mood": "busy" }, "Connecting …");
  private readonly tokenForm = this.buildTokenForm();
  private readonly tiles = element("dl", { class: "tiles" });
  private readonly charts = element("div", { class: "charts" });
  private readonly sessions = element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Sessions" });
  private readonly tasks = element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Tasks" });
  private readonly engines = element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Engines" });
  private readonly drops = element("p", { class: "note" }, "Nothing was dropped in the last seconds.");
  private readonly log = element("ul", { class: "plain", "aria-label": "Events" });
  private readonly rates: Chart;
  private readonly times: Chart;
  private readonly bits: Chart;
  private listening: AbortController | null = null;

  constructor(root: HTMLElement) {
    root.classList.add("operator");
    const holders = [0, 1, 2].map(() => element("div", { class: "chart" }));
    this.charts.append(...holders);
    root.replaceChildren(
      this.status, this.tokenForm, this.tiles, this.charts,
      element("h2", {}, "Sessions"), this.sessions, element("h2", {}, "Drops by cause"), this.drops,
      element("h2", {}, "Tasks and what they cost"), this.tasks, element("h2", {}, "Engines"), this.engines,
      element("h2", {}, "Events"), this.log,
    );
    this.rates = new Chart(holders[0]!, "Frames a second", [
      { label: "received", colour: "--server" }, { label: "answered", colour: "--edge" }, { label: "dropped", colour: "--alert" },
    ]);
    this.times = new Chart(holders[1]!, "Time on the server, ms", [
      { label: "p50", colour: "--edge" }, { label: "p95", colour: "--network" },
    ]);
    this.bits = new Chart(holders[2]!, "Payload, kbit/s", [{ label: "all sessions", colour: "--server" }]);
  }

  show(): void {
    if (!this.listening) void this.follow();
  }

  hide(): void {
    this.listening?.abort();
    this.listening = null;
  }

  private async follow(): Promise<void> {
    const listening = new AbortController();
    this.listening = listening;
    while (!listening.signal.aborted) {
      let status = 0;
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
      this.tell(status ? `The server's answer was HTTP ${status}. Trying again …` : "No answer from the server. Trying again …", "trouble");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      this.log.replaceChildren(); // They come again.
    }
  }

  private take({ kind, data }: ServerEvent): void {
    if (kind === "figures") this.draw(data as unknown as ServerFigures);
    else this.addEvent(kind, data);
  }

  private draw(figures: ServerFigures): void {
    this.tokenForm.hidden = true;
    this.tell(`${figures.state ?? "Serving"}, ${location.host}`, "live");
    const { frames, process } = figures;
    this.tiles.replaceChildren(
      ...tile("sessions", `${figures.sessions_open}`), ...tile("answers a second", short(frames.answered_fps)),
      ...tile("ms on the server, p95", frames.answer_ms ? frames.answer_ms.p95.toFixed(1) : "–"),
      ...tile("kbit/s", Math.round(frames.payload_kbps).toString()),
      ...tile("a frame", frames.payload_bytes_mean ? bytesText(frames.payload_bytes_mean) : "–"),
      ...tile("processor", `${Math.round(process.cpu_percent)} %`), ...tile("memory", `${Math.round(process.rss_mb)} MB`),
      ...tile("bundle", bundleText(figures)),
    );
    this.rates.add(figures.at, [frames.received_fps, frames.answered_fps, frames.dropped_fps]);
    this.times.add(figures.at, [frames.answer_ms?.p50 ?? null, frames.answer_ms?.p95 ?? null]);
    this.bits.add(figures.at, [frames.payload_kbps]);
    this.drawTables(figures);
    const causes = Object.entries(frames.dropped).map(([cause, count]) => `${count} ${cause.replace("_", " ")}`);
    this.drops.textContent = causes.join(" · ") || "Nothing was dropped in the last seconds.";
  }

  private drawTables(figures: ServerFigures): void {
    table(this.sessions, figures.sessions, "No session is open.", [
      ["Client", (row) => row.client || row.session.slice(0, 8)], ["Way", (row) => row.transport], ["State", (row) => row.state],
      ["Answers/s", (row) => short(row.fps), "number"], ["kbit/s", (row) => Math.round(row.payload_kbps).toString(), "number"],
      ["ms p50", (row) => p50(row.answer_ms), "number"],
      ["One way ms", (row) => (row.one_way_ms === null ? "–" : row.one_way_ms.toFixed(1)), "number"],
      ["Answered", (row) => `${row.answered} of ${row.received}`, "number"],
      ["Dropped", (row) => Object.values(row.dropped).reduce((sum, count) => sum + count, 0).toString(), "number"],
      ["Tasks", (row) => row.tasks.join(", ")],
    ]);
    table(this.tasks, figures.tasks, "No task is served.", [
      ["Task", (row) => row.name], ["Backbone", (row) => row.backbone], ["Classes", (row) => row.classes.toString(), "number"],
      ["Version", (row) => row.version.toString(), "number"], ["Sessions", (row) => row.sessions.toString(), "number"],
      ["Answers/s", (row) => short(row.answers_per_s), "number"], ["ms a frame", (row) => row.ms_a_frame.toFixed(3), "number"],
      ["", (row) => row.error],
    ]);
    table(this.engines, figures.engines, "No engine runs.", [
      ["Backbone", (row) => row.backbone], ["Engine", (row) => `${row.backend}, ${row.device}`],
      ["Busy", (row) => `${Math.round(100 * row.busy)} %`, "number"], ["ms a frame", (row) => row.frame_ms.toFixed(1), "number"],
      ["of it heads", (row) => row.heads_ms.toFixed(2), "number"], ["Batch", (row) => row.batch_mean.toFixed(1), "number"],
      ["Waiting", (row) => row.waiting.toString(), "number"], ["Failures", (row) => row.failures.toString(), "number"],
    ]);
  }

  private addEvent(kind: string, data: Record<string, unknown>): void {
    const { number: _, at, kind: __, what, ...facts } = data;
    const time = new Date(Number(at) * 1000).toLocaleTimeString();
    const text = Object.entries(facts).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : String(value)}`);
    this.log.prepend(element("li", {}, element("b", {}, `${time} ${kind} ${String(what)}`), ` ${text.join(", ")}`));
    while (this.log.children.length > EVENTS_SHOWN) this.log.lastElementChild!.remove();
  }

  private askForToken(): void {
    this.tell("The operator's page wants the administrator's token.", "trouble");
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

function tile(title: string, value: string): HTMLElement[] {
  return [element("div", {}, element("dt", {}, title), element("dd", {}, value))];
}

function table<Row>(root: HTMLElement, rows: readonly Row[], empty: string, columns: Column<Row>[]): void {
  if (!rows.length) {
    root.replaceChildren(element("p", { class: "note" }, empty));
    return;
  }
  const cell = (tag: "th" | "td", text: string, kind?: string) => element(tag, kind ? { class: kind } : {}, text);
  const head = element("tr", {}, ...columns.map(([title, , kind]) => cell("th", title, kind)));
  const body = rows.map((row) => element("tr", {}, ...columns.map(([, text, kind]) => cell("td", text(row), kind))));
  root.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

function p50(percentiles: Percentiles | null): string {
  return percentiles ? percentiles.p50.toFixed(1) : "–";
}

function bundleText(figures: ServerFigures): string {
  const id = figures.codec_id ?? figures.bundle_id ?? (typeof figures.bundle === "string" ? figures.bundle : "");
  return id ? id.slice(0, 8) : "–";
}
