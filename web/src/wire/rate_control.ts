/**
 * Rate control: from what was sent and acknowledged to what is encoded next, and when it is sent. Pure, no timers. This is
 * pipeline/rate_control again, where the control law is written down: same constants, same decisions, to the last bit
 * (tests/golden/rate_control). Times are monotonic seconds, sizes bytes, rates bytes a second.
 */
import { LeastDelay, median } from "./least_delay";
import { byBytes, type Rung } from "./rungs";

/** Share of the estimated rate that a higher rung may use. */
const FILL = 0.8;
/** Share of the estimated rate beyond which the rung is too high. */
const OVERFULL = 0.98;
/** Share of the budget that the link may spend on one frame. */
const AGE_SHARE_MAX = 0.4;
/** Frames that the estimate is the median of, and how long they count. */
const SAMPLES = 7;
const SAMPLE_S_MAX = 2;
/** Answers before the first choice, and after a rise before the next. */
const START_SAMPLES = 4;
/** How long a higher rung must fit before it is taken. */
const HOLD_S = 0.35;
const HOLD_S_MAX = 8;
/** A rung that is given up within this after it was taken was a mistake: the hold doubles. */
const REGRET_S = 3;
/** An answer may be this late besides what was seen of its scatter. */
const SLACK_S = 0.03;
/** First and largest gap between probes of a link that stands still. */
const PROBE_S = 0.2;
const PROBE_S_MAX = 0.4;
/** A flight without answer for this long is forgotten. */
const GONE_S = 2;
/** How long before the link is free the next frame may leave, at most. */
const LEAD_S_MAX = 0.02;
/** Shorter services cannot be told from scatter. */
const SERVICE_S_MIN = 0.0005;
/** Share of the frame rate that a rung may cost where the server's credit makes frames wait for each other. */
const SERIAL_SHARE_MAX = 0.1;
const LOSS_SMOOTHING = 0.03;
/** Where frames go in parts: share of frames that a rung may fail beyond the lowest one. */
const FAILURE_MAX = 0.08;

/** What the controller wants now. `fps` is the frame rate that the link takes of it, `kbps` the estimated rate. */
export interface RateChoice {
  /** Index into the ladder, and what lies there. */
  index: number;
  rung: Rung;
  fps: number;
  /** null: not known yet. */
  kbps: number | null;
}

interface Flight {
  size: number;
  firstBytes: number;
  sentAt: number;
  leftAt: number;
  dueAt: number;
}

interface Schedule {
  /** When the link takes a frame, when one answer is overdue, when two are, and when the link is probed then. */
  openAt: number;
  dueAt: number;
  secondAt: number;
  probeAt: number;
}

/** Chooses for one stream. `budget` is the age at which an answer is no longer wanted. */
export class RateControl {
  /** By bytes, smallest first. */
  ladder: readonly Rung[];
  /** Smoothed share of frames that got lost, or of which too little arrived. */
  loss = 0;
  /** Frames go in parts of so many bytes; 0: whole. */
  partBytes = 0;
  choice: RateChoice;

  private lowest: RateChoice;
  private index = 0;
  /** Share of frames that used the last credit there was. */
  private starved = 0;
  private probe = PROBE_S;
  private credit = 1;
  /** When `fpsMax` allows the next frame; late ones do not slow the rhythm. */
  private slotAt = -Infinity;
  /** Bytes on the wire over the rung's `bytesMean`: references make it small. */
  private growth = 1;
  private readonly flights = new Map<number, Flight>();
  private schedule: Schedule = { openAt: -Infinity, dueAt: Infinity, secondAt: Infinity, probeAt: -Infinity };

  // What is known of the path.
  private least = new LeastDelay();
  private jitter = 0;
  /** What a flight takes besides the bottleneck, and how that scatters. */
  private rest = 0.2;
  private restScatter = 0.05;
  private samples: { at: number; rate: number }[] = [];
  private rate: number | null = null;
  /** Samples before the rung may fall. */
  private needed = START_SAMPLES;
  private freeAt = -Infinity;
  private lastLeft = -Infinity;
  private lastSentAt = -Infinity;
  private rhythm = 0;
  private fitsSince: number | null = null;
  private hold = HOLD_S;
  private risenAt = -Infinity;
  private fallenAt = -Infinity;

