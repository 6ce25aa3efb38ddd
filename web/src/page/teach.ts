/** The card that teaches: hold a button while showing a thing, name it, and it is recognised from then on. */
import { NotAllowed, TeachClient, TeachError, viewsIn, type Known } from "../teach/client";
import { Hold } from "../teach/hold";
import { counted, HOW, holdingText, learntText, tooFewText, VIEWS_MAX, VIEWS_MIN } from "../teach/words";
import { saveAdminToken, savedAdminToken, savedToken } from "./access";
import { byId, element } from "./dom";
import { KnownList } from "./known_list";

/** What the card needs of the page. */
export interface Stage {
  /** The session whose frames are looked at, or why there is none, in words. */
  session(): { id: string } | { trouble: string };
  /** The task is to be answered from now on, or no more. */
  taught(task: string): void;
  removed(task: string): void;
}

export class Teach {
  private readonly client = new TeachClient(() => savedAdminToken() || savedToken());
  private readonly button = byId<HTMLButtonElement>("teach-hold");
  private readonly form = byId<HTMLFormElement>("teach-form");
  private readonly label = byId<HTMLInputElement>("teach-label");
  private readonly task = byId<HTMLInputElement>("teach-task");
  private readonly tokenForm = byId<HTMLFormElement>("teach-token-form");
  private readonly details = byId<HTMLDetailsElement>("teach-details");
  private readonly hold: Hold;
  private captures: Uint8Array[] = [];
  private holding: AbortController | null = null;
  private known: Known[] = [];
  private readonly list = new KnownList(byId("teach-known"), (task, label) => this.attempt(() => this.forget(task, label)));

