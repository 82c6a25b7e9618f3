// An answer on the page. All text of the model and of the server is set as text, never as HTML.

import { figures, isMarked } from './answer.js';
import { drawSparkline, newSparkline } from './sparkline.js';
import { visibleParts } from './text.js';

export const FULL_SHADE = 5; // nats from which on a token has the full shade, as on the pages of `darwin-neg trace`

const views = new WeakMap(); // element -> AnswerView

export function add(parent, name, content = '', className = '') {
  const element = document.createElement(name);
  element.textContent = content;
  if (className) element.className = className;
  parent.append(element);
  return element;
}

const counted = (tokens) => `${tokens} token${tokens === 1 ? '' : 's'}`;

export const nats = (x) => (x === null ? '–' : `${x.toFixed(3)} nats`);

// The token that an element is in, as { view, span, index }, or null.
export function tokenAt(element) {
  const span = element.closest?.('.answer .t');
  const view = span && views.get(span.closest('.answer'));
  return view ? { view, span, get index() { return Number(span.dataset.i); } } : null;
}

export class AnswerView {
  constructor(answer, threshold) {
    this.answer = answer;
    this.threshold = threshold;
    this.spans = []; // of each token, or undefined where it is not shown
    this.drawn = []; // the tokens that the spans were made for
    this.element = document.createElement('article');
    this.element.className = 'answer';
    views.set(this.element, this);
    this.title = add(this.element, 'h3', answer.title);
    this.title.hidden = !answer.title;
    this.fold = add(this.element, 'details', '', 'reasoning');
    this.summary = add(this.fold, 'summary', 'Reasoning');
    this.parts = { reasoning: add(this.fold, 'div', '', 'text'), content: add(this.element, 'div', '', 'text') };
    for (const [name, part] of Object.entries(this.parts)) {
      part.dir = 'auto';
      part.setAttribute('role', 'group');
      part.setAttribute('aria-label', name === 'content' ? 'answer' : 'reasoning');
    }
    this.problem = add(this.element, 'p', '', 'problem');
    this.spark = newSparkline();
    this.element.append(this.spark);
    this.figures = add(this.element, 'p', '', 'figures');
    this.redraw();
  }

  // Shows the tokens that the answer has got since.
  append() {
    for (let i = this.spans.length; i < this.answer.tokens.length; i += 1) this.#addToken(i);
    this.update();
  }

  // Takes over the tokens that a stream's end has put in the place of those that were shown. Mostly some without a text
  // have come between them: then their elements stay, and with them what is focused. Returns whether they stay.
  settle() {
    const old = this.spans.flatMap((span, i) => (span ? [[span, this.drawn[i]]] : []));
    const now = this.answer.tokens.filter((token) => token.part !== 'unseen' && token.text);
    const same = ([, before], token) => before.part === token?.part && before.text === token.text;
    if (!old.every((one, i) => same(one, now[i]))) {
      this.redraw();
      return false;
    }
    this.spans = [];
    for (const token of this.answer.tokens) {
      if (token.part === 'unseen') {
        this.spans.push(undefined);
      } else if (!old.length) {
        break;
      } else if (token.text) {
        this.spans.push(old.shift()[0]);
      } else {
        const span = newSpan('');
        old[0][0].before(span);
        this.spans.push(span);
      }
    }
    this.drawn = this.answer.tokens.slice(0, this.spans.length);
    for (const i of this.spans.keys()) this.#colour(i);
    this.append();
    return true;
  }

  redraw() {
    this.begun = new Set(); // the parts in which there is more than space
    this.spans = [];
    this.drawn = [];
    for (const part of Object.values(this.parts)) part.replaceChildren();
    // kept without its tokens, where the browser's storage was full
    if (!this.answer.tokens.length) {
      for (const [name, part] of Object.entries(this.parts)) {
        if (this.answer[name]) addVisible(part, this.answer[name]);
      }
    }
    this.append();
  }

