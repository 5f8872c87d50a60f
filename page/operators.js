// For operators: what is wrong, what waits, who works, what failed.

import { get, post } from "./api.js";
import { every, h, show, toast } from "./dom.js";
import { ago, duration } from "./words.js";

const EVERY_SECONDS = 5;
const LANES = ["high", "normal", "retry", "dlq"];

export function view(main) {
  document.title = "Operators – Transcription";
  const health = h("div");
  const errors = h("div");
  show(main, h("h1", {}, "Operators"), health, h("h2", {}, "Failed jobs"), errors);
  let closed = false;
  let known = null;
  const round = async () => {
    const [found, failed] = await Promise.all([get("/admin/health"), get("/admin/errors?limit=50")]);
    if (closed) return;
    showHealth(health, found);
    const key = JSON.stringify(failed);
    if (key !== known) showErrors(errors, failed, round);
    known = key;
  };
  round().catch((error) => show(health, h("div", { class: "card bad" }, error.message)));
  const { stop } = every(() => EVERY_SECONDS, round);
  return () => { closed = true; stop(); };
}

function showHealth(place, health) {
  const kind = { healthy: "good", degraded: "wait", unhealthy: "bad" }[health.status];
  const free = health.disk ? `${Math.round(health.disk.free_bytes / 2 ** 30)} GB free for uploads` : "the store of uploads does not answer";
  show(place,
    h("p", { class: "facts" }, h("span", { class: `pill ${kind}` }, health.status), " ",
      [`version ${health.version}`, `Redis ${health.redis}`, free, `${health.error_rate_1h} failed in the last hour`].join(" · ")),
    health.conditions.map((each) => h("div", { class: `card ${each.severity === "critical" ? "bad" : ""}` },
      h("strong", {}, each.message), " ", each.remedy, each.since ? h("span", { class: "quiet" }, ` Since ${ago(each.since)}.`) : null)),
    h("h2", {}, "Queues"),
    table("Queues", ["Queue", "Waiting", "Oldest", "Messages", "State"], LANES.map((name) => {
      const lane = health.queues[name];
      return [name, lane.waiting, lane.oldest_seconds === null ? "" : duration(lane.oldest_seconds), lane.messages ?? "?", lane.paused ? "paused" : "open"];
    })),
    h("p", { class: "quiet" }, `${health.queues.processing} being worked on, ${health.queues.pending} waiting.`),
    h("h2", {}, "Workers"),
    health.workers.length
      ? table("Workers", ["Process", "Does", "Busy", "Models", "Last heard"], health.workers.map((worker) => [
        worker.name, worker.draining ? `${worker.role}, leaving` : worker.role,
        worker.slots ? `${worker.running} of ${worker.slots}` : "", models(worker.model_pool),
        worker.alive ? "now" : `${duration(worker.silent_seconds)} ago`]))
      : h("p", {}, "No worker has reported."));
}

function models(pool) {
  return (pool.models ?? []).map(({ key }) => `${key.model}, ${key.compute_type} on ${key.device}`).join("; ");
}

function table(name, heads, rows) {
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": name },
    h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, at) => (at ? h("td", {}, String(cell)) : h("th", { scope: "row" }, String(cell)))))))));
}

function showErrors(place, failed, again) {
  const rows = failed.errors;
  if (!rows.length) return show(place, h("p", { class: "quiet" }, "None that nobody has dealt with."));
  return show(place, h("ul", { class: "rows" }, rows.map((each) => h("li", { class: "row" },
    h("a", { class: "name", href: `#/jobs/${each.job_id}` }, each.filename),
    h("span", { class: "pill bad" }, each.type),
    h("span", { class: "facts" }, [each.message, each.owner, each.failed_at && ago(each.failed_at)].filter(Boolean).join(" · ")),
    each.upload_kept ? h("button", { class: "small", "aria-label": `Try ${each.filename} again`, onclick: () => act(() => post(`/admin/errors/${each.job_id}/retry`), "It is tried again.", again) }, "Try again") : null,
    h("button", { class: "small", "aria-label": `Close ${each.filename}`, onclick: () => act(() => post(`/admin/errors/${each.job_id}/resolve`), "Closed.", again) }, "Close")))));
}

async function act(what, said, again) {
  try {
    await what();
    toast(said);
    await again();
  } catch (error) {
    toast(error.message, { bad: true });
  }
}
