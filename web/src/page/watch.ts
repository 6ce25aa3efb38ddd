/** The phone page: a source, the encoder, a session, and what comes of them on the screen. */
import { askWelcome, fetchBundle, Refused, Unauthorised } from "../bundle/fetch";
import { monotonic } from "../clock";
import { Encoder } from "../encoder/encoder";
import { Loading, type OnProgress } from "../progress";
import { choose, earlierFallback, rememberFallback, routesOf, routeText } from "../transport/choice";
import { EdgeTransport } from "../transport/edge";
import type { Answer, EdgeEvent } from "../wire/events";
import type { TaskInfo } from "../wire/messages";
import { EdgeSession } from "../wire/session";
import { savedToken, saveToken, takeFromAddress } from "./access";
import { Controls } from "./controls";
import { byId } from "./dom";
import { Feed, type Offer } from "./feed";
import { Rolling } from "./figures";
import { encoderText, gpuWish, rememberGpu } from "./gpu";
import { Labels } from "./labels";
import { rateText, type Arrived } from "./rate_words";
import { Source, type Facing, type SourceKind } from "./source";
import { Strip } from "./strip";
import { Teach } from "./teach";
import { endText, words } from "./words";

const TOP_K = 3;
const DRAW_EVERY_MS = 100;
const FIGURES_EVERY_MS = 500;
/** If the encoder takes longer to load, pictures of the sample clip are sent until it is there. */
const ENCODER_PATIENCE_MS = 500;
const NOTHING_OFFERED: Offer = { points: [], defaultPoint: 0 };
const NOTHING_YET: Offer = { ...NOTHING_OFFERED, coming: true };
const SOURCE_BUTTONS = ["use-camera", "use-sample", "use-screen"];

export class Watch {
  private readonly video = byId<HTMLVideoElement>("video");
  private readonly source = new Source(this.video);
  private readonly labels = new Labels(byId("labels"), byId("age"), byId("speech"));
  private readonly strip = new Strip();
  private readonly controls = new Controls();
  private readonly rolling = new Rolling();
  private encoder: Encoder | null = null;
  private transport: EdgeTransport | null = null;
  private feed: Feed | null = null;
  private offer: Offer = NOTHING_YET;
  private newest: Arrived | null = null;
  private codecId = "";
  private offered: TaskInfo[] = [];
  /** null: all that there are. */
  private wanted: string[] | null = null;
  private facing: Facing = "environment";
  private running = false;
  private starting = new AbortController();

