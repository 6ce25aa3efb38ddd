/** Frames of a recording, ten seconds at a time, read when they are looked at; a few blocks are kept. */

const BLOCK_S = 10;
const BLOCKS_KEPT = 12;
/** Pages of one block, at most: 2,000 frames. */
const PAGES_MAX = 4;
export const PAGE_FRAMES = 500;
/** How old an answer may be that is shown for a moment, in seconds. */
const ANSWER_S = 10;
const PICTURE_S = 10;

export interface Label {
  index: number;
  name: string;
  score: number;
}

/** As analytics_server/recording_routes.py tells it; what is empty is left out. */
export interface Frame {
  frame: number;
  at_s: number;
  captured_s: number;
  state: string;
  detail?: string;
  payload_bytes?: number;
  layers?: number;
  decoded_layers?: number;
  batch?: number;
  media_time?: number;
  tasks?: { task: string; labels: Label[]; error?: string }[];
  stages_ms?: Record<string, number>;
  total_ms?: number;
}

export interface Page {
  frames: Frame[];
  pictures_s: number[];
  next_s: number | null;
}

interface Block {
  frames: Frame[];
  pictures: number[];
}

export type ReadPage = (from: number, to: number) => Promise<Page>;

/** What a moment shows. */
export interface Moment {
  /** The newest frame that was answered. */
  answer: Frame | null;
  /** The newest frame that ended, whatever became of it. */
  last: Frame | null;
  /** When the newest picture was taken. */
  picture: number | null;
}

export class FrameBlocks {
  private readonly blocks = new Map<number, Promise<Block>>();
  private readonly there = new Map<number, Block>();

  constructor(private readonly read: ReadPage) {}

  /** What is at `at`, from what was read already; null: it has to be read. */
  known(at: number): Moment | null {
    const own = this.there.get(number(at));
    const before = number(at) > 0 ? this.there.get(number(at) - 1) : { frames: [], pictures: [] };
    return own && before ? moment([before, own], at) : null;
  }

  /** What is at `at`. */
  async at(at: number): Promise<Moment> {
    const place = number(at);
    const blocks = await Promise.all(place > 0 ? [this.block(place - 1), this.block(place)] : [this.block(place)]);
    return moment(blocks, at);
  }

  /** When the frame before (-1) or after (+1) the one at `at` ended. */
  async step(at: number, by: 1 | -1): Promise<number | null> {
    const places = by > 0 ? [number(at), number(at) + 1] : [number(at) - 1, number(at)];
    const blocks = await Promise.all(places.filter((place) => place >= 0).map((place) => this.block(place)));
    const times = blocks.flatMap((block) => block.frames.map((frame) => frame.at_s));
    const tiny = 1e-6;
    return (by > 0 ? times.find((time) => time > at + tiny) : times.findLast((time) => time < at - tiny)) ?? null;
  }

  private block(place: number): Promise<Block> {
    const known = this.blocks.get(place);
    if (known) return known;
    const reading = this.readBlock(place);
    this.blocks.set(place, reading);
    reading.then((block) => this.there.set(place, block), () => this.blocks.delete(place));
    for (const old of this.blocks.keys()) {
      if (this.blocks.size <= BLOCKS_KEPT) break;
      this.blocks.delete(old);
      this.there.delete(old);
    }
    return reading;
  }

  private async readBlock(place: number): Promise<Block> {
    const block: Block = { frames: [], pictures: [] };
    let from: number | null = place * BLOCK_S;
    for (let count = 0; count < PAGES_MAX && from !== null; count++) {
      const page: Page = await this.read(from, (place + 1) * BLOCK_S);
      block.frames.push(...page.frames);
      block.pictures.push(...page.pictures_s);
      from = page.next_s;
    }
    return block;
  }
}

function number(at: number): number {
  return Math.max(0, Math.floor(at / BLOCK_S));
}

function moment(blocks: readonly Block[], at: number): Moment {
  const tiny = 1e-6; // A frame that was asked for by its own time is there.
  const frames = blocks.flatMap((block) => block.frames).filter((frame) => frame.at_s <= at + tiny && frame.at_s > at - ANSWER_S);
  const pictures = blocks.flatMap((block) => block.pictures).filter((time) => time <= at + tiny && time > at - PICTURE_S);
  return {
    answer: frames.findLast((frame) => frame.state === "answered" || frame.state === "unchanged") ?? null,
    last: frames.at(-1) ?? null,
    picture: pictures.at(-1) ?? null,
  };
}
