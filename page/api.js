// Calls to the service: JSON in, JSON out, and problems as errors that say what they are.

export const root = document.documentElement.dataset.root;
export const nonce = document.documentElement.dataset.nonce;

/** A problem as the service tells it (RFC 9457), or that it could not be reached. */
export class Problem extends Error {
  constructor(problem, status = 0, retryAfter = null) {
    const fields = (problem.errors ?? []).map((each) => `${each.pointer.split("/").pop()}: ${each.message}`);
    super([problem.detail, ...fields].join(" ") || "Something went wrong.");
    this.code = problem.code ?? "unreachable";
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

let onSignedOut = () => {};

export function whenSignedOut(act) {
  onSignedOut = act;
}

export function path(target) {
  return root + target;
}

/** Asks, and returns the answer; one that refuses is thrown. */
async function ask(method, target, { body, headers = {}, signIn = false } = {}) {
  let answer;
  try {
    answer = await fetch(path(target), {
      method,
      headers: { ...headers, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
    });
  } catch {
    throw new Problem({ detail: "The service cannot be reached.", code: "unreachable" });
  }
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  if (answer.status === 401 && !signIn) onSignedOut();
  throw new Problem(found, answer.status, Number(answer.headers.get("retry-after")) || null);
}

export async function call(method, target, how = {}) {
  const answer = await ask(method, target, how);
  if (answer.status === 204) return null;
  const isJson = (answer.headers.get("content-type") ?? "").includes("json");
  return isJson ? answer.json() : answer.text();
}

export const get = (target) => call("GET", target);
export const post = (target, body = undefined) => call("POST", target, { body });
export const remove = (target) => call("DELETE", target);

const TUS = { "Tus-Resumable": "1.0.0" };
/** Answers after which the same may go well: nobody there, or somebody else still at it. */
const PASSING = [0, 408, 409, 423, 460, 502, 503, 504];
/** Tries in a row that brought nothing. */
const TRIES = 12;
const LONGEST_PAUSE_SECONDS = 15;

/** A file that is being sent: it goes on where it broke off (tus 1.0.0). */
export class Sending {
  /** @param {(sent: number, waiting: boolean) => void} onProgress - bytes so far */
  constructor(file, fields, onProgress) {
    this.file = file;
    this.fields = fields;
    this.onProgress = onProgress;
    this.place = null;
  }

  /** Sends what is left; returns when there is a job. May be called again after it failed. */
  async run() {
    this.stopped = false;
    for (let failures = 0; ; failures += 1) {
      const before = this.sent;
      try {
        if (await this.#go()) return;
      } catch (problem) {
        if (this.sent > before) failures = 0;
        if (this.stopped || failures >= TRIES || !PASSING.includes(problem.status)) throw problem;
        this.onProgress(this.sent, true);
        await pause(problem.retryAfter ?? Math.min(2 ** failures, LONGEST_PAUSE_SECONDS));
      }
      if (this.stopped) throw new Problem({ detail: "Given up.", code: "given_up" });
    }
  }

  /** Gives it up, here and there. */
  discard() {
    this.stopped = true;
    this.request?.abort();
    if (this.place) ask("DELETE", this.place, { headers: TUS }).catch(() => {});
  }

  async #go() {
    if (!this.place) await this.#announce();
    else if (await this.#look()) return true;
    return this.#send();
  }

  async #announce() {
    const said = { filename: this.file.name, ...this.fields };
    const metadata = Object.entries(said).map(([name, value]) => `${name} ${base64(value)}`).join(",");
    const headers = { ...TUS, "Upload-Length": String(this.file.size), "Upload-Metadata": metadata };
    const answer = await ask("POST", "/uploads", { headers });
    this.place = answer.headers.get("location").slice(root.length);
    this.sent = 0;
  }

  /** Finds out how much is there; whether it is a job already. */
  async #look() {
    try {
      const answer = await ask("HEAD", this.place, { headers: TUS });
      this.sent = Number(answer.headers.get("upload-offset"));
      return answer.headers.has("x-job-id");
    } catch (problem) {
      if (problem.status === 404) this.place = null; // its time was over
      throw problem.status === 404 ? new Problem({ detail: "It begins anew.", code: "expired" }) : problem;
    }
  }

  /** Sends the rest; fetch could not tell how far it is. */
  #send() {
    const from = this.sent;
    const request = new XMLHttpRequest();
    this.request = request;
    return new Promise((resolve, reject) => {
      request.open("PATCH", path(this.place));
      const headers = { ...TUS, "Upload-Offset": String(from), "Content-Type": "application/offset+octet-stream" };
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.addEventListener("progress", (event) => this.onProgress(from + event.loaded, false));
      request.addEventListener("load", () => {
        if (request.status === 204 || request.status === 200) return resolve(request.getResponseHeader("x-job-id") !== null);
        if (request.status === 401) onSignedOut();
        let found = {};
        try { found = JSON.parse(request.responseText); } catch { /* not from us */ }
        return reject(new Problem(found, request.status, Number(request.getResponseHeader("retry-after")) || null));
      });
      const broken = () => reject(new Problem({ detail: "The connection broke.", code: "unreachable" }));
      for (const kind of ["error", "timeout", "abort"]) request.addEventListener(kind, broken);
      request.send(this.file.slice(from));
    });
  }
}

function pause(seconds) {
  return new Promise((resolve) => { setTimeout(resolve, seconds * 1000); });
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
