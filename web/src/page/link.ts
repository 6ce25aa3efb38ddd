/** The link to the server: which bundle it has, the encoder that this makes, and a session over which frames go. */
import { askWelcome, fetchBundle, Refused, Unauthorised } from "../bundle/fetch";
import { Encoder } from "../encoder/encoder";
import type { Picture } from "../encoder/protocol";
import { Loading, type OnProgress } from "../progress";
import { choose, earlierFallback, rememberFallback, routesOf, routeText } from "../transport/choice";
import { EdgeTransport } from "../transport/edge";
import type { Answer, Disconnected, EdgeEvent } from "../wire/events";
import type { TaskInfo } from "../wire/messages";
import type { RateChoice } from "../wire/rate_control";
import { EdgeSession } from "../wire/session";
import { savedToken } from "./access";
import type { Controls } from "./controls";
import { byId } from "./dom";
import { Feed, type Offer, type Quality } from "./feed";
import { encoderText, gpuWish, rememberGpu } from "./gpu";
import type { Arrived } from "./rate_words";
import type { Status } from "./status";
import { browserName, endText, words } from "./words";

const TOP_K = 3;
/** If the encoder takes longer to load, pictures of the sample clip are sent until it is there. */
const ENCODER_PATIENCE_MS = 500;
const NOTHING_OFFERED: Offer = { points: [], defaultPoint: 0 };
const NOTHING_YET: Offer = { ...NOTHING_OFFERED, coming: true };

/** What the link needs of the page. */
export interface Page {
  /** Whether there is a source: without one there is no session. */
  running(): boolean;
  /** The tasks that are wanted; none: all that there are. */
  tasks(): string[];
  /** What the video shows now. */
  grab(): Promise<Picture>;
  /** The server's tasks, as it welcomes the page. */
  offered(tasks: TaskInfo[]): void;
  /** The session's tasks changed, or the server says why not. */
  changed(tasks: TaskInfo[], error: string): void;
  answered(answer: Answer): void;
  /** Connected, or the encoder is there: something else goes over the connection now. */
  live(): void;
}

export class Link {
  /** The newest answer, for the line on quality; null: nothing was chosen for its frame. */
  newest: Arrived | null = null;
  private encoder: Encoder | null = null;
  private transport: EdgeTransport | null = null;
  private feed: Feed | null = null;
  private offer: Offer = NOTHING_YET;
  private codecId = "";
  private starting = new AbortController();

  constructor(
    private readonly status: Status,
    private readonly controls: Controls,
    private readonly page: Page,
  ) {
    window.addEventListener("pagehide", () => this.transport?.close());
    window.addEventListener("pageshow", (event) => {
      if (event.persisted) location.reload();
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.transport?.retryNow(); // A page in the background runs no timers to speak of.
    });
    window.addEventListener("online", () => this.transport?.retryNow(true));
  }

  get session(): EdgeSession | null {
    return this.transport?.session ?? null;
  }

  get connected(): boolean {
    return this.session?.state === "open";
  }

  /** It has been loaded, or given up. */
  get encoderKnown(): boolean {
    return !this.offer.coming;
  }

  // --- Coming and going -------------------------------------------------------------------------------------------

  /** From the beginning: asks the server which bundle it has, and loads the encoder. */
  async connect(): Promise<void> {
    this.starting.abort();
    this.starting = new AbortController();
    this.closeSession();
    const { signal } = this.starting;
    this.status.tellConnecting();
    const encoder = this.newEncoder(); // Its runtime is on its way while the server is asked.
    try {
      const welcome = await askWelcome(savedToken(), (trouble) => this.status.tellTrouble(trouble), signal);
      this.page.offered(welcome.tasks);
      this.codecId = welcome.codec_id;
      this.status.tell("Loading the encoder …", "busy");
      const loading = this.loadEncoder(encoder, signal);
      await Promise.race([loading, pause(ENCODER_PATIENCE_MS)]);
      if (!signal.aborted && this.page.running() && !this.transport) this.openSession();
      await loading;
      if (!signal.aborted && !this.page.running()) this.status.tell("Ready. Choose a source.", "idle");
    } catch (error) {
      if (!signal.aborted) this.failed(error);
    }
  }

  /** After an end: a session anew, with the encoder that is here. */
  startAgain(): void {
    this.status.complain("");
    this.status.tellConnecting();
    if (this.codecId && this.encoder) this.openFor();
    else void this.connect();
  }

  /** A source is there: a session for it, if there is none and the server is known. */
  openFor(): void {
    if (this.transport || !this.codecId || !this.encoder) return;
    if (this.encoderKnown) this.status.tellConnecting(); // Until then the line says how much of it is here.
    this.openSession();
  }

  closeSession(): void {
    this.transport?.close();
    this.forgetSession();
  }

  private failed(error: unknown): void {
    if (error instanceof Refused && error.reason === "codec") return void this.connect(); // It has another bundle now.
    this.closeSession();
    if (error instanceof Unauthorised) return this.status.askForToken(error.message);
    this.starting.abort();
    this.encoder?.close();
    this.encoder = null;
    this.status.tellShare("");
    if (error instanceof Refused) return this.status.tellEnd("Not connected.", endText(error.reason, error.detail));
    this.status.tellEnd("The encoder could not be loaded.", words(error));
  }

