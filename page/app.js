// Begins: finds out who looks, and shows what the address says.

import { call, get, remove, whenSignedOut } from "./api.js";
import { h, show, toast } from "./dom.js";
import * as job from "./job.js";
import * as list from "./list.js";
import * as operators from "./operators.js";

const main = document.getElementById("main");
const header = document.getElementById("header");
let user = null;
let known = document.documentElement.dataset.known === "true";
let close = () => {};

const ROUTES = [
  [/^#\/jobs\/([0-9a-f-]{36})$/, (id) => job.view(main, id, user)],
  [/^#\/operators$/, () => operators.view(main)],
  [/^/, () => list.view(main, user)],
];

function route() {
  close();
  close = () => {};
  if (!user) return signIn();
  scrollTo(0, 0);
  const [pattern, open] = ROUTES.find(([each]) => each.test(location.hash));
  close = open(...(pattern.exec(location.hash)?.slice(1) ?? []));
  return showHeader();
}

function showHeader() {
  const isAdmin = user?.scopes.includes("admin");
  const here = (hash) => (hash === "#/" ? !location.hash.startsWith("#/operators") : location.hash.startsWith(hash)) ? "page" : null;
  show(header,
    h("a", { class: "brand", href: "#/" }, "Transcription"),
    isAdmin ? h("nav", { "aria-label": "Main" },
      h("a", { href: "#/", "aria-current": here("#/") }, "Jobs"),
      h("a", { href: "#/operators", "aria-current": here("#/operators") }, "Operators")) : null,
    h("span", { class: "gap" }),
    user ? h("span", { class: "quiet who", title: "The key that you signed in with" }, user.anonymous ? "" : user.key) : null,
    user && !user.anonymous ? h("button", { class: "small", onclick: signOut }, "Sign out") : null);
}

function signIn(error = null) {
  document.title = "Sign in – Transcription";
  showHeader();
  const field = h("input", { type: "password", id: "key", name: "key", autocomplete: "current-password", required: true, "aria-describedby": "key-help", spellcheck: false });
  const button = h("button", { class: "primary" }, "Sign in");
  show(main, h("form", { class: "card sign-in", onsubmit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await call("POST", "/session", { headers: { "X-API-Key": field.value.trim() }, signIn: true });
      known = true;
      await begin();
    } catch (problem) {
      signIn(problem.status === 401 ? "That is not a good key." : problem.message);
    }
  } },
    h("h1", {}, "Sign in"),
    h("label", { for: "key" }, "API key"), field,
    h("p", { id: "key-help", class: "quiet" }, "The first one was printed when the service started for the first time. It stays nowhere in this browser: a cookie stands for it."),
    error ? h("p", { class: "bad", role: "alert" }, error) : null,
    button));
  field.focus();
}

async function signOut() {
  await remove("/session").catch(() => {});
  user = null;
  route();
}

async function begin() {
  // who has no session and needs one is not asked for it: a refusal would count against them
  if (!known) return route();
  try {
    user = await call("GET", "/session", { signIn: true });
  } catch (problem) {
    user = null;
    if (problem.status !== 401) {
      show(main, h("div", { class: "card bad" }, h("h1", {}, "Not now"), h("p", {}, problem.message),
        h("button", { onclick: begin }, "Try again")));
      return;
    }
  }
  if (user) user.usage = await get("/usage").catch(() => null);
  route();
}

whenSignedOut(() => {
  if (!user) return;
  user = null;
  toast("You are signed out.");
  route();
});
window.addEventListener("hashchange", route);
window.addEventListener("beforeunload", (event) => { if (list.isSending()) event.preventDefault(); });
window.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, select, textarea") && !location.hash.startsWith("#/jobs/")) {
    const search = main.querySelector("input[type=search]");
    if (search) { event.preventDefault(); search.focus(); }
  }
});
begin();
