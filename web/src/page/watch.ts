/** The phone page: a source, the encoder, a session, and what comes of them on the screen. */
import { fetchBundle, Unauthorised } from "../bundle/fetch";
import { monotonic } from "../clock";
import { Encoder, type Encoded } from "../encoder/encoder";
import { FrankenError } from "../errors";
import { streamUrl, WebSocketTransport } from "../transport/websocket";
import type { EdgeEvent } from "../wire/events";
import type { TaskInfo } from "../wire/messages";
import { EdgeSession } from "../wire/session";
import { savedToken, saveToken, takeFromAddress } from "./access";
import { Controls } from "./controls";
import { byId } from "./dom";
import { Rolling } from "./figures";
import { Labels } from "./labels";
import { Source, type Facing, type SourceKind } from "./source";
import { Strip } from "./strip";

const TOP_K = 3;
const DRAW_EVERY_MS = 100;
const FIGURES_EVERY_MS = 500;
const SOURCE_BUTTONS = ["use-camera", "use-sample", "use-screen"];

export class Watch {
  private readonly video = byId<HTMLVideoElement>("video");
  private readonly source = new Source(this.video);
  private readonly labels = new Labels(byId("labels"), byId("age"), byId("speech"));
  private readonly strip = new Strip();
  private readonly controls = new Controls();
  private readonly rolling = new Rolling();
  private encoder: Encoder | null = null;
  private transport: WebSocketTransport | null = null;
  private frame = -1;
  private codecId = "";
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
    byId<HTMLFormElement>("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      saveToken(byId<HTMLInputElement>("token").value);
      byId("token-form").hidden = true;
      void this.connect();
    });
    this.controls.onQuality = (point, kind) => this.encoder?.setQuality(point, kind);
    this.controls.onTasks = (tasks) => {
      this.wanted = tasks;
      this.labels.clear();
      this.transport?.call((session) => session.setTasks(tasks, TOP_K));
    };
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
    window.addEventListener("online", () => this.transport?.retryNow());
    window.setInterval(() => this.labels.grow(monotonic()), DRAW_EVERY_MS);
    window.setInterval(() => this.strip.show(this.rolling.at(monotonic()), this.transport?.session.account ?? null), FIGURES_EVERY_MS);
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
    for (const id of SOURCE_BUTTONS) byId(id).setAttribute("aria-pressed", String(id === `use-${kind}`));
    byId("flip-camera").hidden = kind !== "camera";
    byId("stop").hidden = false;
    this.video.classList.toggle("mirrored", this.source.mirrored);
    if (!this.running) {
      this.running = true;
      this.nextFrame();
    }
    if (!this.transport && this.codecId && this.encoder) this.openSession();
  }

  private stop(): void {
    this.running = false;
    this.source.stop();
    this.transport?.close();
    this.transport = null;
    this.labels.clear();
    byId("stop").hidden = true;
    for (const id of SOURCE_BUTTONS) byId(id).setAttribute("aria-pressed", "false");
    this.tell("Stopped. Choose a source to start again.", "idle");
  }

  // --- The server -------------------------------------------------------------------------------------------------

  private async connect(): Promise<void> {
    this.starting.abort();
    this.starting = new AbortController();
    this.transport?.close();
    this.transport = null;
    this.tell(`Connecting to ${location.host} …`, "busy");
    try {
      const { bundle, welcome } = await fetchBundle(savedToken(), () => this.tellNoServer(), this.starting.signal);
      this.offerTasks(welcome.tasks);
      this.codecId = welcome.codec_id;
      await this.loadEncoder(bundle);
      if (this.running) this.openSession();
      else this.tell("Ready. Choose a source.", "idle");
    } catch (error) {
      if (error instanceof Unauthorised) this.askForToken(error.message);
      else if (!this.starting.signal.aborted) this.complain(words(error));
    }
  }

  private async loadEncoder(bundle: Uint8Array): Promise<void> {
    this.tell("Loading the encoder …", "busy");
    this.encoder?.close();
    this.encoder = new Encoder();
    this.encoder.onEncoded = (encoded) => this.offer(encoded);
    this.encoder.onFailed = (frame, message) => {
      this.transport?.call((session) => session.fail(frame, "encode_failed", message));
      this.complain(`A frame could not be encoded: ${message}`);
    };
    try {
      const loaded = await this.encoder.load(bundle);
      this.controls.setEncoder(loaded);
      byId("encoder-text").textContent = `${loaded.analysis}: ${loaded.description}`;
    } catch (error) {
      this.controls.setEncoder(null);
      byId("encoder-text").textContent = "pictures are sent";
      this.complain(`${words(error)} Pictures are sent instead.`);
    }
  }

  private openSession(): void {
    const session = new EdgeSession({
      codecId: this.codecId, client: `web page, ${browserName()}`, tasks: this.wanted ?? [], topK: TOP_K,
    });
    this.frame = -1;
    this.transport = new WebSocketTransport(streamUrl(), session, (event) => this.onEvent(event), savedToken());
  }

  private onEvent(event: EdgeEvent): void {
    switch (event.type) {
      case "Connected":
        this.tell(`Live from ${location.host}`, "live");
        this.encoder?.tell({
          type: "opened", referenceWindow: event.welcome.reference_window, referenceEpoch: event.welcome.reference_epoch,
        });
        break;
      case "Answered":
        this.encoder?.tell({ type: "answered", frame: event.answer.frame, decodedLayers: event.answer.decodedLayers });
        this.rolling.add(event.answer);
        this.labels.show(event.answer);
        break;
      case "FrameDropped":
        this.encoder?.tell({ type: "dropped", frame: event.frame, cause: event.cause });
        break;
      case "TasksNow":
        if (event.error) this.complain(event.error);
        else if (this.wanted === null) this.offerTasks(event.tasks); // A task was taught, or has gone.
        break;
      case "Disconnected":
        this.tellNoServer();
        break;
      case "Closed":
        this.transport = null;
        if (event.reason === "unauthorised") this.askForToken(event.detail);
        else if (event.reason === "codec") void this.connect();
        else if (!event.clean) this.complain(`The server ended the session (${event.reason}). ${event.detail}`);
        break;
    }
  }

  private offerTasks(tasks: readonly TaskInfo[]): void {
    this.controls.setTasks(tasks, this.wanted);
    this.labels.setTasks(tasks);
  }

  private askForToken(detail: string): void {
    byId("token-form").hidden = false;
    byId("token-why").textContent = detail;
    byId<HTMLInputElement>("token").focus();
    this.tell("This server wants a token.", "trouble");
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
    const transport = this.transport;
    const encoder = this.encoder;
    if (!this.running || !transport || !encoder || this.video.readyState < 2 || transport.session.state !== "open") return;
    const capturedAt = monotonic();
    const frame = ++this.frame;
    transport.call((session) => session.capture(frame, capturedAt));
    // The encoder takes one picture at a time; without credit its work would be for nothing.
    if (encoder.busy || !transport.session.canSend(capturedAt)) {
      transport.call((session) => session.fail(frame, "superseded", "a newer frame will be encoded"));
      return;
    }
    void this.grab().then(
      (picture) => encoder.encode(frame, capturedAt, picture),
      (error) => {
        encoder.busy = false;
        transport.call((session) => session.fail(frame, "encode_failed", words(error)));
      },
    );
    encoder.busy = true;
  }

  private async grab(): Promise<VideoFrame | ImageBitmap> {
    return "VideoFrame" in window ? new VideoFrame(this.video) : createImageBitmap(this.video);
  }

  private offer({ frame, payload, marks, kind }: Encoded): void {
    this.transport?.call((session, now) => session.offer(frame, payload, marks, now, kind));
  }

  // --- The screen -------------------------------------------------------------------------------------------------

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
  }

  /** "" takes the complaint away. */
  private complain(text: string): void {
    byId("error").textContent = text;
    byId("error").hidden = !text;
  }
}

function words(error: unknown): string {
  if (error instanceof FrankenError) return error.message;
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

function browserName(): string {
  return /(Firefox|Edg|OPR|Chrome|Version)\/[\d.]+/.exec(navigator.userAgent)?.[0].replace("Version", "Safari") ?? "browser";
}
