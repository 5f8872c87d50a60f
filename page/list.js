// All jobs: what is sent, what waits, what is done.

import { Sending, call, get, post } from "./api.js";
import { languageSelect, modelSelect } from "./choices.js";
import { every, h, show, toast } from "./dom.js";
import { ago, bytes, clock, duration, language, name, state } from "./words.js";

const PAGE = 30;
const BUSY_SECONDS = 4;
const IDLE_SECONDS = 30;
const AT_ONCE = 2;
const STATUSES = [["", "Any state"], ["pending", "Waiting"], ["processing", "Transcribing"], ["completed", "Done"], ["failed", "Failed"], ["cancelled", "Cancelled"]];
const OPEN = ["pending", "processing"];

export function view(main, user) {
  const page = new Page(main, user);
  page.open();
  return () => page.close();
}

// what is being sent goes on while another view is open
const queue = [];
let sending = 0;
let shown = null;

class Page {
  constructor(main, user) {
    this.main = main;
    this.user = user;
    this.jobs = [];
    this.cursor = null;
    this.asked = 0;
  }

  open() {
    document.title = "Transcription";
    const mayWrite = this.user.scopes.includes("jobs:write");
    this.uploads = h("ul", { class: "rows uploads", "aria-label": "Uploads" });
    this.list = h("ul", { class: "rows", "aria-label": "Jobs" });
    this.count = h("p", { class: "quiet", role: "status" });
    this.more = h("button", { hidden: true, onclick: () => this.#more() }, "Show more");
    let typed = null;
    this.search = h("input", { type: "search", placeholder: "Search by name", "aria-label": "Search by name", maxlength: "200",
      oninput: () => { clearTimeout(typed); typed = setTimeout(() => this.#reload(), 250); } });
    this.status = h("select", { "aria-label": "State", onchange: () => this.#reload() },
      STATUSES.map(([value, label]) => h("option", { value }, label)));
    show(this.main,
      h("h1", { class: "unseen" }, "Jobs"),
      mayWrite ? this.#dropZone() : null,
      this.uploads,
      h("div", { class: "filters" }, this.search, this.status),
      this.count, this.list, this.more);
    shown = this;
    this.#showUploads();
    this.rounds = every(() => (this.jobs.some((job) => OPEN.includes(job.status)) || queue.length ? BUSY_SECONDS : IDLE_SECONDS), () => this.#fetch());
    this.#reload();
  }

  close() {
    this.closed = true;
    this.rounds.stop();
    if (shown === this) shown = null;
    for (const act of this.undo ?? []) act();
  }

  refresh() {
    this.#fetch().catch(() => {});
  }

  // The list

  async #reload() {
    this.wanted = PAGE;
    await this.#fetch().catch((error) => toast(error.message, { bad: true }));
  }

  async #more() {
    this.wanted += PAGE;
    await this.#fetch().catch((error) => toast(error.message, { bad: true }));
  }

  async #fetch() {
    const number = (this.asked += 1);
    const found = [];
    let cursor = null;
    let total = 0;
    do {
      const query = new URLSearchParams({ limit: String(Math.min(100, this.wanted - found.length)) });
      if (cursor) query.set("cursor", cursor);
      if (this.status.value) query.set("status", this.status.value);
      if (this.search.value.trim()) query.set("search", this.search.value.trim());
      const page = await get(`/jobs?${query}`);
      found.push(...page.jobs);
      cursor = page.next_cursor;
      total = page.total;
    } while (cursor && found.length < this.wanted);
    if (this.closed || number !== this.asked) return;
    this.jobs = found;
    this.#show(total, Boolean(cursor));
    this.rounds.restart();
  }

  #show(total, more) {
    const chosen = this.status.value || this.search.value.trim();
    this.count.textContent = total ? `${total} ${total === 1 ? "job" : "jobs"}` : chosen ? "No job is like that." : "No jobs yet. What you send stands here.";
    this.more.hidden = !more;
    // rows stay where they are, so that a click or a key does not lose what it was at
    const rows = new Map([...this.list.children].map((row) => [row.dataset.id, row]));
    this.jobs.forEach((job, index) => {
      const key = JSON.stringify([job.status, job.progress, job.current_step, job.audio_seconds, job.queue_paused, job.error_code, job.cancel_requested_at, job.upload_bytes, name(job), ago(job.created_at)]);
      let row = rows.get(job.job_id);
      rows.delete(job.job_id);
      if (row?.dataset.key !== key) {
        const made = this.#row(job);
        made.dataset.id = job.job_id;
        made.dataset.key = key;
        const focused = row?.contains(document.activeElement);
        row?.replaceWith(made);
        row = made;
        if (focused) made.querySelector("a").focus();
      }
      if (this.list.children[index] !== row) this.list.insertBefore(row, this.list.children[index] ?? null);
    });
    for (const row of rows.values()) row.remove();
  }

  #row(job) {
    const [word, kind] = state(job);
    const facts = [
      job.audio_seconds ? `${job.estimated ? "about " : ""}${clock(job.audio_seconds)}` : null,
      language(job.language),
      job.word_count ? `${job.word_count} words` : null,
      ago(job.created_at),
      job.status === "failed" ? job.failure_reason : null,
    ].filter(Boolean);
    const running = job.status === "processing";
    return h("li", { class: "row" },
      h("a", { class: "name", href: `#/jobs/${job.job_id}` }, name(job)),
      h("span", { class: `pill ${kind}` }, running ? `${word} ${Math.round(job.progress)} %` : word),
      h("span", { class: "facts" }, facts.join(" · ")),
      running ? h("progress", { max: "100", value: String(job.progress), "aria-label": `Progress of ${name(job)}` }) : null,
      job.links.cancel && this.user.scopes.includes("jobs:write")
        ? h("button", { class: "small", "aria-label": `Cancel ${name(job)}`, onclick: () => this.#cancel(job) }, "Cancel") : null);
  }

  async #cancel(job) {
    try {
      await post(`/jobs/${job.job_id}/cancel`);
      await this.#fetch();
    } catch (error) {
      toast(error.message, { bad: true });
    }
  }

  // Sending

  #dropZone() {
    this.file = h("input", { type: "file", multiple: true, id: "files", class: "unseen", onchange: () => { this.#take(this.file.files); this.file.value = ""; } });
    const zone = h("section", { class: "drop", "aria-label": "Send recordings" },
      h("p", {}, h("label", { for: "files", class: "button primary" }, this.file, "Choose files"), " or drop audio or video anywhere here"),
      this.#address(), this.#limits(), this.#options());
    const over = (event) => { if (event.dataTransfer?.types.includes("Files")) { event.preventDefault(); zone.classList.add("over"); } };
    const out = (event) => { if (!event.relatedTarget) zone.classList.remove("over"); };
    const drop = (event) => {
      if (!event.dataTransfer?.files.length) return;
      event.preventDefault();
      zone.classList.remove("over");
      this.#take(event.dataTransfer.files);
    };
    this.undo = [["dragover", over], ["dragleave", out], ["drop", drop]].map(([kind, act]) => {
      window.addEventListener(kind, act);
      return () => window.removeEventListener(kind, act);
    });
    return zone;
  }

  /** For a recording that is elsewhere, where the service fetches such. */
  #address() {
    const field = h("input", { type: "url", id: "address", required: true, placeholder: "https://…" });
    this.address = h("form", { class: "address", hidden: true, onsubmit: async (event) => {
      event.preventDefault();
      const form = new URLSearchParams({ ...this.#fields(), source_url: field.value.trim() });
      try {
        await call("POST", `/transcribe?${form}`);
        field.value = "";
        this.refresh();
      } catch (error) {
        toast(error.message, { bad: true });
      }
    } }, h("label", { for: "address" }, "or give an address"), field, h("button", {}, "Fetch"));
    return this.address;
  }

  #limits() {
    const line = h("p", { class: "quiet" });
    get("/limits").then((limits) => {
      this.maxBytes = limits.max_upload_bytes;
      this.address.hidden = !limits.source_urls;
      line.textContent = `Up to ${bytes(limits.max_upload_bytes)} and ${duration(limits.max_audio_seconds)} each.`;
    }).catch(() => {});
    return line;
  }

  #options() {
    this.language = languageSelect("", { id: "language" });
    const place = h("span");
    modelSelect("", { id: "model" }).then((select) => { this.model = select; show(place, select); });
    this.task = h("select", { id: "task" }, h("option", { value: "" }, "Write down what is said"), h("option", { value: "translate" }, "Translate to English"));
    this.urgent = this.user.may_use_high ? h("input", { type: "checkbox", id: "urgent" }) : null;
    this.prompt = h("input", { type: "text", id: "prompt", maxlength: "500", placeholder: "names, terms" });
    return h("details", { class: "options" }, h("summary", {}, "Options"),
      h("div", { class: "fields" },
        h("label", { for: "language" }, "Language"), this.language,
        h("label", { for: "model" }, "Model"), place,
        h("label", { for: "task" }, "Task"), this.task,
        h("label", { for: "prompt" }, "Words to expect"), this.prompt,
        this.urgent ? [h("label", { for: "urgent" }, "Urgent: before all others"), this.urgent] : null));
  }

  #fields() {
    const fields = { word_timestamps: "true" };
    const said = { language: this.language.value, model_size: this.model?.value, task: this.task.value, initial_prompt: this.prompt.value.trim(), priority: this.urgent?.checked ? "high" : "" };
    for (const [field, value] of Object.entries(said)) if (value) fields[field] = value;
    return fields;
  }

  #take(files) {
    const fields = this.#fields();
    for (const file of files) queue.push({ file, fields });
    send();
  }

  #showUploads() {
    show(this.uploads, queue.map((each) => (each.row ??= uploadRow(each))));
  }

  showUploads() {
    this.#showUploads();
  }
}

function uploadRow(each) {
  each.bar = h("progress", { max: String(Math.max(1, each.file.size)), value: "0", "aria-label": `Upload of ${each.file.name}` });
  each.said = h("span", { class: "facts" }, bytes(each.file.size));
  each.again = h("button", { class: "small", hidden: true, onclick: () => { each.error = null; each.again.hidden = true; each.row.classList.remove("bad"); send(); } }, "Try again");
  const give = h("button", { class: "small", "aria-label": `Do not send ${each.file.name}`, onclick: () => { each.sending?.discard(); drop(each); } }, "✕");
  return h("li", { class: "row" }, h("span", { class: "name" }, each.file.name), each.said, each.bar, each.again, give);
}

function drop(each) {
  const at = queue.indexOf(each);
  if (at >= 0) queue.splice(at, 1);
  shown?.showUploads();
}

function send() {
  shown?.showUploads();
  for (const each of queue) {
    if (sending >= AT_ONCE) return;
    if (!each.busy && !each.error) begin(each);
  }
}

async function begin(each) {
  sending += 1;
  each.busy = true;
  try {
    if (shown?.maxBytes && each.file.size > shown.maxBytes) {
      throw new Error(`The file is ${bytes(each.file.size)}; ${bytes(shown.maxBytes)} are allowed.`);
    }
    each.sending ??= new Sending(each.file, each.fields, (sent, waiting) => tell(each, sent, waiting));
    each.from = null;
    await each.sending.run();
    drop(each);
  } catch (error) {
    each.error = error;
  }
  each.busy = false;
  sending -= 1;
  if (each.error && queue.includes(each)) {
    each.row.classList.add("bad");
    each.said.textContent = each.error.message;
    each.again.hidden = false;
  }
  shown?.refresh();
  send();
}

function tell(each, sent, waiting) {
  const total = each.file.size;
  each.bar.value = sent;
  if (waiting) {
    each.from = null;
    each.said.textContent = `${bytes(sent ?? 0)} of ${bytes(total)} · the connection broke; it goes on by itself`;
    return;
  }
  each.from ??= { sent, at: Date.now() };
  const pace = (sent - each.from.sent) / Math.max(0.2, (Date.now() - each.from.at) / 1000);
  const rest = sent >= total ? "being stored" : pace > 0 ? `about ${duration((total - sent) / pace)} left` : "";
  each.said.textContent = `${bytes(sent)} of ${bytes(total)}${rest && ` · ${rest}`}`;
}

/** Whether leaving the page would lose what is being sent. */
export function isSending() {
  return queue.some((each) => each.busy);
}
