/** Where pictures come from: a camera, the screen, the sample clip, or a video of the user's. */
import { InputError } from "../errors";

export type SourceKind = "camera" | "sample" | "screen" | "file";
export type Facing = "environment" | "user";

const SAMPLE = "samples/tour.mp4";
const CAMERA_WIDTH = 640;
const CAMERA_HEIGHT = 480;

/** Points `video` at a source. `stop()` lets the camera go. Throws InputError, in words for the user. */
export class Source {
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
    try {
      const stream = navigator.mediaDevices.getUserMedia({
        audio: false,
        video: { facingMode: facing, width: { ideal: CAMERA_WIDTH }, height: { ideal: CAMERA_HEIGHT }, frameRate: { ideal: 30 } },
      });
      if (!(await this.take(stream))) return;
    } catch (error) {
      throw cameraError(error);
    }
    await this.playStream("The camera");
  }

  /** The user chooses what is shown. */
  async openScreen(): Promise<void> {
    this.stop();
    try {
      if (!(await this.take(navigator.mediaDevices.getDisplayMedia({ audio: false, video: { frameRate: { ideal: 15 } } })))) return;
    } catch (error) {
      throw new InputError(`The screen is not shared (${error instanceof DOMException ? error.name : String(error)}). Choose a source again.`);
    }
    await this.playStream("The screen");
  }

  async openSample(): Promise<void> {
    await this.openUrl(SAMPLE, "The sample clip");
  }

  async openFile(file: File): Promise<void> {
    if (!file.type.startsWith("video/")) throw new InputError(`${file.name} is no video. Choose an MP4 or WebM file.`);
    const url = URL.createObjectURL(file);
    await this.openUrl(url, file.name);
    this.objectUrl = url;
  }

  stop(): void {
    this.turn++;
    this.video.pause();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.video.srcObject = null;
    this.video.removeAttribute("src");
    if (this.objectUrl) URL.revokeObjectURL(this.objectUrl);
    this.objectUrl = "";
  }

  /** Takes what was asked for; false, and lets it go, if it comes when something else is wanted. */
  private async take(asked: Promise<MediaStream>): Promise<boolean> {
    const { turn } = this;
    const stream = await asked;
    if (turn === this.turn) this.stream = stream;
    else stream.getTracks().forEach((track) => track.stop());
    return turn === this.turn;
  }

  private async playStream(name: string): Promise<void> {
    this.stream!.getVideoTracks()[0]?.addEventListener("ended", () => this.video.dispatchEvent(new Event("streamlost")));
    this.video.srcObject = this.stream;
    await this.play(name);
  }

  private async openUrl(url: string, name: string): Promise<void> {
    this.stop();
    this.video.loop = true;
    this.video.src = url;
    await this.play(name);
  }

  private async play(name: string): Promise<void> {
    try {
      await this.video.play();
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return; // Another source was chosen meanwhile.
      if (error instanceof DOMException && error.name === "NotAllowedError") throw new InputError(`${name} waits for a tap: choose it again.`);
      throw new InputError(
        this.video.src.startsWith("blob:")
          ? `This browser cannot play ${name}. Try another video (MP4, H.264).`
          : `${name} did not load. Is the server still there?`,
      );
    }
  }
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
