// One job: how it stands while it runs; its text beside its sound once it is done.

import { call, get, path, post, remove } from "./api.js";
import { asked, confirmed, every, h, show, toast } from "./dom.js";
import { Player } from "./player.js";
import { Transcript } from "./transcript.js";
import { ask } from "./rerun.js";
import { ago, bytes, clock, duration, language, left, model, moment, name, state } from "./words.js";

const FINAL = ["completed", "failed", "cancelled"];
const FORMATS = [["txt", "Text"], ["md", "Paragraphs (Markdown)"], ["srt", "Subtitles (SRT)"], ["vtt", "Subtitles (WebVTT)"], ["tsv", "Table (TSV)"], ["json", "Everything (JSON)"]];
const READERS_KEYS = ["PageUp", "PageDown", "Home", "End", "ArrowUp", "ArrowDown"];
const POLL_SECONDS = 5;
const DOUBTS = {
  loop: "the same again and again",
  repetitive: "repeats itself",
  low_confidence: "the model was guessing",
  too_fast: "more than anybody says in that time",
  in_silence: "words where nothing is to be heard",
  no_words: "sound without words",
  cut_off: "sound without words at the end",
};

export function view(main, jobId, user) {
  const page = new Page(main, jobId, user);
  page.open().catch((error) => page.fail(error));
  return () => page.close();
}

class Page {
  constructor(main, jobId, user) {
    this.main = main;
    this.jobId = jobId;
    this.user = user;
    this.follow = true;
    this.undo = [];
    this.transcript = new Transcript((seconds) => this.player?.seek(seconds, { play: true }));
  }

  async open() {
    this.job = await get(`/jobs/${this.jobId}`);
    if (this.closed) return;
    document.title = `${name(this.job)} – Transcription`;
    this.#build();
    this.#showHead();
    this.#addPlayer();
    if (FINAL.includes(this.job.status)) await this.#finish();
    else this.#listen();
  }

  fail(error) {
    if (this.closed) return;
    show(this.main, h("p", {}, h("a", { href: "#/" }, "← All jobs")),
      h("div", { class: "card bad" }, h("h1", {}, error.code === "job_deleted" ? "This job was deleted" : "This job cannot be shown"), h("p", {}, error.message)));
  }

  close() {
    this.closed = true;
    this.events?.close();
    this.player?.close();
    for (const act of this.undo) act();
  }