  /** `ladder` in any order; `fpsMax`: what the source gives. */
  constructor(ladder: readonly Rung[], public fpsMax = 30, private readonly budget = 0.5) {
    this.ladder = byBytes(ladder);
    this.choice = this.lowest = this.chosen();
  }

  /** The user pins a point or lets go of it: what is known of the link stays, and the point too if it may. */
  climb(ladder: readonly Rung[]): void {
    const { point } = this.ladder[this.index]!;
    this.ladder = byBytes(ladder);
    this.index = Math.max(0, this.ladder.findIndex((rung) => rung.point === point));
    this.lowest = { index: 0, rung: this.ladder[0]!, fps: this.fpsMax, kbps: null };
    this.samples = [];
    this.needed = START_SAMPLES;
    this.fitsSince = null;
    this.choice = this.chosen();
    this.plan();
  }

  // --- From the session -------------------------------------------------------------------------------------------

  /** Another connection: another way, and nothing is known of it. */
  opened(): void {
    this.flights.clear();
    this.forgetPath();
    this.take(0);
    this.plan();
  }

  /** A small message took this long one way; `receivedAt` is on the server's clock. */
  pinged(sentAt: number, receivedAt: number, now: number): void {
    const delay = receivedAt - sentAt;
    this.least.add(delay, now);
    this.jitter += 0.1 * (delay - this.least.value! - this.jitter);
  }

  /** `frame` left with `size` bytes on the wire, the first message of it with `firstBytes` (0: all). */
  sent(frame: number, size: number, now: number, firstBytes = 0): void {
    this.noteRhythm(now);
    this.starved += 0.1 * (Number(this.credit <= 1) - this.starved);
    this.growth += 0.2 * (size / Math.max(1, this.ladder[this.index]!.bytesMean) - this.growth);
    this.lastSentAt = now;
    const interval = 1 / this.fpsMax;
    this.slotAt = Math.max(this.slotAt, now - 0.5 * interval) + interval;
    this.flights.set(frame, { size, firstBytes: firstBytes || size, sentAt: now, leftAt: now, dueAt: Infinity });
    this.predict();
    if (this.schedule.dueAt < now) {
      this.probe = Math.min(this.probe * 2, PROBE_S_MAX);
      this.plan();
    }
  }

  /** An answer to `frame` came; the server had the frame at `receivedAt` on its own clock. */
  acknowledged(frame: number, receivedAt: number, now: number): void {
    const flight = this.flights.get(frame);
    if (!flight) return;
    const stoodStill = now > flight.dueAt;
    const passed = this.passOver(frame, flight);
    this.noteFate(false);
    this.least.add(receivedAt - flight.sentAt, now);
    this.probe = PROBE_S;
    this.measure(flight, receivedAt - this.least.value!, passed, now, stoodStill);
    this.predict();
    this.decide(now);
  }

  /** So many frames may be sent before the server must say more. */
  credited(frames: number): void {
    if (frames === this.credit) return;
    this.credit = frames;
    this.plan();
  }

  /** The server dropped `frame`: the link is alive, but how fast it is, this does not say. */
  refused(frame: number, now: number, undecodable: boolean): void {
    if (!this.flights.delete(frame)) return;
    for (const [earlier, flight] of [...this.flights]) {
      if (earlier >= frame || flight.dueAt >= now) continue; // A refusal may overtake answers that are still computed.
      this.flights.delete(earlier);
      this.noteFate(true);
    }
    this.noteFate(undecodable);
    this.probe = PROBE_S;
    this.predict();
  }

  // --- To the session and the page --------------------------------------------------------------------------------

