/** Results on a channel that loses messages: each datagram repeats the last few (pipeline/transports/result_bundles.py). */

const LENGTH_BYTES = 2;
const REMEMBERED = 32;
/** No msgpack: the session calls it what it is. */
const NO_MESSAGE = Uint8Array.of(0xc1);

export class ResultReader {
  private had: Uint8Array[] = [];

  /** The messages that are new, oldest first. */
  unpack(datagram: Uint8Array): Uint8Array[] {
    const found: Uint8Array[] = [];
    for (let at = 0; at < datagram.length; ) {
      const start = at + LENGTH_BYTES;
      const size = datagram[at]! + 256 * (datagram[at + 1] ?? 0);
      if (!size || start + size > datagram.length) {
        found.push(NO_MESSAGE);
        break;
      }
      found.push(datagram.subarray(start, start + size));
      at = start + size;
    }
    const fresh = found.filter((message) => !this.had.some((one) => equal(one, message)));
    this.had = [...this.had, ...fresh].slice(-REMEMBERED);
    return fresh.reverse();
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
