import { expect, test } from "vitest";
import { Refused } from "../src/operator/api";
import { FrameBlocks, type Frame, type Page } from "../src/operator/frame_blocks";
import { upload } from "../src/operator/lesson";
import { clockText } from "../src/operator/parts";
import { dropped, sort, type Found } from "../src/operator/picture_folder";

const LIMITS = { pictures: 10, bytes: 1_000, picture_bytes: 500 };

function found(...paths: (string | [string, number])[]): Found[] {
  return paths.map((one) => {
    const [path, size] = typeof one === "string" ? [one, 10] : one;
    return { path, file: new Blob([new Uint8Array(size)]) };
  });
}

test("a folder for each class is sorted, and what is none of it is told", () => {
  const folder = sort(found("birds/wren/1.jpg", "birds/wren/2.JPG", "birds/鳥/1.png", "birds/.DS_Store", "birds/list.txt", "birds/top.jpg", ["birds/wren/big.jpg", 501]), LIMITS);
  expect(folder.name).toBe("birds");
  expect(folder.pictures.map((picture) => picture.path)).toEqual(["wren/1.jpg", "wren/2.JPG", "鳥/1.png"]);
  expect(folder.classes).toEqual([["wren", 2], ["鳥", 1]]);
  expect(folder.bytes).toBe(30);
  expect(folder.error).toBe("");
  expect(folder.notes.join(" ")).toMatch(/1 file is no picture.*1 picture lies outside.*1 picture is larger than 0 MB.*1 class has one picture/);
});

test("train and val folders are kept apart, deeper folders become a part of the name", () => {
  const folder = sort(found("birds/train/wren/a/1.jpg", "birds/val/wren/2.jpg", "birds/train/jay/3.jpg"), LIMITS);
  expect(folder.pictures.map((picture) => picture.path)).toEqual(["train/wren/a_1.jpg", "val/wren/2.jpg", "train/jay/3.jpg"]);
  expect(folder.classes).toEqual([["wren", 2], ["jay", 1]]);
  expect(sort(found("birds/wren/deep/er/1.jpg"), LIMITS).pictures[0]!.path).toBe("wren/deep_er_1.jpg");
});

test.each([
  [["birds/notes.txt"], /No pictures found/],
  [[], /No pictures found/],
  [Array.from({ length: 11 }, (_, n) => `birds/wren/${n}.jpg`), /11 pictures, the limit is 10/],
  [Array.from({ length: 3 }, (_, n) => [`birds/wren/${n}.jpg`, 400]), /the limit is/],
] as [Parameters<typeof found>, RegExp][])("what cannot be taught says why: %#", (paths, words) => {
  expect(sort(found(...paths), LIMITS).error).toMatch(words);
});

test("one class is allowed, and told", () => {
  const folder = sort(found("mug/mug/1.jpg", "mug/mug/2.jpg"), LIMITS);
  expect(folder.error).toBe("");
  expect(folder.notes[0]).toMatch(/One class/);
});

test("pictures go up a few at a time; one that is refused is named and skipped", async () => {
  const folder = sort(found(...Array.from({ length: 9 }, (_, n) => `a/x/${n}.jpg`)), LIMITS);
  let together = 0;
  let most = 0;
  const bytes: number[] = [];
  const sent: string[] = [];
  const refused = await upload("id", folder, new AbortController().signal, (sum) => bytes.push(sum), async (_, path) => {
    most = Math.max(most, ++together);
    await Promise.resolve();
    together--;
    if (path === "x/3.jpg") throw new Refused("x/3.jpg: no", 422);
    sent.push(path);
  });
  expect(refused).toEqual(["x/3.jpg: no"]);
  expect(sent).toHaveLength(8);
  expect(most).toBe(4);
  expect(bytes.at(-1)).toBe(90);
});

test("a full disk ends the upload", async () => {
  const folder = sort(found(...Array.from({ length: 9 }, (_, n) => `a/x/${n}.jpg`)), LIMITS);
  let tries = 0;
  const failing = upload("id", folder, new AbortController().signal, () => undefined, async () => {
    tries++;
    throw new Refused("the disk is full", 507);
  });
  await expect(failing).rejects.toThrow("the disk is full");
  expect(tries).toBe(4);
});

