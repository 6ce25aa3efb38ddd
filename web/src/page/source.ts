/** Where pictures come from: a camera, the screen, the sample clip, or a video of the user's. */
import { InputError } from "../errors";

export type SourceKind = "camera" | "sample" | "screen" | "file";
export type Facing = "environment" | "user";

const SAMPLE = "samples/tour.mp4";
const CAMERA_WIDTH = 640;
const CAMERA_HEIGHT = 480;

/**
 * Points `video` at a source. `stop()` lets the camera go. Throws InputError, in words for the user; one that another
 * choice has overtaken, at whatever point, ends without a word and touches nothing.
 */
export class Source {
  /** What the video shows; null while that changes. */
  showing: SourceKind | null = null;
  private stream: MediaStream | null = null;
  private objectUrl = "";
  /** Counts what was opened and stopped: a permission that is given late belongs to a source that nobody wants any more. */
  private turn = 0;

  constructor(readonly video: HTMLVideoElement) {}

  get mirrored(): boolean {
    return this.stream?.getVideoTracks()[0]?.getSettings().facingMode === "user";
  }

  async openCamera(facing: Facing): Promise<void> {
    this.stop();
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new InputError(
        window.isSecureContext
          ? "This browser gives pages no camera. Take the sample or a video instead."
          : "A camera needs HTTPS. Open this page with https:// (the server says how), or take the sample or a video.",
      );
    }
    const asked = navigator.mediaDevices.getUserMedia({
      audio: false,
      video: { facingMode: facing, width: { ideal: CAMERA_WIDTH }, height: { ideal: CAMERA_HEIGHT }, frameRate: { ideal: 30 } },
    });
    await this.openStream("camera", "The camera", asked, cameraError);
  }

  /** The user chooses what is shown. */
  async openScreen(): Promise<void> {
    this.stop();
    const asked = navigator.mediaDevices.getDisplayMedia({ audio: false, video: { frameRate: { ideal: 15 } } });
    await this.openStream("screen", "The screen", asked, screenError);
  }

  async openSample(): Promise<void> {
    await this.openUrl("sample", SAMPLE, "The sample clip");
  }

  async openFile(file: File): Promise<void> {
    if (!file.type.startsWith("video/")) throw new InputError(`${file.name} is no video. Choose an MP4 or WebM file.`);
    const url = URL.createObjectURL(file);
    await this.openUrl("file", url, file.name);
    this.objectUrl = url;
  }

  stop(): void {
    this.turn++;
    this.showing = null;
    this.video.pause();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.video.srcObject = null;
    this.video.removeAttribute("src");
    if (this.objectUrl) URL.revokeObjectURL(this.objectUrl);
    this.objectUrl = "";
  }

  private async openStream(
    kind: SourceKind, name: string, asked: Promise<MediaStream>, inWords: (error: unknown) => InputError,
  ): Promise<void> {
    const { turn } = this;
    let stream: MediaStream;
    try {
      stream = await asked;
    } catch (error) {
      if (turn !== this.turn) return;
      throw inWords(error);
    }
    if (turn !== this.turn) {
      stream.getTracks().forEach((track) => track.stop());
      return;
    }
    this.stream = stream;
    stream.getVideoTracks()[0]?.addEventListener("ended", () => this.video.dispatchEvent(new Event("streamlost")));
    this.video.srcObject = stream;
    await this.play(kind, name);
  }

  private async openUrl(kind: SourceKind, url: string, name: string): Promise<void> {
    this.stop();
    this.video.loop = true;
    this.video.src = url;
    await this.play(kind, name);
  }

  private async play(kind: SourceKind, name: string): Promise<void> {
    const { turn } = this;
    try {
      await this.video.play();
      if (turn === this.turn) this.showing = kind;
    } catch (error) {
      if (turn !== this.turn) return;
      if (error instanceof DOMException && error.name === "NotAllowedError") throw new InputError(`${name} waits for a tap: choose it again.`);
      throw new InputError(
        this.video.src.startsWith("blob:")
          ? `This browser cannot play ${name}. Try another video (MP4, H.264).`
          : `${name} did not load. Is the server still there?`,
      );
    }
  }
}

function screenError(error: unknown): InputError {
  return new InputError(`The screen is not shared (${error instanceof DOMException ? error.name : String(error)}). Choose a source again.`);
}

function cameraError(error: unknown): InputError {
  const name = error instanceof DOMException ? error.name : "";
  switch (name) {
    case "NotAllowedError":
      return new InputError("The camera is not allowed for this page. Allow it in the browser's address bar, then tap Camera again.");
    case "NotFoundError":
    case "OverconstrainedError":
      return new InputError("No camera was found. Take the sample or a video instead.");
    case "NotReadableError":
      return new InputError("The camera is in use by another program. Close that, then tap Camera again.");
    default:
      return new InputError(`The camera did not start (${name || String(error)}). Take the sample or a video instead.`);
  }
}
