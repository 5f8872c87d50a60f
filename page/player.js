// The player: one media element, and a waveform from peaks that the worker made.

import { nonce, path } from "./api.js";
import { h } from "./dom.js";
import { clock } from "./words.js";
import WaveSurfer from "./vendor/wavesurfer.js";

export const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2];
const COLUMNS = 1000;

export class Player {
  /**
   * @param {(seconds: number) => void} onTime - what is heard now, often
   * @param {() => void} onChange - playing, speed, repeating
   * @param {boolean} kept - whether there is a recording still, and not only its waveform
   */
  constructor(jobId, { onTime, onChange, kept }) {
    this.isBroken = !kept;
    this.onTime = onTime;
    this.onChange = onChange;
    this.repeated = null;
    this.media = h("audio", { preload: "metadata", src: kept && path(`/jobs/${jobId}/audio`) });
    this.wave = h("div", { class: "wave", "aria-hidden": "true" });
    this.play = h("button", { class: "play", "aria-label": "Play", title: "Play or pause (space)", onclick: () => this.toggle() }, "▶");
    this.time = h("output", { class: "clock", "aria-label": "Position" }, "0:00");
    this.slider = h("input", { type: "range", class: "position", min: "0", max: "0", step: "0.1", value: "0", "aria-label": "Position in the recording",
      oninput: () => this.seek(Number(this.slider.value)) });
    this.speed = h("select", { "aria-label": "Speed", title: "Speed ( [ and ] )", onchange: () => { this.media.playbackRate = Number(this.speed.value); } },
      SPEEDS.map((speed) => h("option", { value: String(speed), selected: speed === 1 }, `${speed}×`)));
    this.note = h("p", { class: "quiet", hidden: true });
    this.element = h("div", { class: "player" },
      this.media, this.wave, this.note,
      h("div", { class: "controls", hidden: !kept }, this.play, this.time, this.slider, this.speed));
    this.media.addEventListener("play", () => this.#playing(true));
    this.media.addEventListener("pause", () => this.#playing(false));
    this.media.addEventListener("loadedmetadata", () => this.#told());
    this.media.addEventListener("seeked", () => this.#tick());
    this.media.addEventListener("timeupdate", () => this.#tick());
    this.media.addEventListener("ratechange", () => { this.speed.value = String(this.media.playbackRate); this.onChange(); });
    this.media.addEventListener("error", () => this.#broken());
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.recolour = () => this.surfer?.setOptions(this.#colours());
    this.dark.addEventListener("change", this.recolour);
  }

  /** Draws the waveform; a part of a recording is drawn where it lies in the whole. */
  async draw(peaks) {
    this.peaks = peaks;
    if (!peaks.length || this.surfer) return;
    if (!Number.isFinite(this.media.duration) && !this.isBroken) {
      await new Promise((resolve) => {
        this.media.addEventListener("loadedmetadata", resolve, { once: true });
        this.media.addEventListener("error", resolve, { once: true });
      });
    }
    const end = peaks.start_seconds + peaks.audio_seconds;
    const length = Math.max(end, Number.isFinite(this.media.duration) ? this.media.duration : 0);
    this.surfer = WaveSurfer.create({
      container: this.wave,
      cspNonce: nonce,
      ...(this.isBroken ? {} : { media: this.media }),
      peaks: [columns(peaks, length)],
      duration: length,
      height: 56,
      normalize: true,
      barWidth: 2,
      barGap: 1,
      barRadius: 2,
      cursorWidth: 2,
      ...this.#colours(),
      interact: !this.isBroken,
      dragToSeek: !this.isBroken,
    });
  }

  /** A canvas knows no variables of a style sheet: what they come to now, dark or light. */
  #colours() {
    const colour = (name) => {
      this.wave.style.color = `var(${name})`;
      return getComputedStyle(this.wave).color;
    };
    return { waveColor: colour("--wave"), progressColor: colour("--accent"), cursorColor: colour("--text") };
  }

  toggle() {
    if (this.media.paused) this.media.play().catch(() => this.#broken());
    else this.media.pause();
  }

  seek(seconds, { play = false } = {}) {
    if (this.isBroken) return;
    this.target = Math.max(0, Math.min(seconds, this.media.duration || seconds));
    this.media.currentTime = this.target;
    if (this.repeated && (seconds < this.repeated[0] || seconds > this.repeated[1])) this.repeat(null);
    this.#tick();
    if (play && this.media.paused) this.toggle();
  }

  /** Where it is, or will be in a moment. */
  get now() {
    return this.media.seeking && this.target !== undefined ? this.target : this.media.currentTime;
  }

  skip(seconds) {
    this.seek(this.now + seconds);
  }

  faster(by) {
    const now = SPEEDS.indexOf(this.media.playbackRate);
    this.media.playbackRate = SPEEDS[Math.max(0, Math.min(now + by, SPEEDS.length - 1))] ?? 1;
  }

  /** Plays a stretch again and again; null plays on. */
  repeat(stretch) {
    this.repeated = stretch;
    if (stretch) this.seek(stretch[0], { play: true });
    this.onChange();
  }

  close() {
    cancelAnimationFrame(this.frame);
    this.dark.removeEventListener("change", this.recolour);
    this.surfer?.destroy();
    this.media.pause();
    this.media.removeAttribute("src");
    this.media.load();
  }

  #told() {
    this.slider.max = String(this.media.duration);
    this.#tick();
  }

  #playing(playing) {
    this.play.textContent = playing ? "❚❚" : "▶";
    this.play.setAttribute("aria-label", playing ? "Pause" : "Play");
    cancelAnimationFrame(this.frame);
    // the element itself tells of the time four times a second, which a word does not wait for
    const round = () => { this.#tick(); this.frame = requestAnimationFrame(round); };
    if (playing) round();
    this.onChange();
  }

  #tick() {
    const now = this.media.currentTime;
    if (this.repeated && now >= this.repeated[1]) {
      this.media.currentTime = this.repeated[0];
      return;
    }
    const shown = `${clock(now)} / ${clock(this.media.duration)}`;
    if (this.time.textContent !== shown) {
      this.time.textContent = shown;
      this.slider.value = String(now);
      this.slider.setAttribute("aria-valuetext", `${clock(now)} of ${clock(this.media.duration)}`);
    }
    this.onTime(now);
  }

  #broken() {
    this.isBroken = true;
    this.note.hidden = false;
    this.note.textContent = "This browser cannot play the recording; it can be downloaded.";
    for (const control of [this.play, this.slider, this.speed]) control.disabled = true;
  }
}

/** The loudest of each column of the whole length, 0 to 1. */
function columns(peaks, length) {
  const each = peaks.samples_per_pixel / peaks.sample_rate;
  const at = (column) => Math.floor(((column / COLUMNS) * length - peaks.start_seconds) / each);
  return Array.from({ length: COLUMNS }, (_, column) => {
    let loudest = 0;
    const end = Math.max(at(column) + 1, at(column + 1));
    for (let pair = Math.max(0, at(column)); pair < Math.min(end, peaks.length); pair += 1) {
      loudest = Math.max(loudest, -peaks.data[2 * pair], peaks.data[2 * pair + 1]);
    }
    return loudest / 127;
  });
}