  /** When the next frame may leave: now or earlier, it may. */
  sendAt(now: number): number {
    for (const [frame, flight] of this.flights) {
      if (now - flight.sentAt <= GONE_S) break;
      this.flights.delete(frame);
    }
    if (this.schedule.secondAt < now && this.index) {
      this.forgetPath(true);
      this.take(0);
    }
    this.plan();
    return this.turnAt(now);
  }

  /** As `sendAt`, but changes nothing: when the frame that is encoded next could leave. */
  turnAt(now: number): number {
    return this.schedule.dueAt < now ? this.schedule.probeAt : this.schedule.openAt;
  }

  /** `choice`, or the lowest rung if the link stands still: what to encode now. */
  choiceAt(now: number): RateChoice {
    return this.schedule.secondAt < now ? this.lowest : this.choice;
  }

  /** How many bursts of `size` bytes the link takes in the time of one frame; Infinity as long as nobody knows. */
  room(size: number): number {
    if (this.rate === null) return Infinity;
    return (this.rate * Math.max(1 / this.fpsMax, this.rhythm)) / Math.max(1, size);
  }

  /** The estimated rate of the link, in kbit/s. */
  get kbps(): number | null {
    return this.rate === null ? null : (this.rate * 8) / 1000;
  }

  // --- Measuring --------------------------------------------------------------------------------------------------

  private forgetPath(keepDelay = false): void {
    if (!keepDelay) {
      this.least = new LeastDelay();
      this.jitter = 0;
      this.rest = 0.2;
      this.restScatter = 0.05;
      this.lastSentAt = -Infinity;
    }
    this.samples = [];
    this.rate = null;
    this.needed = START_SAMPLES;
    this.freeAt = this.lastLeft = -Infinity;
    this.rhythm = 0;
    this.probe = PROBE_S;
    this.fitsSince = null;
    this.hold = HOLD_S;
    this.risenAt = this.fallenAt = -Infinity;
  }

  /** Forget `frame` and the flights before it (lost, or their answers are); the bytes that were ahead of it. */
  private passOver(frame: number, flight: Flight): number {
    let ahead = 0;
    for (const [earlier, gone] of this.flights) {
      if (earlier === frame) break;
      this.flights.delete(earlier);
      this.noteFate(true);
      if (gone.leftAt > flight.sentAt) ahead += gone.size;
    }
    this.flights.delete(frame);
    return ahead;
  }

  private measure(flight: Flight, left: number, ahead: number, now: number, afresh: boolean): void {
    let service = left - Math.max(flight.sentAt, this.lastLeft);
    if (flight.sentAt >= this.lastLeft) service -= Math.min(this.jitter, 0.5 * service);
    service = Math.max(service, SERVICE_S_MIN);
    if (afresh) {
      this.samples = []; // The link stood still since: it is another one now.
      this.needed = 2; // One may have been held up by a repeated packet.
    }
    while (this.samples.length && now - this.samples[0]!.at > SAMPLE_S_MAX) this.samples.shift();
    this.samples.push({ at: now, rate: (flight.firstBytes + ahead) / service });
    if (this.samples.length > SAMPLES) this.samples.shift();
    this.rate = median(this.samples.map((sample) => sample.rate));
    this.lastLeft = left + (flight.size - flight.firstBytes) / this.rate;
    const rest = Math.max(0, now - this.lastLeft);
    this.restScatter += 0.25 * (Math.abs(rest - this.rest) - this.restScatter);
    this.rest += 0.125 * (rest - this.rest);
  }

  private noteFate(failed: boolean): void {
    this.loss += LOSS_SMOOTHING * (Number(failed) - this.loss);
  }

  /** Share of frames that this rung would lose beyond what the lowest one loses, by its parts. */
  private failures(index: number): number {
    if (!this.partBytes) return 0;
    const [lowest, current, asked] = [0, this.index, index].map((one) => Math.ceil(this.bytes(one) / this.partBytes));
    return (this.loss * (asked! - lowest!)) / current!;
  }