/** A recording of ten frames a second; every fifth was dropped. */
function blocks(duration: number): { blocks: FrameBlocks; reads: [number, number][] } {
  const reads: [number, number][] = [];
  const all: Frame[] = Array.from({ length: duration * 10 }, (_, n) => ({
    frame: n, at_s: n / 10, captured_s: n / 10, state: n % 5 === 4 ? "lost" : "answered",
  }));
  const read = async (from: number, to: number): Promise<Page> => {
    reads.push([from, to]);
    const inside = all.filter((frame) => frame.at_s >= from - 1e-9 && frame.at_s < to);
    const frames = inside.slice(0, 40);
    return { frames, pictures_s: frames.filter((frame) => frame.frame % 20 === 0).map((frame) => frame.at_s), next_s: inside[40]?.at_s ?? null };
  };
  return { blocks: new FrameBlocks(read), reads };
}

test("a moment shows the newest answer, the newest frame and the newest picture", async () => {
  const { blocks: some, reads } = blocks(60);
  expect(some.known(25.45)).toBeNull();
  const moment = await some.at(25.45);
  expect([moment.answer?.frame, moment.last?.frame, moment.picture]).toEqual([253, 254, 24]);
  expect(some.known(25.45)).toEqual(moment);
  expect(reads.every(([from, to]) => from >= 10 && to <= 30)).toBe(true);
  const count = reads.length;
  await some.at(27);
  expect(reads).toHaveLength(count);
});

test("frames are stepped through, over the edges of what was read", async () => {
  const { blocks: some } = blocks(60);
  expect(await some.step(9.9, 1)).toBe(10);
  expect(await some.step(10, -1)).toBe(9.9);
  expect(await some.step(0, -1)).toBeNull();
  expect(await some.step(59.9, 1)).toBeNull();
});

test("only a few blocks are kept, and one that failed is read again", async () => {
  const { blocks: some, reads } = blocks(400);
  for (let at = 5; at < 400; at += 10) await some.at(at);
  const before = reads.length;
  await some.at(5);
  expect(reads.length).toBeGreaterThan(before);
  let fails = true;
  const failing = new FrameBlocks(async () => {
    if (fails) throw new Error("away");
    return { frames: [], pictures_s: [], next_s: null };
  });
  await expect(failing.at(1)).rejects.toThrow("away");
  fails = false;
  expect((await failing.at(1)).last).toBeNull();
});

test.each([[0, 0, "0:00"], [62.54, 1, "1:02.5"], [59.96, 1, "1:00.0"], [3_723, 0, "1:02:03"]])("%d s read as %s", (seconds, decimals, text) => {
  expect(clockText(seconds, decimals)).toBe(text);
});

/** What a browser gives for a folder that was dropped: entries a hundred at a time. */
function entry(name: string, inside?: unknown[]): unknown {
  if (!inside) return { name, isDirectory: false, file: (take: (file: Blob) => void) => take(new Blob([name])) };
  const rest = [...inside];
  return { name, isDirectory: true, createReader: () => ({ readEntries: (take: (entries: unknown[]) => void) => take(rest.splice(0, 100)) }) };
}

function transfer(...entries: unknown[]): DataTransfer {
  return { items: entries.map((one) => ({ webkitGetAsEntry: () => one })) } as unknown as DataTransfer;
}

test("a folder that is dropped is read whole, however many pictures it has", async () => {
  const many = Array.from({ length: 250 }, (_, n) => entry(`${n}.jpg`));
  const all = await dropped(transfer(entry("birds", [entry("wren", many), entry("jay", [entry("1.jpg")])])));
  expect(all).toHaveLength(251);
  expect(all[0]!.path).toBe("birds/wren/0.jpg");
  expect(sort(all, { pictures: 1000, bytes: 1e9, picture_bytes: 1e9 }).classes).toEqual([["wren", 250], ["jay", 1]]);
});

test("several folders that are dropped are the classes; files alone are none", async () => {
  const all = await dropped(transfer(entry("wren", [entry("1.jpg")]), entry("jay", [entry("1.jpg")])));
  expect(sort(all, LIMITS).pictures.map((picture) => picture.path)).toEqual(["wren/1.jpg", "jay/1.jpg"]);
  expect(await dropped(transfer(entry("1.jpg")))).toEqual([]);
});