  constructor(private readonly stage: Stage) {
    this.hold = new Hold(this.button, () => void this.look(), () => this.letGo());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.attempt(() => this.learn());
    });
    byId("teach-discard").addEventListener("click", () => {
      this.reset();
      this.say(HOW);
      this.button.focus();
    });
    this.tokenForm.addEventListener("submit", (event) => {
      event.preventDefault();
      saveAdminToken(byId<HTMLInputElement>("teach-token").value);
      this.tokenForm.hidden = true;
      this.say("Thank you. Now hold the button again.");
      this.button.focus();
      if (this.details.open) void this.attempt(() => this.refresh());
    });
    this.details.addEventListener("toggle", () => {
      if (this.details.open) void this.attempt(() => this.refresh());
    });
    this.say(HOW);
  }

  // --- Looking ----------------------------------------------------------------------------------------------------

  private get views(): number {
    return this.captures.reduce((sum, capture) => sum + viewsIn(capture), 0);
  }

  /** Captures until the button is let go. */
  private async look(): Promise<void> {
    this.reset();
    const session = this.stage.session();
    if ("trouble" in session) {
      this.say(session.trouble, true);
      this.hold.end();
      return;
    }
    const holding = (this.holding = new AbortController());
    byId("stage").classList.add("teaching");
    this.say("Keep it in the white square, and turn it a little.");
    await this.attempt(async () => {
      while (!holding.signal.aborted && this.views < VIEWS_MAX) {
        this.showViews(this.views);
        const capture = await this.client.capture(session.id, holding.signal);
        if (!holding.signal.aborted) this.captures.push(capture);
      }
    }, holding.signal);
    this.hold.end();
  }

  private letGo(): void {
    if (!this.holding) return; // It never began.
    this.holding.abort();
    this.holding = null;
    byId("stage").classList.remove("teaching");
    const views = this.views;
    this.showViews(-1);
    if (byId("teach-say").classList.contains("trouble")) return; // Said already.
    if (views < VIEWS_MIN) {
      this.captures = [];
      this.say(tooFewText(views), true);
      return;
    }
    this.form.hidden = false;
    this.showChips();
    this.say(`${counted(views)}. Name it.`);
    this.label.focus();
    void this.attempt(() => this.refresh());
  }

  /** -1: none are being taken. */
  private showViews(views: number): void {
    byId("teach-hold-text").textContent = views < 0 ? "Hold to teach" : holdingText(views);
    this.button.style.setProperty("--filled", views < 0 ? "0" : String(Math.min(1, views / 20)));
  }

  // --- Learning ---------------------------------------------------------------------------------------------------

  private async learn(): Promise<void> {
    const task = this.task.value.trim() || "things";
    const label = this.label.value.trim();
    if (!label) {
      this.say("Say what it is, then tap Teach.", true);
      this.label.focus();
      return;
    }
    this.say(`Learning “${label}” …`);
    this.busy(true);
    try {
      if (this.captures.length) await this.client.add(task, label, this.captures);
      this.captures = []; // Kept by the server from here on, whatever becomes of the lesson.
      const lesson = await this.client.teach(task);
      this.reset();
      this.stage.taught(task);
      this.say(learntText(lesson));
      this.button.focus();
    } finally {
      this.busy(false);
      if (!this.captures.length) this.reset();
    }
    await this.refresh();
  }

  private async forget(task: string, label: string): Promise<void> {
    this.say(`Forgetting “${label}” …`);
    const left = await this.client.forget(task, label);
    this.show(without(this.known, task, label));
    if (Object.keys(left).length) {
      const lesson = await this.client.teach(task);
      this.say(`“${label}” is forgotten. ${learntText(lesson)}`);
    } else {
      await this.client.remove(task);
      this.stage.removed(task);
      this.say(`“${label}” is forgotten, and with it the task “${task}”.`);
    }
    await this.refresh();
  }

  private busy(busy: boolean): void {
    for (const input of this.form.querySelectorAll("input, button")) (input as HTMLInputElement).disabled = busy;
    this.button.disabled = busy;
  }

  // --- What it knows ----------------------------------------------------------------------------------------------

  private async refresh(): Promise<void> {
    this.show(await this.client.known());
  }

  private show(known: Known[]): void {
    this.known = known;
    this.list.show(known);
    byId("teach-none").hidden = this.known.length > 0;
    byId("teach-tasks").replaceChildren(...this.known.map(({ task }) => element("option", { value: task })));
    this.showChips();
  }

  /** Labels that there are: one tap names it. */
  private showChips(): void {
    const labels = Object.keys(this.known.find(({ task }) => task === this.task.value.trim())?.labels ?? {});
    const chips = labels.slice(0, 12).map((label) => {
      const chip = element("button", { type: "button", class: "small" }, label);
      chip.addEventListener("click", () => {
        this.label.value = label;
        this.label.focus();
      });
      return chip;
    });
    byId("teach-chips").replaceChildren(...chips);
  }

  // --- Words ------------------------------------------------------------------------------------------------------

  private reset(): void {
    this.captures = [];
    this.form.hidden = true;
    this.label.value = "";
  }

  private say(text: string, trouble = false): void {
    const line = byId("teach-say");
    line.textContent = text;
    line.classList.toggle("trouble", trouble);
  }

  /** Does it; what goes wrong is said. */
  private async attempt(what: () => Promise<void>, signal?: AbortSignal): Promise<void> {
    try {
      await what();
    } catch (error) {
      if (signal?.aborted) return;
      if (error instanceof NotAllowed) {
        this.tokenForm.hidden = false;
        byId("teach-token").focus();
      }
      this.say(error instanceof TeachError ? error.message : `That did not work: ${String(error)}`, true);
    }
  }
}

/** `known` without a label, and without its task if that was the last one. */
function without(known: readonly Known[], task: string, label: string): Known[] {
  return known.flatMap((one) => {
    if (one.task !== task) return [one];
    const labels = Object.fromEntries(Object.entries(one.labels).filter(([name]) => name !== label));
    return Object.keys(labels).length ? [{ ...one, labels }] : [];
  });
}
