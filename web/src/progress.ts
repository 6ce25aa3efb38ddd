/** How far downloads are. */

/** Hears of bytes that have come; `total` 0: nobody said how many there are. */
export type OnProgress = (loaded: number, total: number) => void;

export class Loading {
  private readonly parts = new Map<string, { loaded: number; total: number }>();
  private most = 0;

  /** A part has so many bytes of so many; `total` 0: not known. */
  add(part: string, loaded: number, total: number): void {
    this.parts.set(part, { loaded, total });
  }

  /** "40 %" of all parts together, never less than before; "" as long as the size of one is not known. */
  get text(): string {
    const parts = [...this.parts.values()];
    if (!parts.length || parts.some(({ total }) => !total)) return "";
    const sum = (of: "loaded" | "total"): number => parts.reduce((bytes, part) => bytes + part[of], 0);
    this.most = Math.max(this.most, Math.min(1, sum("loaded") / sum("total")));
    return `${Math.floor(100 * this.most)} %`;
  }
}
