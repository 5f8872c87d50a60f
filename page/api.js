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

export async function call(method, target, { body, headers = {}, signIn = false } = {}) {
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
  if (answer.status === 204) return null;
  if (answer.ok) {
    const isJson = (answer.headers.get("content-type") ?? "").includes("json");
    return isJson ? answer.json() : answer.text();
  }
  const found = await answer.json().catch(() => ({}));
  if (answer.status === 401 && !signIn) onSignedOut();
  throw new Problem(found, answer.status, Number(answer.headers.get("retry-after")) || null);
}

export const get = (target) => call("GET", target);
export const post = (target, body = undefined) => call("POST", target, { body });
export const remove = (target) => call("DELETE", target);

/**
 * Sends a file; returns a promise of the job, with a function that gives up.
 * What is sent is told in bytes: fetch cannot say it.
 */
export function upload(file, fields, onProgress) {
  const form = new FormData();
  // before the file: fields that are wrong are refused before it is sent
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", file, file.name);
  const request = new XMLHttpRequest();
  const promise = new Promise((resolve, reject) => {
    request.open("POST", path("/transcribe"));
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total));
    request.addEventListener("load", () => {
      let found = {};
      try { found = JSON.parse(request.responseText); } catch { /* not from us */ }
      if (request.status === 202 || request.status === 200) return resolve(found);
      if (request.status === 401) onSignedOut();
      const after = Number(request.getResponseHeader("retry-after")) || null;
      return reject(new Problem(found, request.status, after));
    });
    const broken = () => reject(new Problem({ detail: "The connection broke.", code: "unreachable" }));
    request.addEventListener("error", broken);
    request.addEventListener("timeout", broken);
    request.addEventListener("abort", () => reject(new Problem({ detail: "Given up.", code: "given_up" })));
    request.send(form);
  });
  promise.abort = () => request.abort();
  return promise;
}
