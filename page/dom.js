// Elements without markup: what a client or a model said is only ever text.

/**
 * Makes an element. Properties beginning with "on" are listeners; null, undefined and false leave
 * an attribute or a child out.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child);
  }
}

export function show(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/** Says something for a while, also to screen readers. */
export function toast(text, { bad = false } = {}) {
  const note = h("p", { class: bad ? "toast bad" : "toast" }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), bad ? 8000 : 4000);
}

/** Asks before something that cannot be undone. */
export function confirmed(question, verb) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-label": question, onclose: () => { dialog.remove(); resolve(dialog.returnValue === "yes"); } },
      h("p", {}, question),
      h("div", { class: "buttons" },
        h("button", { onclick: () => dialog.close("") }, "No, keep it"),
        h("button", { class: "danger", onclick: () => dialog.close("yes") }, verb)),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Asks for a line of text; null when nothing is to be changed. */
export function asked(question, value) {
  return new Promise((resolve) => {
    const field = h("input", { type: "text", "aria-label": question, value, maxlength: "200" });
    const form = h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); dialog.close("yes"); } },
      h("p", {}, question), field,
      h("div", { class: "buttons" },
        h("button", { type: "button", onclick: () => dialog.close("") }, "Leave it"),
        h("button", { class: "primary" }, "Save")));
    const dialog = h("dialog", { "aria-label": question,
      onclose: () => { dialog.remove(); resolve(dialog.returnValue === "yes" ? field.value.trim() : null); } }, form);
    document.body.append(dialog);
    dialog.showModal();
    field.select();
  });
}

/**
 * Calls again and again while the page is looked at, until it is stopped.
 *
 * @param {() => number} pause - seconds from one call to the next, asked for anew each time
 * @returns {{stop: () => void, restart: () => void}} restart begins a new pause
 */
export function every(pause, act) {
  let timer = null;
  let stopped = false;
  const restart = (seconds = pause()) => {
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(round, seconds * 1000);
  };
  const round = async () => {
    if (document.hidden) return restart();
    try {
      await act();
      return restart();
    } catch (error) {
      return restart(Math.max(pause(), error.retryAfter ?? 10));
    }
  };
  const seen = () => { if (!document.hidden && !stopped) round(); };
  document.addEventListener("visibilitychange", seen);
  restart();
  const stop = () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
  };
  return { stop, restart: () => restart() };
}
