'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const text = document.getElementById('text');
const panel = document.querySelector('#panel div');
const here = document.getElementById('here');
const tokens = [...text.querySelectorAll('.t')];

const number = (x, unit) => x === null ? '–' : x.toFixed(3) + unit;

// the text as a string literal, in which nothing is hidden and nothing turns the direction
const literal = (s) => JSON.stringify(s).replace(
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{DI}]/gu, (c) => '\\u{' + c.codePointAt(0).toString(16) + '}');

function add(parent, name, content) {
  const element = document.createElement(name);
  element.textContent = content;
  parent.append(element);
  return element;
}

function show(i) {
  const token = data.tokens[i];
  panel.replaceChildren();
  const left = add(panel, 'section', '');
  add(left, 'b', literal(token.text));
  const origin = token.generated ? 'generated' : 'given';
  add(left, 'p', `${origin}, token ${i + 1} of ${data.tokens.length}, id ${token.id}`);
  if (i > 0) {
    const predicted = number(token.predicted, ' nats');
    add(left, 'p', `predicted entropy ${predicted}, true ${number(token.true, ' nats')}`);
    const probability = token.logprob === null ? '–' : Math.exp(token.logprob).toPrecision(3);
    add(left, 'p', `probability of this token ${probability}${token.active ? '; the gate was active' : ''}`);
  } else {
    add(left, 'p', 'nothing is said about the first token');
  }
  const table = add(panel, 'table', '');
  table.setAttribute('aria-label', 'likeliest tokens here');
  for (const [word, p] of token.top) {
    const row = add(table, 'tr', '');
    add(row, 'td', literal(word));
    add(row, 'td', (100 * p).toFixed(2) + ' %');
  }
  if (here) {
    const x = here.dataset.left * 1 + here.dataset.step * i;
    here.setAttribute('x1', x);
    here.setAttribute('x2', x);
    here.removeAttribute('hidden');
  }
}

function go(i) {
  if (i < 0 || i >= tokens.length) return;
  for (const token of tokens) token.tabIndex = -1;
  tokens[i].tabIndex = 0;
  tokens[i].focus();
}

function index(event) {
  const token = event.target.closest('.t');
  return token ? tokens.indexOf(token) : -1;
}

function showTarget(event) {
  const i = index(event);
  if (i >= 0) show(i);
}

// the next token with an active gate in this direction
function gated(i, step) {
  let k = i + step;
  while (data.tokens[k] && !data.tokens[k].active) k += step;
  return k;
}

text.addEventListener('mouseover', showTarget);
text.addEventListener('focusin', showTarget);
text.addEventListener('click', (event) => go(index(event)));
text.addEventListener('keydown', (event) => {
  const i = index(event);
  const target = {
    ArrowRight: () => i + 1,
    ArrowLeft: () => i - 1,
    ArrowDown: () => gated(i, 1),
    ArrowUp: () => gated(i, -1),
    Home: () => 0,
    End: () => tokens.length - 1,
  }[event.key];
  if (target !== undefined) {
    event.preventDefault();
    go(target());
  }
});
if (tokens.length) tokens[0].tabIndex = 0;
