// What is known of the token that is pointed at, beside it.

import { isMarked } from './answer.js';
import { pointAt } from './sparkline.js';
import { literal } from './text.js';
import { add, nats, tokenAt } from './view.js';

const GAP = 6; // pixels between the token and the card, and to the window's edge
const PATIENCE = 200; // milliseconds in which the pointer may move from the token to the card

export class Card {
  constructor(element, log) {
    this.element = element;
    this.at = null;
    this.timer = 0;
    const show = (event) => {
      const found = tokenAt(event.target);
      if (found) this.show(found);
      else if (event.type === 'mouseover') this.#hideSoon();
    };
    log.addEventListener('mouseover', show);
    log.addEventListener('focusin', show);
    log.addEventListener('click', (event) => {
      const found = tokenAt(event.target);
      if (found && !String(getSelection())) found.view.focus(found.index);
    });
    log.addEventListener('mouseleave', () => this.#hideSoon());
    log.addEventListener('focusout', (event) => {
      if (!tokenAt(event.relatedTarget ?? log)) this.hide();
    });
    log.addEventListener('scroll', () => this.at && this.#follow(log), { passive: true });
    addEventListener('resize', () => this.hide());
    element.addEventListener('mouseenter', () => clearTimeout(this.timer));
    element.addEventListener('mouseleave', () => this.#hideSoon());
    log.addEventListener('keydown', (event) => this.#go(event));
  }

  show(found) {
    clearTimeout(this.timer);
    this.hide();
    this.at = found;
    this.#fill(found);
    this.element.hidden = false;
    found.span.classList.add('shown');
    found.span.setAttribute('aria-describedby', this.element.id);
    pointAt(found.view.spark, found.index, found.view.answer.tokens.length);
    this.#place();
  }

  hide() {
    clearTimeout(this.timer);
    if (!this.at) return;
    const { span, view } = this.at;
    span.classList.remove('shown');
    span.removeAttribute('aria-describedby');
    pointAt(view.spark, null, 0);
    this.element.hidden = true;
    this.at = null;
  }

  // Fills the card again where the threshold has moved.
  refresh() {
    if (this.at) this.#fill(this.at);
  }

  #hideSoon() {
    clearTimeout(this.timer);
    if (this.at && this.at.span === document.activeElement) return;
    this.timer = setTimeout(() => this.hide(), PATIENCE);
  }

  #fill({ view, index }) {
    const { element } = this;
    const token = view.answer.tokens[index];
    element.replaceChildren();
    if (token.text) add(element, 'b', literal(token.text));
    const what = token.text ? '' : ', writes a part of the next character';
    add(element, 'p', `token ${index + 1} of ${view.answer.tokens.length}${what}`);
    const rows = add(element, 'dl');
    const row = (name, value) => {
      const pair = add(rows, 'div');
      add(pair, 'dt', name);
      add(pair, 'dd', value);
    };
    if (token.entropy !== null) {
      row('predicted entropy', nats(token.entropy));
      const above = isMarked(token, view.threshold);
      if (view.threshold !== null) row('threshold', `${nats(view.threshold)}, ${above ? 'exceeded' : 'not exceeded'}`);
    }
    if (token.active !== null) row('gate, when it was drawn', token.active ? 'active' : 'not active');
    if (token.logprob !== null) row('probability', percent(token.logprob));
    if (!token.top.length) {
      add(element, 'p', 'The server gave no alternatives here.');
      return;
    }
    const table = add(element, 'table');
    add(table, 'caption', 'Likeliest here, before sampling');
    for (const [text, logprob] of token.top) {
      const line = add(table, 'tr', '', text === token.text ? 'taken' : '');
      add(line, 'td', literal(text));
      add(line, 'td', percent(logprob));
      const bar = add(add(line, 'td'), 'span', '', 'bar');
      bar.style.width = `${Math.min(100, 100 * Math.exp(logprob))}%`;
    }
  }

  // Stays beside the token where the text moves, and goes with it where it leaves the window.
  #follow(log) {
    const box = this.at.span.getBoundingClientRect();
    const window = log.getBoundingClientRect();
    if (box.bottom < window.top || box.top > window.bottom) this.hide();
    else this.#place();
  }

  #place() {
    const { span } = this.at;
    const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const { clientWidth, clientHeight } = document.documentElement;
    const left = Math.max(GAP, Math.min(box.left, clientWidth - width - GAP));
    const below = box.bottom + GAP;
    const fits = below + height <= clientHeight || box.top < height + GAP;
    const top = fits ? Math.min(below, clientHeight - height - GAP) : box.top - height - GAP;
    this.element.style.left = `${left}px`;
    this.element.style.top = `${Math.max(GAP, top)}px`;
  }

  #go(event) {
    const found = tokenAt(event.target);
    if (!found || event.ctrlKey || event.altKey || event.metaKey) return;
    const { view, index } = found;
    const target = {
      ArrowRight: () => view.next(index, 1),
      ArrowLeft: () => view.next(index, -1),
      ArrowDown: () => view.next(index, 1, { marked: true }),
      ArrowUp: () => view.next(index, -1, { marked: true }),
      Home: () => view.end(index, -1),
      End: () => view.end(index, 1),
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    const next = target();
    if (next !== null) view.focus(next);
  }
}

function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  return share > 0 && share < 0.01 ? '< 0.01 %' : `${share.toFixed(2)} %`;
}
