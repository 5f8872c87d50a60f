// Asks how a recording is to be transcribed once more.

import { languageSelect, modelSelect } from "./choices.js";
import { h } from "./dom.js";

/** Returns what is to be other than it was; null when nothing is to be done. */
export async function ask(job) {
  const model = await modelSelect(job.model_size, { id: "again-model" });
  const language = languageSelect("", { id: "again-language" });
  const words = h("input", { type: "checkbox", id: "again-words", checked: true });
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-label": "Transcribe again",
      onclose: () => {
        dialog.remove();
        if (dialog.returnValue !== "yes") return resolve(null);
        const wanted = { language: language.value || null, word_timestamps: words.checked };
        return resolve(model.value && model.value !== job.model_size ? { ...wanted, model_size: model.value } : wanted);
      } },
      h("h2", {}, "Transcribe again"),
      h("p", { class: "quiet" }, "A new job of the same recording; this one stays as it is."),
      h("div", { class: "fields" },
        h("label", { for: "again-model" }, "Model"), model,
        h("label", { for: "again-language" }, "Language"), language,
        h("label", { for: "again-words" }, "A time for each word"), words),
      h("div", { class: "buttons" },
        h("button", { onclick: () => dialog.close("") }, "Not now"),
        h("button", { class: "primary", onclick: () => dialog.close("yes") }, "Transcribe")));
    document.body.append(dialog);
    dialog.showModal();
  });
}