  #on(target, kind, act, options) {
    target.addEventListener(kind, act, options);
    this.undo.push(() => target.removeEventListener(kind, act, options));
  }

  #build() {
    this.head = h("div", { class: "job-head" });
    this.status = h("div", { class: "job-status", "aria-live": "polite" });
    this.place = h("div");
    this.tools = this.#toolbar();
    this.tools.hidden = true;
    this.sticky = h("div", { class: "sticky" }, this.place, this.tools);
    this.back = h("button", { class: "back-to-current", hidden: true, onclick: () => this.#setFollow(true) }, "↧ Back to current");
    this.text = h("section", { class: "text", "aria-label": "Transcript" }, this.transcript.element);
    show(this.main, h("p", { class: "crumb" }, h("a", { href: "#/" }, "← All jobs")), this.head, this.status, this.sticky, this.text, this.back);
    for (const kind of ["wheel", "touchmove"]) {
      this.#on(window, kind, () => this.#yield(), { passive: true });
    }
    this.#on(window, "keydown", (event) => this.#key(event));
  }

  // What is said of the job

  #showHead() {
    const { job } = this;
    const [word, kind] = state(job);
    const took = job.started_at && job.completed_at ? (new Date(job.completed_at) - new Date(job.started_at)) / 1000 : null;
    const pace = took && job.duration ? ` (${Math.max(0.1, job.duration / took).toFixed(job.duration / took < 10 ? 1 : 0)}× as fast as it is heard)` : "";
    const facts = [
      job.audio_seconds ? `${job.estimated ? "about " : ""}${clock(job.audio_seconds)}` : null,
      language(job.language),
      job.model_used ? model(job.model_used) : job.model_size,
      job.status === "completed" && took !== null ? `took ${duration(took)}${pace}` : null,
      bytes(job.upload_bytes),
      ago(job.created_at),
    ].filter(Boolean);
    show(this.head,
      h("div", { class: "title" }, h("h1", {}, name(job)),
        this.user.scopes.includes("jobs:write") ? h("button", { class: "small", "aria-label": "Rename", title: "Rename", onclick: () => this.#rename() }, "✎") : null),
      h("p", { class: "facts" }, h("span", { class: `pill ${kind}` }, word), " ", facts.join(" · ")),
      job.degraded ? h("p", { class: "quiet" }, "There was too little memory for the model that was asked for: a smaller one was used.") : null,
      this.#keptUntil(),
      h("div", { class: "actions" }, this.#actions()));
  }

  #keptUntil() {
    const { job, user } = this;
    if (!job.links.audio) return h("p", { class: "quiet" }, "The recording is no longer kept.");
    const seconds = user.usage?.audio_retention_seconds;
    if (!seconds || !job.completed_at || job.status === "failed") return null;
    const at = new Date(new Date(job.completed_at).getTime() + seconds * 1000);
    return h("p", { class: "quiet" }, `The recording is deleted on ${moment(at)}; the text stays.`);
  }

  #actions() {
    const { job } = this;
    const may = (scope) => this.user.scopes.includes(scope);
    const result = (format) => path(`/jobs/${this.jobId}/result?format=${format}`);
    const completed = job.status === "completed";
    return [
      completed ? h("button", { onclick: () => this.#copy() }, "Copy text") : null,
      completed ? h("details", { class: "menu" }, h("summary", {}, "Download"),
        h("ul", {},
          FORMATS.map(([format, label]) => h("li", {}, h("a", { href: result(format), download: true }, label))),
          job.links.audio ? h("li", {}, h("a", { href: path(`/jobs/${this.jobId}/audio`), download: true }, "The recording")) : null)) : null,
      job.links.audio && may("jobs:write") && FINAL.includes(job.status)
        ? h("button", { onclick: () => this.#again() }, "Transcribe again …") : null,
      job.links.cancel && may("jobs:write") ? h("button", { onclick: () => this.#cancel() }, "Cancel") : null,
      may("jobs:delete") ? h("button", { class: "danger", onclick: () => this.#delete() }, "Delete …") : null,
    ];
  }

  #showStatus(news = this.job) {
    const { job } = this;
    if (job.status === "completed") return show(this.status);
    if (job.status === "failed") {
      return show(this.status, h("div", { class: "card bad", role: "alert" },
        h("strong", {}, "This job was given up. "), job.error_message ?? job.message,
        h("p", { class: "quiet" }, `Code: ${job.failure_reason ?? job.error_code} · attempts: ${job.attempt}`)));
    }
    if (job.status === "cancelled") return show(this.status, h("div", { class: "card" }, "This job was cancelled."));
    const running = news.status === "processing";
    if (news.current_step === "fetching") {
      const share = job.source_bytes ? ` of ${bytes(job.source_bytes)}` : "";
      return show(this.status, h("div", { class: "card" }, h("p", {}, `The recording is being fetched: ${bytes(job.upload_bytes)}${share} so far.`)));
    }
    const line = running
      ? [`${Math.round(news.progress)} %`, news.current_step, left(news)]
      : [state(news)[0], news.queue_position ? `place ${news.queue_position} in the queue` : null, left(news)];
    return show(this.status, h("div", { class: "card" },
      h("progress", { max: "100", "aria-label": "Progress", ...(running ? { value: String(news.progress) } : { value: "0" }) }),
      h("p", {}, line.filter(Boolean).join(" · ")),
      h("p", { class: "quiet" }, "You may close this page: nothing is lost.")));
  }

  // While it runs

  #listen() {
    this.#showStatus();
    this.events = new EventSource(path(`/jobs/${this.jobId}/events`));
    this.events.addEventListener("progress", (event) => this.#progress(JSON.parse(event.data)));
    this.events.addEventListener("segments", (event) => this.#segments(JSON.parse(event.data)));
    for (const end of [...FINAL, "deleted"]) this.events.addEventListener(end, () => this.#ended());
    this.events.addEventListener("error", () => {
      // it comes again by itself, unless it was refused: then ask from time to time
      if (this.events.readyState === EventSource.CLOSED && !this.polling) this.#poll();
    });
  }

  #poll() {
    this.polling = every(() => POLL_SECONDS, async () => {
      const job = await get(`/jobs/${this.jobId}`);
      if (FINAL.includes(job.status)) await this.#ended();
      else this.#progress(job);
    });
    this.undo.push(this.polling.stop);
  }

  #progress(news) {
    const before = state(this.job)[0] + this.job.estimated;
    Object.assign(this.job, { status: news.status, progress: news.progress, cancelling: news.cancelling, error_code: news.error_code, queue_paused: news.queue_paused, audio_seconds: news.audio_seconds, estimated: news.estimated });
    if (state(this.job)[0] + this.job.estimated !== before) this.#showHead();
    this.#showStatus(news);
  }

  #segments(news) {
    // done anew, with another model: what was there is no more
    if (news.window === 0) this.transcript.clear();
    this.transcript.add(news.segments);
  }

  async #ended() {
    this.events?.close();
    this.polling?.stop();
    try {
      this.job = await get(`/jobs/${this.jobId}`);
      this.#showHead();
      await this.#finish();
    } catch (error) {
      this.fail(error);
    }
  }

  // Once it is done

  async #finish() {
    this.#showStatus();
    if (this.job.status !== "completed") return;
    const [result, peaks, quality] = await Promise.all([
      get(`/jobs/${this.jobId}/result?format=json`),
      get(`/jobs/${this.jobId}/peaks`).catch(() => null),
      get(`/jobs/${this.jobId}/quality`).catch(() => null),
    ]);
    if (this.closed) return;
    this.transcript.clear();
    this.transcript.add(result.segments);
    if (this.transcript.isEmpty) this.transcript.element.append(h("p", { class: "quiet" }, "Nothing was said in this recording."));
    this.tools.hidden = this.transcript.isEmpty;
    this.findings = quality?.findings ?? [];
    this.transcript.doubt(quality?.suspect_segments ?? []);
    this.checkButton.hidden = !this.findings.length;
    this.checkButton.textContent = `Check ${this.findings.length}`;
    if (peaks) this.player?.draw(peaks);
  }

  #addPlayer() {
    this.player = new Player(this.jobId, {
      kept: Boolean(this.job.links.audio),
      onTime: (seconds) => this.#heard(seconds),
      onChange: () => { this.#showRepeat(); this.#showBack(); },
    });
    show(this.place, this.player.element);
  }

  #heard(seconds) {
    this.transcript.light(seconds);
    if (!this.follow || this.player.media.paused) return;
    const box = this.transcript.litBox;
    if (box === null) return;
    const top = this.sticky.getBoundingClientRect().bottom;
    if (box.top > top + 20 && box.bottom < innerHeight - 60) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    scrollTo({ top: scrollY + box.top - top - innerHeight / 5, behavior: calm ? "auto" : "smooth" });
  }

  #yield() {
    if (this.follow && this.player && !this.player.media.paused) this.#setFollow(false);
  }

  #setFollow(follow) {
    this.follow = follow;
    this.followButton.setAttribute("aria-pressed", String(follow));
    this.#showBack();
    const box = follow && this.transcript.litBox;
    if (box) scrollTo({ top: scrollY + box.top - innerHeight / 2 });
  }

  #showBack() {
    this.back.hidden = this.follow || !this.player || this.player.media.paused;
  }

  #toolbar() {
    this.findField = h("input", { type: "search", placeholder: "Find", "aria-label": "Find in the transcript", title: "Find ( / )",
      oninput: () => this.#find(),
      onkeydown: (event) => {
        if (event.key === "Enter") { event.preventDefault(); this.#next(event.shiftKey ? -1 : 1); }
        if (event.key === "Escape") { this.findField.value = ""; this.#find(); this.findField.blur(); }
      } });
    this.findCount = h("output", { class: "quiet", "aria-live": "polite" });
    this.checkButton = h("button", { hidden: true, title: "Go to the next place that is likely to be wrong", onclick: () => this.#check() });
    this.followButton = h("button", { "aria-pressed": "true", title: "Follow what is heard (f)", onclick: () => this.#setFollow(!this.follow) }, "Follow");
    this.repeatButton = h("button", { "aria-pressed": "false", title: "Repeat this paragraph (r)", onclick: () => this.#repeat() }, "Repeat");
    return h("div", { class: "toolbar", role: "toolbar", "aria-label": "Transcript" },
      this.findField, this.findCount, h("span", { class: "gap" }), this.checkButton, this.repeatButton, this.followButton,
      h("button", { "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts (?)", onclick: () => this.#keys() }, "?"));
  }

  /** Goes to the next place that somebody should look at. */
  #check() {
    this.checked = ((this.checked ?? -1) + 1) % this.findings.length;
    const found = this.findings[this.checked];
    this.#setFollow(false);
    this.transcript.show(found.start);
    this.player?.seek(found.start);
    this.findCount.textContent = `${this.checked + 1} of ${this.findings.length}, ${clock(found.start)}: ${DOUBTS[found.code] ?? found.code}`;
  }

  #find() {
    const count = this.transcript.find(this.findField.value.trim());
    this.findCount.textContent = this.findField.value.trim() ? (count ? `${count} found` : "not found") : "";
    if (count) this.#next(1);
  }

  #next(by) {
    const number = this.transcript.next(by);
    if (number < 0) return;
    this.#setFollow(false);
    this.findCount.textContent = `${number + 1} of ${this.transcript.matches.length}`;
  }

  #repeat() {
    if (!this.player) return;
    const { repeated, media } = this.player;
    this.player.repeat(repeated ? null : this.transcript.stretch(media.currentTime) ?? null);
  }

  #showRepeat() {
    this.repeatButton.setAttribute("aria-pressed", String(Boolean(this.player?.repeated)));
  }

  // Keys

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest("input:not([type=range]), select, textarea");
    if (typing) return;
    if (READERS_KEYS.includes(event.key)) return void this.#yield();
    const pressed = event.key === " " && event.target.closest("button, summary, a");
    const act = pressed ? null : this.#acts()[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || (event.target.matches("input[type=range]") && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    act(event);
  }

  #acts() {
    const player = this.player;
    const step = (by) => { const at = this.transcript.step(player.now, by); if (at !== undefined) player.seek(at); };
    return {
      "/": () => this.findField.focus(),
      n: (event) => this.#next(event.shiftKey ? -1 : 1),
      f: () => this.#setFollow(!this.follow),
      "?": () => this.#keys(),
      ...(player ? {
        " ": () => player.toggle(),
        k: () => player.toggle(),
        j: () => player.skip(-5),
        l: () => player.skip(5),
        ArrowLeft: () => step(-1),
        ArrowRight: () => step(1),
        "[": () => player.faster(-1),
        "]": () => player.faster(1),
        0: () => { player.media.playbackRate = 1; },
        r: () => this.#repeat(),
      } : {}),
    };
  }

  #keys() {
    const rows = [["Space or K", "play, pause"], ["J, L", "5 seconds back, on"], ["←, →", "paragraph before, next"], ["[, ]", "slower, faster"], ["0", "normal speed"], ["/", "find"], ["N, Shift+N", "next match, the one before"], ["F", "follow what is heard"], ["R", "repeat this paragraph"], ["?", "this"]];
    const dialog = h("dialog", { "aria-label": "Keyboard shortcuts", onclose: () => dialog.remove() },
      h("h2", {}, "Keyboard shortcuts"),
      h("dl", { class: "keys" }, rows.map(([keys, what]) => [h("dt", {}, keys), h("dd", {}, what)])),
      h("div", { class: "buttons" }, h("button", { onclick: () => dialog.close() }, "Close")));
    document.body.append(dialog);
    dialog.showModal();
  }

  // What can be done with it

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.transcript.text);
      toast("Copied.");
    } catch {
      toast("The browser does not let us copy; download the text instead.", { bad: true });
    }
  }

  async #rename() {
    const wanted = await asked("What to call it", name(this.job));
    if (wanted === null) return;
    await this.#try(async () => {
      const { title: _, ...metadata } = this.job.metadata;
      if (wanted && wanted !== this.job.filename) metadata.title = wanted;
      this.job = await call("PATCH", `/jobs/${this.jobId}`, { body: { metadata } });
      document.title = `${name(this.job)} – Transcription`;
      this.#showHead();
    });
  }

  async #cancel() {
    await this.#try(async () => { await post(`/jobs/${this.jobId}/cancel`); toast("Cancelled."); await this.#refresh(); });
  }

  async #refresh() {
    this.job = await get(`/jobs/${this.jobId}`);
    if (FINAL.includes(this.job.status)) await this.#ended();
    else { this.#showHead(); this.#showStatus(); }
  }

  async #delete() {
    if (!(await confirmed(`Delete “${name(this.job)}”, with its recording and its text?`, "Delete"))) return;
    await this.#try(async () => { await remove(`/jobs/${this.jobId}`); toast("Deleted."); location.hash = "#/"; });
  }

  async #again() {
    const wanted = await ask(this.job);
    if (!wanted) return;
    await this.#try(async () => {
      const made = await call("POST", `/jobs/${this.jobId}/rerun`, { body: wanted });
      location.hash = `#/jobs/${made.job_id}`;
    });
  }

  async #try(act) {
    try { await act(); } catch (error) { toast(error.message, { bad: true }); }
  }
}
