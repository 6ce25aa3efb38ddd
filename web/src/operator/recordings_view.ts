/** The recordings of the server, and the one that is looked through. */
import { element } from "../page/dom";
import { ask, errorLine, path } from "./api";
import { button, sizeText, Trouble } from "./parts";
import { Player, type Overview } from "./player";

interface Listed {
  name: string;
  bytes: number;
  changed: number;
  source?: string;
  /** Why it cannot be looked through. */
  error?: string;
}

interface Shelf {
  recording: boolean;
  recordings: Listed[];
  more: boolean;
}

const PAGE = 25;

export class RecordingsView {
  readonly root = element("div", { class: "recordings" });
  private readonly trouble = new Trouble();
  private readonly list = element("ul", { class: "cards files", "aria-label": "Recordings" });
  private readonly more = button("More", () => void this.load(true), { hidden: "" });
  private readonly shelf = element("section", {});
  private readonly place = element("section", { "aria-label": "Recording" });
  private player: Player | null = null;
  private listed: Listed[] = [];

  constructor() {
    this.shelf.append(
      element("div", { class: "line spread" }, element("h2", {}, "Recordings"), button("Look again", () => void this.load(false))),
      this.list, this.more,
    );
    this.root.append(this.trouble.root, this.place, this.shelf);
  }

  show(): void {
    void this.load(false);
  }

  hide(): void {
    this.player?.pause();
  }

  private async load(further: boolean): Promise<void> {
    try {
      const before = further ? `&before=${encodeURIComponent(this.listed.at(-1)?.name ?? "")}` : "";
      const found = await ask<Shelf>(`/api/v1/recordings?limit=${PAGE}${before}`);
      this.listed = further ? [...this.listed, ...found.recordings] : found.recordings;
      this.more.hidden = !found.more;
      this.draw(found.recording);
      this.trouble.tell("");
    } catch (error) {
      this.trouble.tell(`The recordings could not be read: ${errorLine(error)}`);
    }
  }

  private draw(recording: boolean): void {
    if (!this.listed.length) {
      const why = recording ? "No recording yet: one begins with each session." : "This server records nothing. Start it with “frankenstream serve --record DIR”.";
      this.list.replaceChildren(element("li", { class: "note" }, why));
      return;
    }
    this.list.replaceChildren(...this.listed.map((file) => element("li", {}, this.row(file))));
  }

  private row(file: Listed): HTMLButtonElement {
    const open = button("", () => void this.open(file.name), { class: "file", "aria-pressed": String(this.player?.name === file.name) });
    const when = new Date(file.changed * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    const name = file.name.replace(/\.mcap$/, "");
    open.append(
      element("b", {}, file.source || name), ...(file.source ? [element("span", {}, name)] : []),
      element("span", { class: "note" }, file.error || `${when} · ${sizeText(file.bytes)}`),
    );
    open.disabled = Boolean(file.error);
    return open;
  }

  private async open(name: string): Promise<void> {
    this.trouble.tell("");
    this.player?.close();
    this.player = null;
    this.place.replaceChildren();
    try {
      const about = await ask<Overview>(path("recordings", name));
      this.player = new Player(about, (line) => this.trouble.tell(line));
      this.place.replaceChildren(this.player.root);
      this.player.start();
      this.draw(true);
      this.place.scrollIntoView({ block: "start" });
    } catch (error) {
      this.trouble.tell(errorLine(error));
    }
  }
}
