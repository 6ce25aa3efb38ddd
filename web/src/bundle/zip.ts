/** Reads a .zip whose files are stored, not compressed: what `pack_edge` makes (pipeline/bundle/files.py). */
import { BundleError } from "../errors";

const LOCAL_FILE = 0x04034b50;
const STORED = 0;

/** Files by path. Throws BundleError. */
export function readZip(bytes: Uint8Array): Map<string, Uint8Array> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const files = new Map<string, Uint8Array>();
  let at = 0;
  while (at + 30 <= bytes.length && view.getUint32(at, true) === LOCAL_FILE) {
    const method = view.getUint16(at + 8, true);
    const size = view.getUint32(at + 18, true);
    const pathEnd = at + 30 + view.getUint16(at + 26, true);
    const start = pathEnd + view.getUint16(at + 28, true);
    const path = new TextDecoder().decode(bytes.subarray(at + 30, pathEnd));
    if (method !== STORED || start + size > bytes.length) {
      throw new BundleError(`bundle archive is damaged at ${path}: reload the page`);
    }
    files.set(path, bytes.subarray(start, start + size));
    at = start + size;
  }
  if (!files.size) throw new BundleError(`${bytes.length} bytes are no bundle archive: reload the page`);
  return files;
}
