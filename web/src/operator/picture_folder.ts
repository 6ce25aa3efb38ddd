/** A folder that was dropped or chosen, as pictures with their classes: what may be sent, and what is left aside. */

/** As pipeline/datasets reads them. */
const SUFFIXES = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"];
const SPLITS = new Set(["train", "val", "test"]);

export interface Limits {
  pictures: number;
  bytes: number;
  picture_bytes: number;
}

/** A file and where it lies, with the folder's own name in front: "birds/wren/1.jpg". */
export interface Found {
  path: string;
  file: Blob;
}

export interface Picture {
  /** `[split/]class/…/name`, as the server wants it. */
  path: string;
  file: Blob;
}

export interface PictureFolder {
  name: string;
  pictures: Picture[];
  bytes: number;
  /** Class and how many pictures, most first. */
  classes: [string, number][];
  /** What people should know: files that are left aside, classes with a single picture. */
  notes: string[];
  /** Why it cannot be taught; empty: it can. */
  error: string;
}

export function sort(found: readonly Found[], limits: Limits): PictureFolder {
  const name = found[0]?.path.split("/")[0] ?? "";
  const visible = found.filter(({ path }) => !path.split("/").some((part) => part.startsWith(".")));
  const inside = visible.map(({ path, file }) => ({ parts: path.split("/").slice(1), file }));
  const images = inside.filter(({ parts }) => SUFFIXES.some((suffix) => parts.at(-1)!.toLowerCase().endsWith(suffix)));
  const split = images.some(({ parts }) => parts.length > 2 && SPLITS.has(parts[0]!));
  const least = split ? 3 : 2;
  const labelled = images.filter(({ parts }) => parts.length >= least);
  const fitting = labelled.filter(({ file }) => file.size <= limits.picture_bytes);
  const counts = new Map<string, number>();
  const pictures = fitting.map(({ parts, file }) => {
    const label = parts[split ? 1 : 0]!;
    counts.set(label, (counts.get(label) ?? 0) + 1);
    // Deeper folders become part of the name: the class is what counts.
    const kept = [...parts.slice(0, least - 1), parts.slice(least - 1).join("_")];
    return { path: kept.join("/"), file };
  });
  const classes = [...counts].sort(([a, many], [b, more]) => more - many || a.localeCompare(b));
  const bytes = pictures.reduce((sum, { file }) => sum + file.size, 0);
  const singles = classes.filter(([, count]) => count === 1).length;
  const notes = [
    told(inside.length - images.length, "file is no picture and is left aside", "files are no pictures and are left aside"),
    told(images.length - labelled.length, "picture lies outside any class and is left aside", "pictures lie outside any class and are left aside"),
    told(labelled.length - fitting.length, `picture is larger than ${megabytes(limits.picture_bytes)} and is left aside`,
      `pictures are larger than ${megabytes(limits.picture_bytes)} and are left aside`),
    told(singles, "class has one picture: none is left to measure it with", "classes have one picture: none is left to measure them with"),
    classes.length === 1 ? `One class: the task will answer “${classes[0]![0]}” or “unknown”. A class of what it is not makes it far better.` : "",
  ].filter(Boolean);
  return { name, pictures, bytes, classes, notes, error: reason(pictures.length, bytes, limits) };
}

function reason(count: number, bytes: number, limits: Limits): string {
  if (!count) return "No pictures found. Choose a folder that has a folder for each class, with pictures in it.";
  if (count > limits.pictures) return `${count} pictures, the limit is ${limits.pictures}. Choose fewer, or use “frankenstream tasks add” on the server.`;
  if (bytes > limits.bytes) return `The pictures take ${megabytes(bytes)}, the limit is ${megabytes(limits.bytes)}. Choose fewer, or use “frankenstream tasks add” on the server.`;
  return "";
}

function told(count: number, one: string, many: string): string {
  return count > 0 ? `${count} ${count === 1 ? one : many}.` : "";
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1e6)} MB`;
}

/** Everything in a folder that was dropped; the empty list if none was. */
export async function dropped(transfer: DataTransfer): Promise<Found[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  const folders = entries.filter((entry) => entry.isDirectory);
  if (folders.length === 1) return walk(folders[0] as FileSystemDirectoryEntry, "");
  // Several folders at once are the classes themselves.
  const all: Found[] = [];
  for (const entry of folders) all.push(...(await walk(entry as FileSystemDirectoryEntry, "pictures/")));
  return all;
}

/** Everything in a folder that was chosen. */
export function chosen(files: FileList): Found[] {
  return [...files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

async function walk(folder: FileSystemDirectoryEntry, above: string): Promise<Found[]> {
  const found: Found[] = [];
  const reader = folder.createReader();
  for (;;) {
    // A hundred at a time, until there are none.
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return found;
    for (const entry of entries) {
      const path = `${above}${folder.name}/`;
      if (entry.isDirectory) found.push(...(await walk(entry as FileSystemDirectoryEntry, path)));
      else {
        const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
        found.push({ path: path + entry.name, file });
      }
    }
  }
}
