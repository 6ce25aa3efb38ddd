/** The line on top with what is under it: a complaint, the button to start again, the question for a token. */
import type { Disconnected } from "../wire/events";
import { saveToken } from "./access";
import { byId } from "./dom";
import { troubleText } from "./words";

export class Status {
  /** The user wants to start again after an end. */
  onAgain: () => void = () => {};
  /** Another token is saved. */
  onToken: () => void = () => {};
  private readonly line = byId("status");
  private readonly error = byId("error");
  private readonly again = byId("again");
  private readonly tokenForm = byId<HTMLFormElement>("token-form");
  private readonly token = byId<HTMLInputElement>("token");

  constructor() {
    this.again.addEventListener("click", () => this.onAgain());
    this.tokenForm.addEventListener("submit", (event) => {
      event.preventDefault();
      saveToken(this.token.value);
      this.tokenForm.hidden = true;
      this.onToken();
    });
  }

  tell(text: string, mood: "idle" | "busy" | "live" | "trouble"): void {
    if (this.line.textContent !== text) this.line.textContent = text;
    this.line.dataset.mood = mood;
    this.again.hidden = true;
  }

  tellConnecting(): void {
    this.tell(`Connecting to ${location.host} …`, "busy");
  }

  /** It goes on by itself. */
  tellTrouble({ goodbye }: Disconnected): void {
    this.tell(troubleText(goodbye, location.host, navigator.onLine), "trouble");
  }

  /** It does not go on by itself: why, and a button to start again. */
  tellEnd(text: string, why: string): void {
    this.tell(text, "trouble");
    this.complain(why);
    this.again.hidden = false;
  }

  /** How much of the encoder is here, behind the line: style.css shows it, and no screen reader is told of every percent. */
  tellShare(text: string): void {
    this.line.dataset.share = text;
    if (text) byId("encoder-text").textContent = `loading, ${text}`;
  }

  /** "" takes the complaint away. */
  complain(text: string): void {
    this.error.textContent = text;
    this.error.hidden = !text;
  }

  askForToken(detail: string): void {
    this.tokenForm.hidden = false;
    byId("token-why").textContent = detail;
    this.token.focus();
    this.tell("This server wants a token.", "trouble");
  }
}
