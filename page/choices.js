// What may be chosen for a transcription: models and languages, asked for once.

import { get } from "./api.js";
import { h } from "./dom.js";
import { language } from "./words.js";

const LANGUAGES = "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue".split(" ");

let asked = null;

export function models() {
  asked ??= get("/v1/models").then((list) => list.data.filter((model) => model.owned_by !== "openai").map((model) => model.id)).catch(() => []);
  return asked;
}

export function languageSelect(chosen = "", attributes = {}) {
  const rows = LANGUAGES.map((code) => [code, language(code)]).sort((a, b) => a[1].localeCompare(b[1]));
  return h("select", attributes, h("option", { value: "" }, "Detect"),
    rows.map(([code, name]) => h("option", { value: code, selected: code === chosen }, name)));
}

export async function modelSelect(chosen = "", attributes = {}) {
  const names = await models();
  return h("select", attributes, h("option", { value: "" }, "Default"),
    names.map((name) => h("option", { value: name, selected: name === chosen }, name)));
}
