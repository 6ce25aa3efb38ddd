/**
 * A button that is held: by finger or mouse, or by the space or enter key. A lone click, which is what screen readers
 * make, holds it for a while.
 */

const CLICK_HOLDS_MS = 3_000;
/** A click so soon after a hold is its end. */
const CLICK_BELONGS_MS = 600;

export class Hold {
  private held = false;
  private endedAt = -Infinity;
  private timer = 0;

  constructor(
    private readonly button: HTMLElement,
    private readonly onStart: () => void,
    private readonly onEnd: () => void,
  ) {
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      // Without it a finger that slips off the button would end the hold, and on a phone it scrolls the page instead.
      button.setPointerCapture(event.pointerId);
      this.start();
    });
    for (const type of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) button.addEventListener(type, () => this.end());
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // A long press on a phone.
    button.addEventListener("keydown", (event) => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      if (!event.repeat) this.start();
    });
    button.addEventListener("keyup", (event) => {
      if (event.key === " " || event.key === "Enter") this.end();
    });
    button.addEventListener("click", () => {
      if (this.held || performance.now() - this.endedAt < CLICK_BELONGS_MS) return;
      this.start();
      this.timer = window.setTimeout(() => this.end(), CLICK_HOLDS_MS);
    });
    window.addEventListener("pagehide", () => this.end());
  }

  /** Let go. */
  end(): void {
    if (!this.held) return;
    clearTimeout(this.timer);
    this.held = false;
    this.endedAt = performance.now();
    this.button.classList.remove("held");
    this.onEnd();
  }

  private start(): void {
    if (this.held || (this.button as HTMLButtonElement).disabled) return;
    this.held = true;
    this.button.classList.add("held");
    this.onStart();
  }
}