  // --- The encoder ------------------------------------------------------------------------------------------------

  /** One whose runtime is on its way: that of before, if no bundle was given to it yet. */
  private newEncoder(): Encoder {
    if (this.encoder && !this.encoder.given) return this.encoder;
    this.encoder?.close();
    this.encoder = new Encoder();
    this.controls.force(false);
    this.offer = NOTHING_YET;
    this.encoder.onEncoded = (encoded) => this.feed?.encoded(encoded);
    this.encoder.onFailed = (frame, message) => {
      this.transport?.call((session) => session.fail(frame, "encode_failed", message));
      this.status.complain(`A frame could not be encoded: ${message}`);
    };
    return this.encoder;
  }

  /** Fetches the bundle and lets the encoder have it; where it does not run, pictures are left. Throws as `fetchBundle`. */
  private async loadEncoder(encoder: Encoder, signal: AbortSignal): Promise<void> {
    const loading = new Loading();
    const progress = (part: string): OnProgress => (loaded, total) => {
      loading.add(part, loaded, total);
      if (!signal.aborted && !this.encoderKnown) this.status.tellShare(loading.text);
    };
    encoder.onProgress = progress("runtime");
    const onTrouble = (trouble: Disconnected): void => {
      if (!this.connected) this.status.tellTrouble(trouble);
    };
    const bundle = await fetchBundle(savedToken(), this.codecId, onTrouble, signal, progress("bundle"));
    signal.throwIfAborted();
    const { gpu, why } = gpuWish(location.search, this.codecId);
    try {
      const loaded = await encoder.load(bundle, gpu);
      if (signal.aborted) return;
      this.know(loaded, encoderText(loaded.analysis, loaded.description, why));
      encoder.onGpu = (tried) => {
        rememberGpu(tried, this.codecId);
        byId("encoder-text").textContent = encoderText(loaded.analysis, tried.description, tried.trouble);
      };
    } catch (error) {
      if (signal.aborted) return;
      this.know(null, "pictures are sent");
      this.status.complain(`${words(error)} Pictures are sent instead.`);
    }
  }

  /** What the encoder offers; null: it does not run here. */
  private know(offer: Offer | null, text: string): void {
    this.status.tellShare("");
    this.offer = offer ?? NOTHING_OFFERED;
    this.feed?.setOffer(this.offer);
    this.controls.setEncoder(offer);
    byId("encoder-text").textContent = text;
    this.page.live();
  }

  // --- The session ------------------------------------------------------------------------------------------------

  /** The video shows another picture. */
  take(): void {
    if (this.connected) this.feed?.take();
  }

  setQuality(quality: Quality): void {
    this.feed?.setQuality(quality);
  }

  /** None: all that there are. */
  setTasks(tasks: string[]): void {
    this.transport?.call((session) => session.setTasks(tasks, TOP_K));
  }

  /** What the next frame would be encoded as; null: nothing is chosen. */
  choice(now: number): RateChoice | null {
    return this.feed?.choice(now) ?? null;
  }

  private openSession(): void {
    const session = new EdgeSession({
      codecId: this.codecId, client: `web page, ${browserName()}`, tasks: this.page.tasks(), topK: TOP_K,
    });
    const choice = choose(location.search, location.hostname);
    const routes = routesOf(choice, savedToken());
    this.transport = new EdgeTransport(session, (event) => this.onEvent(event), routes, earlierFallback());
    this.transport.onRoute = (route, why) => {
      if (routes.length > 1) rememberFallback(why);
      byId("transport-text").textContent = routeText(route, why || choice.why);
    };
    this.newest = null;
    this.feed = new Feed(this.transport, this.encoder!, this.offer, () => this.page.grab());
    this.feed.setQuality(this.controls.quality);
  }

  private forgetSession(): void {
    this.transport = null;
    this.feed?.close();
    this.feed = null;
  }

  private onEvent(event: EdgeEvent): void {
    switch (event.type) {
      case "Connected":
        this.page.live();
        this.encoder?.tell({
          type: "opened", referenceWindow: event.welcome.reference_window, referenceEpoch: event.welcome.reference_epoch,
        });
        break;
      case "Answered":
        this.encoder?.tell({ type: "answered", frame: event.answer.frame, decodedLayers: event.answer.decodedLayers });
        this.noteArrived(event.answer);
        this.page.answered(event.answer);
        break;
      case "FrameDropped":
        this.encoder?.tell({ type: "dropped", frame: event.frame, cause: event.cause });
        this.feed?.ended(event.frame);
        break;
      case "TasksNow":
        this.page.changed(event.tasks, event.error);
        break;
      case "Disconnected":
        this.status.tellTrouble(event);
        break;
      case "Closed":
        this.forgetSession();
        if (event.reason === "unauthorised") this.status.askForToken(event.detail);
        else if (event.reason === "codec") void this.connect();
        else this.status.tellEnd("Not connected.", endText(event.reason, event.detail)); // As for an edge, it is over for good.
        break;
    }
  }

  private noteArrived({ frame, decodedLayers, layers }: Answer): void {
    const rung = this.feed?.ended(frame);
    this.newest = rung ? { rung, decodedLayers, layers } : null;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