  /** How far apart frames would be if the link took no time: the pace of source, encoder and server. */
  private noteRhythm(now: number): void {
    const interval = 1 / this.fpsMax;
    const idle = now - Math.max(this.freeAt, this.lastSentAt);
    const observed = interval < idle && idle < 1 ? idle : interval;
    this.rhythm += 0.2 * (observed - this.rhythm);
  }

  // --- Predicting -------------------------------------------------------------------------------------------------

  /** When each flight has left, when its answer is due, and when the link is free. */
  private predict(): void {
    let free = this.lastLeft;
    const patience = this.rest + 4 * this.restScatter + SLACK_S;
    for (const flight of this.flights.values()) {
      const service = this.rate ? flight.size / this.rate : 0;
      free = flight.leftAt = Math.max(free, flight.sentAt) + service;
      flight.dueAt = free + patience + service;
    }
    this.freeAt = free;
    this.plan();
  }

  private plan(): void {
    const service = this.rate === null ? 0 : this.bytes(this.index) / this.rate;
    const lead = Math.min(LEAD_S_MAX, 0.5 * service);
    const flights = this.flights.values();
    const first = flights.next().value;
    let openAt = Math.max(this.freeAt - lead, this.slotAt);
    if (this.credit === 0 && first) openAt = Math.max(openAt, first.leftAt + this.rest); // The next answer brings credit.
    this.schedule = {
      openAt, dueAt: first?.dueAt ?? Infinity, secondAt: flights.next().value?.dueAt ?? Infinity,
      probeAt: this.lastSentAt + this.probe,
    };
  }

  // --- Choosing ---------------------------------------------------------------------------------------------------

  private bytes(index: number): number {
    return this.ladder[index]!.bytesMean * this.growth;
  }

  private fits(index: number, share: number): boolean {
    const rate = this.rate!;
    const interval = Math.max(1 / this.fpsMax, this.rhythm);
    const service = this.bytes(index) / rate;
    if (this.failures(index) > FAILURE_MAX * share) return false;
    if (this.starved > 0.5 && interval > 1.3 / this.fpsMax) {
      // Each frame waits for the answer to the one before, so the time on the link comes on top.
      const least = this.bytes(0) / rate;
      if (service - least > SERIAL_SHARE_MAX * (interval + least)) return false;
    }
    return service <= share * interval && service <= AGE_SHARE_MAX * this.budget;
  }

  private decide(now: number): void {
    if (this.rate !== null && this.samples.length >= this.needed) {
      let best = this.ladder.length - 1;
      while (best > 0 && !this.fits(best, FILL)) best--;
      if (best > this.index) {
        this.rise(best, now);
      } else {
        this.fitsSince = null;
        if (best < this.index && !this.fits(this.index, OVERFULL)) this.fall(best, now);
      }
    }
    this.choice = this.chosen();
  }

  private rise(best: number, now: number): void {
    if (this.fitsSince === null || this.samples.length < START_SAMPLES) this.fitsSince = now;
    if (now - this.fallenAt > 2 * REGRET_S) this.hold = HOLD_S;
    if (now - this.fitsSince < this.hold) return;
    this.risenAt = now;
    this.samples = []; // Those of smaller frames would judge the larger ones too harshly.
    this.needed = START_SAMPLES;
    this.take(best);
  }

  private fall(best: number, now: number): void {
    if (now - this.risenAt < REGRET_S) this.hold = Math.min(2 * this.hold, HOLD_S_MAX);
    this.fallenAt = now;
    this.take(best);
  }

  private take(index: number): void {
    this.index = index;
    this.fitsSince = null;
    this.choice = this.chosen();
  }

  private chosen(): RateChoice {
    let fps = this.fpsMax;
    if (this.rate !== null) fps = Math.min(fps, 1 / Math.max(this.rhythm, 1e-3), this.rate / this.bytes(this.index));
    return { index: this.index, rung: this.ladder[this.index]!, fps, kbps: this.kbps };
  }
}
