/** What the server's clock says, and when to ask (pipeline/wire/clock_offset.py). All times are seconds. */
import { CLOCK_WINDOW_MS, PING_INTERVAL_AT_CONNECT_MS, PING_INTERVAL_MS, PINGS_AT_CONNECT } from "../limits";

interface Sample {
  takenAt: number;
  /** The server's clock minus ours. */
  offset: number;
  roundTrip: number;
}

/** The sample of least round trip of the last 30 s counts. */
export class ClockOffset {
  /** Round trips rise from left to right; the left one is the best. */
  private samples: Sample[] = [];

  reset(): void {
    this.samples = [];
  }

  add(sentAt: number, receivedAt: number, repliedAt: number, now: number): void {
    const roundTrip = Math.max(0, now - sentAt - Math.max(0, repliedAt - receivedAt));
    const offset = (receivedAt - sentAt + (repliedAt - now)) / 2;
    while (this.samples.length && this.samples.at(-1)!.roundTrip >= roundTrip) this.samples.pop();
    this.samples.push({ takenAt: now, offset, roundTrip });
    while (this.samples[0]!.takenAt < now - CLOCK_WINDOW_MS / 1000) this.samples.shift();
  }

  get offset(): number | null {
    return this.samples[0]?.offset ?? null;
  }

  /** Estimated time of a small message in one direction; 0 while unknown. */
  get oneWay(): number {
    return (this.samples[0]?.roundTrip ?? 0) / 2;
  }
}

/** 8 pings in quick succession after connecting, then one a second. */
export class PingSchedule {
  nextAt = Infinity;
  private quickLeft = 0;
  private number = 0;
  private readonly outstanding = new Map<number, number>();

  start(now: number): void {
    this.quickLeft = PINGS_AT_CONNECT;
    this.nextAt = now;
  }

  stop(): void {
    this.nextAt = Infinity;
    this.outstanding.clear();
  }

  /** Whether a ping is due; if so, the next one is scheduled. */
  due(now: number): boolean {
    if (now < this.nextAt) return false;
    this.quickLeft = Math.max(0, this.quickLeft - 1);
    this.nextAt = now + (this.quickLeft ? PING_INTERVAL_AT_CONNECT_MS : PING_INTERVAL_MS) / 1000;
    return true;
  }

  /** A ping leaves now; returns its number. */
  sent(now: number): number {
    this.outstanding.set(++this.number, now);
    if (this.outstanding.size > 64) this.outstanding.delete(this.outstanding.keys().next().value!);
    return this.number;
  }

  /** When the ping was sent, or undefined if it is not out. */
  answered(ping: number): number | undefined {
    const sentAt = this.outstanding.get(ping);
    this.outstanding.delete(ping);
    return sentAt;
  }
}
