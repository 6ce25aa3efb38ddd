/** The phone page: a source, the link over which its frames go, and what comes of them on the screen. */
import { monotonic } from "../clock";
import type { Picture } from "../encoder/protocol";
import type { Answer } from "../wire/events";
import type { TaskInfo } from "../wire/messages";
import { takeFromAddress } from "./access";
import { Controls } from "./controls";
import { byId } from "./dom";
import { Rolling } from "./figures";
import { Labels } from "./labels";
import { Link } from "./link";
import { rateText } from "./rate_words";
import { Source, type Facing, type SourceKind } from "./source";
import { Status } from "./status";
import { Strip } from "./strip";
import { Teach } from "./teach";
import { words } from "./words";

const DRAW_EVERY_MS = 100;
const FIGURES_EVERY_MS = 500;
const SOURCE_BUTTONS = ["use-camera", "use-sample", "use-screen"];

export class Watch {
  private readonly video = byId<HTMLVideoElement>("video");
  private readonly source = new Source(this.video);
  private readonly status = new Status();
  private readonly labels = new Labels(byId("labels"), byId("age"), byId("speech"));
  private readonly strip = new Strip();
  private readonly controls = new Controls();
  private readonly rolling = new Rolling();
  private readonly link = new Link(this.status, this.controls, {
    running: () => this.running,
    tasks: () => this.wanted ?? [],
    grab: () => this.grab(),
    offered: (tasks) => this.offerTasks(tasks),
    changed: (tasks, error) => this.tasksChanged(tasks, error),
    answered: (answer) => this.show(answer),
    live: () => this.tellLive(),
  });
  private offered: TaskInfo[] = [];
  /** null: all that there are. */
  private wanted: string[] | null = null;
  private facing: Facing = "environment";
  private running = false;

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
    this.status.onAgain = () => this.link.startAgain();
    this.status.onToken = () => void this.link.connect();
    new Teach({
      session: () => this.taughtSession(),
      taught: (task) => this.want(task),
      removed: (task) => this.unwant(task),
    });
    this.controls.onQuality = (quality) => {
      this.link.setQuality(quality);
      this.tellLive();
    };
    this.controls.onTasks = (tasks) => this.setTasks(tasks);
    this.video.addEventListener("loadedmetadata", () => this.fit());
    this.video.addEventListener("resize", () => this.fit());
    this.video.addEventListener("streamlost", () => this.status.complain("The camera or the screen has gone. Choose a source again."));
    window.setInterval(() => this.labels.grow(monotonic()), DRAW_EVERY_MS);
    window.setInterval(() => this.showFigures(), FIGURES_EVERY_MS);
  }

  /** Connects, loads the encoder and shows the sample clip, unless the address says otherwise (`?source=none`). */
  async start(): Promise<void> {
    const wish = new URLSearchParams(location.search).get("source") ?? "sample";
    const trouble = await takeFromAddress();
    if (wish === "sample" || wish === "camera") void this.open(wish);
    if (trouble) this.status.complain(trouble);
    await this.link.connect();
  }

  // --- The source -------------------------------------------------------------------------------------------------

  private async open(kind: SourceKind, file?: File): Promise<void> {
    this.status.complain("");
    this.labels.clear();
    this.rolling.clear();
    try {
      if (kind === "camera") await this.source.openCamera(this.facing);
      else if (kind === "sample") await this.source.openSample();
      else if (kind === "screen") await this.source.openScreen();
      else await this.source.openFile(file!);
    } catch (error) {
      this.status.complain(words(error));
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
    this.link.openFor();
    this.tellLive();
  }

  private stop(): void {
    this.running = false;
    this.source.stop();
    this.link.closeSession();
    this.labels.clear();
    byId("stop").hidden = true;
    for (const id of SOURCE_BUTTONS) byId(id).setAttribute("aria-pressed", "false");
    this.status.tell("Stopped. Choose a source to start again.", "idle");
  }

  private nextFrame(): void {
    if (!this.running) return;
    if ("requestVideoFrameCallback" in this.video) this.video.requestVideoFrameCallback(() => this.takeFrame());
    else requestAnimationFrame(() => this.takeFrame());
  }

  private takeFrame(): void {
    this.nextFrame();
    if (this.running && this.mayTake && this.video.readyState >= 2) this.link.take();
  }

  /** Nobody's camera or screen leaves the device as pictures, unless that is asked for or the encoder does not run. */
  private get mayTake(): boolean {
    return this.link.encoderKnown || this.source.showing === "sample" || this.controls.quality.kind === "jpeg";
  }

  private async grab(): Promise<Picture> {
    return "VideoFrame" in window ? new VideoFrame(this.video) : createImageBitmap(this.video);
  }

  // --- Tasks ------------------------------------------------------------------------------------------------------

  private setTasks(wanted: string[] | null): void {
    this.wanted = wanted;
    this.labels.clear();
    this.link.setTasks(wanted ?? []);
  }

  private offerTasks(tasks: TaskInfo[]): void {
    if (JSON.stringify(tasks) === JSON.stringify(this.offered)) return; // The boxes keep the focus.
    this.offered = tasks;
    this.controls.setTasks(tasks, this.wanted);
    this.labels.setTasks(tasks);
  }

  private tasksChanged(tasks: TaskInfo[], error: string): void {
    if (error) this.status.complain(error);
    else this.offerTasks(this.wanted === null ? tasks : joined(this.offered, tasks)); // One was taught, or has gone.
  }

  private taughtSession(): { id: string } | { trouble: string } {
    if (!this.running) return { trouble: "Start the camera first, or a video, so that there is something to show." };
    const { session } = this.link;
    if (session?.state !== "open" || !session.welcome) return { trouble: "There is no connection to the server yet. Wait until it is live." };
    if (!this.link.encoderKnown) return { trouble: "The encoder is still loading. Hold again when it is there." };
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

  // --- The screen -------------------------------------------------------------------------------------------------

  private show(answer: Answer): void {
    this.rolling.add(answer);
    this.labels.show(answer);
  }

  /** Once there is a connection: what goes over it. */
  private tellLive(): void {
    if (!this.link.connected) return;
    if (this.link.encoderKnown) this.status.tell(`Live from ${location.host}`, "live");
    else if (this.mayTake) this.status.tell(`Live with pictures${this.source.showing === "sample" ? " of the sample clip" : ""} while the encoder loads …`, "live");
    else this.status.tell("Loading the encoder …", "busy");
  }

  private showFigures(): void {
    const now = monotonic();
    const choice = this.link.choice(now);
    const { pinned } = this.controls.quality;
    if (choice) this.controls.follow(choice.rung.point);
    const text = choice ? rateText(choice, pinned !== null, this.link.newest) : "";
    this.strip.show(this.rolling.at(now), this.link.session?.account ?? null, text);
  }

  /** The stage takes the video's shape, and marks the square that the encoder sees. */
  private fit(): void {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width || !height) return;
    const stage = byId("stage");
    stage.style.setProperty("--aspect", String(width / height));
    stage.classList.toggle("portrait", height > width);
  }
}

/** `offered` as far as `told` says nothing newer of them, then what is new. */
function joined(offered: readonly TaskInfo[], told: readonly TaskInfo[]): TaskInfo[] {
  const newer = new Map(told.map((task) => [task.name, task]));
  const known = offered.map((task) => newer.get(task.name) ?? task);
  return [...known, ...told.filter(({ name }) => !offered.some((task) => task.name === name))];
}