  constructor() {
    byId("use-camera").addEventListener("click", () => void this.open("camera"));
    byId("flip-camera").addEventListener("click", () => {
      this.facing = this.facing === "environment" ? "user" : "environment";
      void this.open("camera");
    });
    byId("use-sample").addEventListener("click", () => void this.open("sample"));
    byId("use-screen").hidden = !navigator.mediaDevices || !("getDisplayMedia" in navigator.mediaDevices);
    byId("use-screen").addEventListener("click", () => void this.open("screen"));
    const file = byId<HTMLInputElement>("use-file");
    file.addEventListener("change", () => {
      if (file.files?.[0]) void this.open("file", file.files[0]);
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("again").addEventListener("click", () => this.startAgain());
    byId<HTMLFormElement>("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      saveToken(byId<HTMLInputElement>("token").value);
      byId("token-form").hidden = true;
      void this.connect();
    });
    new Teach({
      session: () => this.taughtSession(),
      taught: (task) => this.want(task),
      removed: (task) => this.unwant(task),
    });
    this.controls.onQuality = (quality) => {
      this.feed?.setQuality(quality);
      this.tellLive();
    };
    this.controls.onTasks = (tasks) => this.setTasks(tasks);
    this.video.addEventListener("loadedmetadata", () => this.fit());
    this.video.addEventListener("resize", () => this.fit());
    this.video.addEventListener("streamlost", () => this.complain("The camera or the screen has gone. Choose a source again."));
    window.addEventListener("pagehide", () => this.transport?.close());
    window.addEventListener("pageshow", (event) => {
      if (event.persisted) location.reload();
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.transport?.retryNow(); // A page in the background runs no timers to speak of.
    });
    window.addEventListener("online", () => this.transport?.retryNow(true));
    window.setInterval(() => this.labels.grow(monotonic()), DRAW_EVERY_MS);
    window.setInterval(() => this.showFigures(), FIGURES_EVERY_MS);
  }

  /** Connects, loads the encoder and shows the sample clip, unless the address says otherwise (`?source=none`). */
  async start(): Promise<void> {
    const wish = new URLSearchParams(location.search).get("source") ?? "sample";
    const trouble = await takeFromAddress();
    if (wish === "sample" || wish === "camera") void this.open(wish);
    if (trouble) this.complain(trouble);
    await this.connect();
  }

  private async open(kind: SourceKind, file?: File): Promise<void> {
    this.complain("");
    this.labels.clear();
    this.rolling.clear();
    try {
      if (kind === "camera") await this.source.openCamera(this.facing);
      else if (kind === "sample") await this.source.openSample();
      else if (kind === "screen") await this.source.openScreen();
      else await this.source.openFile(file!);
    } catch (error) {
      this.complain(words(error));
      return;
    }
    if (this.source.showing !== kind) return; // Another one was chosen meanwhile.
    for (const id of SOURCE_BUTTONS) byId(id).setAttribute("aria-pressed", String(id === `use-${kind}`));
    byId("flip-camera").hidden = kind !== "camera";
    byId("stop").hidden = false;
    this.video.classList.toggle("mirrored", this.source.mirrored);
    if (!this.running) {
      this.running = true;
      this.nextFrame();
    }
    if (!this.transport && this.codecId && this.encoder) this.openSession();
    this.tellLive();
  }

  private stop(): void {
    this.running = false;
    this.source.stop();
    this.closeSession();
    this.labels.clear();
    byId("stop").hidden = true;
    for (const id of SOURCE_BUTTONS) byId(id).setAttribute("aria-pressed", "false");
    this.tell("Stopped. Choose a source to start again.", "idle");
  }

  // --- The server -------------------------------------------------------------------------------------------------

  /** After an end: a session anew, with the encoder that is here. */
  private startAgain(): void {
    this.complain("");
    if (!this.codecId || !this.encoder) return void this.connect();
    this.tell(`Connecting to ${location.host} …`, "busy");
    this.openSession();
  }

  private async connect(): Promise<void> {
    this.starting.abort();
    this.starting = new AbortController();
    this.closeSession();
    const { signal } = this.starting;
    this.tell(`Connecting to ${location.host} …`, "busy");
    const encoder = this.newEncoder(); // Its runtime is on its way while the server is asked.
    try {
      const welcome = await askWelcome(savedToken(), () => this.tellNoServer(), signal);
      this.offerTasks(welcome.tasks);
      this.codecId = welcome.codec_id;
      this.tell("Loading the encoder …", "busy");
      const loading = this.loadEncoder(encoder, signal);
      await Promise.race([loading, pause(ENCODER_PATIENCE_MS)]);
      if (!signal.aborted && this.running && !this.transport) this.openSession();
      await loading;
      if (!signal.aborted && !this.running) this.tell("Ready. Choose a source.", "idle");
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && error.reason === "codec") return void this.connect(); // It has another bundle now.
      this.closeSession();
      if (error instanceof Unauthorised) return this.askForToken(error.message);
      this.starting.abort();
      this.encoder?.close();
      this.encoder = null;
      this.tellShare("");
      if (error instanceof Refused) return this.tellEnd("Not connected.", endText(error.reason, error.detail));
      this.tellEnd("The encoder could not be loaded.", words(error));
    }
  }

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
      this.complain(`A frame could not be encoded: ${message}`);
    };
    return this.encoder;
  }

  /** Fetches the bundle and lets the encoder have it; where it does not run, pictures are left. Throws as `fetchBundle`. */
  private async loadEncoder(encoder: Encoder, signal: AbortSignal): Promise<void> {
    const loading = new Loading();
    const progress = (part: string): OnProgress => (loaded, total) => {
      loading.add(part, loaded, total);
      if (!signal.aborted && !this.encoderKnown) this.tellShare(loading.text);
    };
    encoder.onProgress = progress("runtime");
    const onTrouble = (): void => {
      if (!this.connected) this.tellNoServer();
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
      this.complain(`${words(error)} Pictures are sent instead.`);
    }
  }

  /** What the encoder offers; null: it does not run here. */
  private know(offer: Offer | null, text: string): void {
    this.tellShare("");
    this.offer = offer ?? NOTHING_OFFERED;
    this.feed?.setOffer(this.offer);
    this.controls.setEncoder(offer);
    byId("encoder-text").textContent = text;
    this.tellLive();
  }

  private openSession(): void {
    const session = new EdgeSession({
      codecId: this.codecId, client: `web page, ${browserName()}`, tasks: this.wanted ?? [], topK: TOP_K,
    });
    const choice = choose(location.search, location.hostname);
    const routes = routesOf(choice, savedToken());
    this.transport = new EdgeTransport(session, (event) => this.onEvent(event), routes, earlierFallback());
    this.transport.onRoute = (route, why) => {
      if (routes.length > 1) rememberFallback(why);
      byId("transport-text").textContent = routeText(route, why || choice.why);
    };
    this.newest = null;
    this.feed = new Feed(this.transport, this.encoder!, this.offer, () => this.grab());
    this.feed.setQuality(this.controls.quality);
  }

  private closeSession(): void {
    this.transport?.close();
    this.transport = null;
    this.feed?.close();
    this.feed = null;
  }

  private onEvent(event: EdgeEvent): void {
    switch (event.type) {
      case "Connected":
        this.tellLive();
        this.encoder?.tell({
          type: "opened", referenceWindow: event.welcome.reference_window, referenceEpoch: event.welcome.reference_epoch,
        });
        break;
      case "Answered":
        this.encoder?.tell({ type: "answered", frame: event.answer.frame, decodedLayers: event.answer.decodedLayers });
        this.noteArrived(event.answer);
        this.rolling.add(event.answer);
        this.labels.show(event.answer);
        break;
      case "FrameDropped":
        this.encoder?.tell({ type: "dropped", frame: event.frame, cause: event.cause });
        this.feed?.ended(event.frame);
        break;
      case "TasksNow":
        if (event.error) this.complain(event.error);
        else this.offerTasks(this.wanted === null ? event.tasks : joined(this.offered, event.tasks)); // One was taught, or has gone.
        break;
      case "Disconnected":
        this.tellNoServer();
        break;
      case "Closed":
        this.transport = null;
        this.feed?.close();
        this.feed = null;
        if (event.reason === "unauthorised") this.askForToken(event.detail);
        else if (event.reason === "codec") void this.connect();
        else this.tellEnd("Not connected.", endText(event.reason, event.detail)); // As for an edge, it is over for good.
        break;
    }
  }

  private setTasks(wanted: string[] | null): void {
    this.wanted = wanted;
    this.labels.clear();
    this.transport?.call((session) => session.setTasks(wanted ?? [], TOP_K));
  }

  private offerTasks(tasks: TaskInfo[]): void {
    if (JSON.stringify(tasks) === JSON.stringify(this.offered)) return; // The boxes keep the focus.
    this.offered = tasks;
    this.controls.setTasks(tasks, this.wanted);
    this.labels.setTasks(tasks);
  }

  // --- Teaching ---------------------------------------------------------------------------------------------------

  private taughtSession(): { id: string } | { trouble: string } {
    if (!this.running) return { trouble: "Start the camera first, or a video, so that there is something to show." };
    const session = this.transport?.session;
    if (!session || session.state !== "open" || !session.welcome) return { trouble: "There is no connection to the server yet. Wait until it is live." };
    if (!this.encoderKnown) return { trouble: "The encoder is still loading. Hold again when it is there." };
    if (this.controls.quality.kind === "jpeg") return { trouble: "It learns from features, and pictures are being sent: untick “Send pictures” first." };
    return { id: session.welcome.session };
  }

  private want(task: string): void {
    if (this.wanted && !this.wanted.includes(task)) this.setTasks([...this.wanted, task]);
  }

  private unwant(task: string): void {
    if (!this.wanted) return;
    const rest = this.wanted.filter((one) => one !== task);
    this.setTasks(rest.length ? rest : null);
    this.offerTasks(this.offered.filter(({ name }) => name !== task));
  }

  private askForToken(detail: string): void {
    byId("token-form").hidden = false;
    byId("token-why").textContent = detail;
    byId<HTMLInputElement>("token").focus();
    this.tell("This server wants a token.", "trouble");
  }

  /** Once there is a connection: what goes over it. */
  private tellLive(): void {
    if (!this.connected) return;
    if (this.encoderKnown) this.tell(`Live from ${location.host}`, "live");
    else if (this.mayTake) this.tell(`Live with pictures${this.source.showing === "sample" ? " of the sample clip" : ""} while the encoder loads …`, "live");
    else this.tell("Loading the encoder …", "busy");
  }

  private tellNoServer(): void {
    this.tell(navigator.onLine ? `No answer from ${location.host}. Trying again …` : "No network. Waiting for it …", "trouble");
  }

  // --- Frames -----------------------------------------------------------------------------------------------------

  private nextFrame(): void {
    if (!this.running) return;
    if ("requestVideoFrameCallback" in this.video) this.video.requestVideoFrameCallback(() => this.takeFrame());
    else requestAnimationFrame(() => this.takeFrame());
  }

  private takeFrame(): void {
    this.nextFrame();
    if (this.running && this.mayTake && this.video.readyState >= 2 && this.connected) this.feed?.take();
  }

  private get connected(): boolean {
    return this.transport?.session.state === "open";
  }

  /** It has been loaded, or given up. */
  private get encoderKnown(): boolean {
    return !this.offer.coming;
  }

  /** Nobody's camera or screen leaves the device as pictures, unless that is asked for or the encoder does not run. */
  private get mayTake(): boolean {
    return this.encoderKnown || this.source.showing === "sample" || this.controls.quality.kind === "jpeg";
  }

  private async grab(): Promise<VideoFrame | ImageBitmap> {
    return "VideoFrame" in window ? new VideoFrame(this.video) : createImageBitmap(this.video);
  }

  private noteArrived({ frame, decodedLayers, layers }: Answer): void {
    const rung = this.feed?.ended(frame);
    this.newest = rung ? { rung, decodedLayers, layers } : null;
  }

  // --- The screen -------------------------------------------------------------------------------------------------

  private showFigures(): void {
    const now = monotonic();
    const choice = this.feed?.choice(now);
    const { pinned } = this.controls.quality;
    if (choice) this.controls.follow(choice.rung.point);
    const words = choice ? rateText(choice, pinned !== null, this.newest) : "";
    this.strip.show(this.rolling.at(now), this.transport?.session.account ?? null, words);
  }

  /** The stage takes the video's shape, and marks the square that the encoder sees. */
  private fit(): void {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width || !height) return;
    const stage = byId("stage");
    stage.style.setProperty("--aspect", String(width / height));
    stage.classList.toggle("portrait", height > width);
  }

  private tell(text: string, mood: "idle" | "busy" | "live" | "trouble"): void {
    const status = byId("status");
    if (status.textContent !== text) status.textContent = text;
    status.dataset.mood = mood;
    byId("again").hidden = true;
  }

  /** It does not go on by itself: why, and a button to start again. */
  private tellEnd(text: string, why: string): void {
    this.tell(text, "trouble");
    this.complain(why);
    byId("again").hidden = false;
  }

  /** How much of the encoder is here, behind the status: style.css shows it, and no screen reader is told of every percent. */
  private tellShare(text: string): void {
    byId("status").dataset.share = text;
    if (text) byId("encoder-text").textContent = `loading, ${text}`;
  }

  /** "" takes the complaint away. */
  private complain(text: string): void {
    byId("error").textContent = text;
    byId("error").hidden = !text;
  }
}

/** `offered` as far as `told` says nothing newer of them, then what is new. */
function joined(offered: readonly TaskInfo[], told: readonly TaskInfo[]): TaskInfo[] {
  const newer = new Map(told.map((task) => [task.name, task]));
  const known = offered.map((task) => newer.get(task.name) ?? task);
  return [...known, ...told.filter(({ name }) => !offered.some((task) => task.name === name))];
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function browserName(): string {
  return /(Firefox|Edg|OPR|Chrome|Version)\/[\d.]+/.exec(navigator.userAgent)?.[0].replace("Version", "Safari") ?? "browser";
}