  #addToken(i) {
    const token = this.answer.tokens[i];
    this.drawn.push(token);
    if (token.part === 'unseen') {
      this.spans.push(undefined);
      return;
    }
    const part = this.parts[token.part];
    // the space before a word stays outside, so that no shade hangs at the end of a line where the word wraps
    const spaced = /^ \S/u.test(token.text);
    if (spaced) part.append(' ');
    // line ends before a text, which tags leave behind, are marks without an empty line
    const first = !this.begun.has(token.part);
    if (token.text.trim()) this.begun.add(token.part);
    const span = newSpan(spaced ? token.text.slice(1) : token.text, part.lastChild?.textContent, first);
    if (!part.querySelector('.t')) span.tabIndex = 0;
    part.append(span);
    this.spans.push(span);
    this.#colour(i);
  }

  #colour(i) {
    const span = this.spans[i];
    if (!span) return;
    const token = this.answer.tokens[i];
    const share = Math.min(1, Math.max(0, (token.entropy ?? 0) / FULL_SHADE));
    span.dataset.i = i;
    span.style.setProperty('--e', Math.round(100 * share));
    span.classList.toggle('a', isMarked(token, this.threshold));
  }

  mark(threshold) {
    this.threshold = threshold;
    for (const [i, span] of this.spans.entries()) {
      span?.classList.toggle('a', isMarked(this.answer.tokens[i], threshold));
    }
    this.update();
  }

  // What is said about the answer as a whole.
  update() {
    const { answer } = this;
    const thoughts = answer.tokens.filter((token) => token.part === 'reasoning').length;
    this.fold.hidden = !answer.reasoning;
    const thinking = this.live && !answer.content;
    this.summary.textContent = `${thinking ? 'Reasoning …' : 'Reasoning'}${thoughts ? ` · ${counted(thoughts)}` : ''}`;
    this.problem.textContent = answer.error;
    this.problem.hidden = !answer.error;
    this.figures.textContent = this.#figures().join(' · ');
    drawSparkline(this.spark, answer.tokens, this.threshold);
  }

  #figures() {
    const { answer } = this;
    const { request } = answer;
    const of = figures(answer, this.threshold);
    const words = [counted(of.tokens)];
    if (of.known) {
      words.push(`mean entropy ${nats(of.mean)}`);
      words.push(`${of.marked} marked (${((100 * of.marked) / of.known).toFixed(0)} %)`);
    }
    if (answer.speed) words.push(`${answer.speed.toFixed(answer.speed < 10 ? 1 : 0)} tokens/s`);
    if (request.neg === false) words.push('gate off');
    else if (request.neg) words.push(`gate ${request.neg.action}`);
    if (typeof request.temperature === 'number') words.push(`temperature ${request.temperature}`);
    if (typeof request.seed === 'number') words.push(`seed ${request.seed}`);
    if (answer.finish === 'length') words.push('ended by the maximum number of tokens');
    if (answer.finish === 'stopped') words.push('stopped');
    return words;
  }

  setLive(live) {
    this.live = live;
    this.element.setAttribute('aria-busy', live);
    this.element.classList.toggle('live', live);
    this.update();
  }

  // The number of the token that is `step` tokens (or marked tokens) away in the same text, or null.
  next(index, step, { marked = false } = {}) {
    const { part } = this.answer.tokens[index];
    for (let i = index + step; i >= 0 && i < this.spans.length; i += step) {
      const token = this.answer.tokens[i];
      if (token.part === part && (!marked || isMarked(token, this.threshold))) return i;
    }
    return null;
  }

  // The first or last token of the text that this token is in.
  end(index, step) {
    let at = index;
    for (let i = index; i !== null; i = this.next(i, step)) at = i;
    return at;
  }

  focus(index) {
    const span = this.spans[index];
    if (!span) return;
    if (this.answer.tokens[index].part === 'reasoning') this.fold.open = true;
    for (const other of span.parentElement.querySelectorAll('.t[tabindex="0"]')) other.tabIndex = -1;
    span.tabIndex = 0;
    span.focus();
    span.scrollIntoView({ block: 'nearest' });
  }

  // Marks the token where two answers part; -1: this one had ended.
  markDifference(index) {
    for (const span of this.spans) span?.classList.remove('d');
    if (index >= 0) this.spans[index]?.classList.add('d');
  }
}

function newSpan(text, before, first) {
  const span = document.createElement('span');
  span.className = 't';
  span.tabIndex = -1;
  addVisible(span, text, before, first);
  return span;
}

function addVisible(parent, text, before = '', first = false) {
  let empty = first;
  for (const { text: part, mark } of visibleParts(text, before)) {
    if (mark) add(parent, 'i', part);
    else parent.append(empty ? part.replace(/^\n/, '') : part);
    empty &&= part === '↵' || !part.trim();
  }
}
