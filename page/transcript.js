// The text: paragraphs of one text node each, whose words are known by their place in it. To light
// a word is to move a highlight, so that a day of speech costs no more than a minute of it.

import { h } from "./dom.js";
import { clock } from "./words.js";

const PAUSE_SECONDS = 2;
const ENDS = /[.?!…。！？]["'”’)]?\s*$/;
const FEW = 200;
const ENOUGH = 500;
const MUCH = 1100;
/** A word stays lit so long after its end, unless another begins. */
const AFTERGLOW_SECONDS = 0.8;

const canHighlight = "highlights" in CSS && typeof Highlight === "function";

export class Transcript {
  /** @param {(seconds: number) => void} onSeek - somebody wants to hear what was said then */
  constructor(onSeek) {
    this.onSeek = onSeek;
    this.element = h("div", { class: "transcript" });
    this.element.addEventListener("click", (event) => this.#click(event));
    this.paragraphs = [];
    this.starts = [];
    this.ends = [];
    this.segments = []; // [first word, last word] of each
    this.places = []; // [paragraph, offset, length] of each word
    this.lit = -1;
    this.litParagraph = null;
    this.matches = [];
    this.match = -1;
  }

  /** Adds what was said next. */
  add(segments) {
    const grown = new Set();
    for (const segment of segments) {
      const first = this.starts.length;
      const words = segment.words?.length ? segment.words : [{ ...segment, word: segment.text }];
      for (const word of words) grown.add(this.#word(word.word ?? "", word.start, word.end));
      this.segments.push([first, this.starts.length - 1]);
    }
    for (const paragraph of grown) paragraph.node.data = paragraph.text;
  }

  get text() {
    return this.paragraphs.map((paragraph) => paragraph.text.trim()).join("\n\n");
  }

  get isEmpty() {
    return this.paragraphs.length === 0;
  }

  clear() {
    this.element.replaceChildren();
    this.paragraphs = [];
    this.starts = [];
    this.ends = [];
    this.segments = [];
    this.places = [];
    this.lit = -1;
    this.litParagraph = null;
    this.#mark("word", []);
  }

  #word(text, start, end) {
    let paragraph = this.paragraphs.at(-1);
    if (paragraph === undefined || this.#ends(paragraph, start)) paragraph = this.#begin(start);
    if (!paragraph.text) text = text.trimStart();
    this.starts.push(start);
    this.ends.push(end);
    const lead = text.length - text.trimStart().length;
    this.places.push([paragraph.index, paragraph.text.length + lead, text.trim().length]);
    paragraph.text += text;
    paragraph.end = end;
    return paragraph;
  }

  #ends(paragraph, start) {
    const { length } = paragraph.text;
    if (length > MUCH) return true;
    if (length > ENOUGH && ENDS.test(paragraph.text)) return true;
    return length > FEW && start - paragraph.end > PAUSE_SECONDS;
  }

  #begin(start) {
    const node = document.createTextNode("");
    const index = this.paragraphs.length;
    const body = h("p", { dir: "auto" }, node);
    const time = h("button", { class: "time", "aria-label": `Play from ${clock(start)}`,
      onclick: () => this.onSeek(start) }, clock(start));
    const element = h("div", { class: "paragraph" }, time, body);
    const paragraph = { index, node, element, text: "", start, end: start, first: this.starts.length };
    element.dataset.index = index;
    this.paragraphs.push(paragraph);
    this.element.append(element);
    return paragraph;
  }

  // Following what is heard

  /** The number of the word that is said then; -1 in a silence. */
  at(seconds) {
    let [low, high] = [0, this.starts.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] <= seconds) low = middle + 1;
      else high = middle;
    }
    const found = low - 1;
    return found >= 0 && seconds <= this.ends[found] + AFTERGLOW_SECONDS ? found : -1;
  }

  light(seconds) {
    const word = this.at(seconds);
    if (word === this.lit) return;
    this.lit = word;
    const paragraph = word < 0 ? null : this.paragraphs[this.places[word][0]].element;
    if (paragraph !== this.litParagraph) {
      this.litParagraph?.classList.remove("now");
      paragraph?.classList.add("now");
      this.litParagraph = paragraph;
    }
    this.#mark("word", word < 0 ? [] : [this.#range(...this.places[word])]);
  }

  /** Where the word is that is lit, on the screen; null without one. */
  get litBox() {
    if (this.lit < 0) return null;
    return this.#range(...this.places[this.lit]).getBoundingClientRect();
  }

  /** Begin and end of the paragraph that is heard then. */
  stretch(seconds) {
    let found = this.paragraphs[0];
    for (const paragraph of this.paragraphs) if (paragraph.start <= seconds + 0.01) found = paragraph;
    return found && [found.start, found.end];
  }

  /** Where the paragraph begins that many after the one heard then. */
  step(seconds, by) {
    const now = this.paragraphs.findLastIndex((paragraph) => paragraph.start <= seconds + 0.05);
    return this.paragraphs[Math.max(0, Math.min(now + by, this.paragraphs.length - 1))]?.start;
  }

  /** Marks segments that somebody should look at. */
  doubt(numbers) {
    const ranges = [];
    for (const number of numbers) {
      const [first, last] = this.segments[number] ?? [0, -1];
      for (let word = first; word <= last; word += 1) ranges.push(this.#range(...this.places[word]));
    }
    this.#mark("doubt", ranges);
  }

  /** Shows what was said then. */
  show(seconds) {
    const found = this.paragraphs.findLast((paragraph) => paragraph.start <= seconds + 0.05) ?? this.paragraphs[0];
    found?.element.scrollIntoView({ block: "center" });
  }

  // Finding

  /** Marks all places where something is said; returns how many. */
  find(wanted) {
    this.matches = [];
    this.match = -1;
    const needle = wanted.toLocaleLowerCase();
    for (const paragraph of needle ? this.paragraphs : []) {
      const text = paragraph.text.toLocaleLowerCase();
      for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, at + needle.length)) {
        this.matches.push([paragraph.index, at, needle.length]);
      }
    }
    this.#mark("found", this.matches.map((place) => this.#range(...place)));
    this.#mark("match", []);
    return this.matches.length;
  }

  /** Goes to the next match, or by -1 to the one before; returns its number. */
  next(by = 1) {
    const count = this.matches.length;
    if (!count) return -1;
    this.match = (this.match + by + count) % count;
    const range = this.#range(...this.matches[this.match]);
    this.#mark("match", [range]);
    const element = this.paragraphs[this.matches[this.match][0]].element;
    element.scrollIntoView({ block: "center" });
    return this.match;
  }

  #range(paragraph, offset, length) {
    const { node } = this.paragraphs[paragraph];
    const range = document.createRange();
    range.setStart(node, Math.min(offset, node.data.length));
    range.setEnd(node, Math.min(offset + length, node.data.length));
    return range;
  }

  #mark(name, ranges) {
    if (canHighlight) CSS.highlights.set(name, new Highlight(...ranges));
  }

  #click(event) {
    if (!getSelection().isCollapsed || event.target.closest("button")) return;
    const index = event.target.closest(".paragraph")?.dataset.index;
    if (index === undefined) return;
    const paragraph = this.paragraphs[index];
    const offset = caret(event, paragraph.node);
    let word = paragraph.first;
    if (offset !== null) {
      for (let at = word; this.places[at]?.[0] === paragraph.index && this.places[at][1] <= offset; at += 1) word = at;
    }
    this.onSeek(this.starts[word]);
  }
}

function caret(event, node) {
  if (document.caretPositionFromPoint) {
    const found = document.caretPositionFromPoint(event.clientX, event.clientY);
    return found?.offsetNode === node ? found.offset : null;
  }
  const found = document.caretRangeFromPoint?.(event.clientX, event.clientY);
  return found?.startContainer === node ? found.startOffset : null;
}
