// The page of `darwin-neg serve`: what happens when.

import { addChunk, figures, firstDifference, newAnswer } from './answer.js';
import { Card } from './card.js';
import { Server, ServerError } from './server.js';
import { Settings } from './settings.js';
import { exported, load, save } from './store.js';
import { oneLine, visibleParts } from './text.js';
import { add, AnswerView } from './view.js';

const ASK_AGAIN = 1000; // milliseconds between questions to a server that is loading
const KEEP_AFTER = 500; // milliseconds after a setting has changed
const FOLLOW = 80; // pixels from the end within which the view follows the answer
const ALTERNATIVES = 5;

const byId = (id) => document.getElementById(id);
const log = byId('log');
const prompt = byId('prompt');

const server = new Server();
const kept = load();
let turns = []; // { user, answers, chosen }: two answers where they were compared
let views = []; // of all answers on the page
let cleared = null; // what Clear removed, until it cannot be undone
let running = null; // AbortController of the answer that is being written
let model = '';
let waiting = 0; // the timer of the next question to a server that does not answer yet
let unanswered = true; // whether the line for messages is about that
let keyless = false; // whether a key has been asked for
let keeping = 0; // the timer of the next writing to the browser's storage
let keepingProblem = '';

const settings = new Settings(kept.settings, (thresholdMoved) => {
  if (thresholdMoved) {
    for (const view of views) view.mark(settings.threshold);
    card.refresh();
  }
  clearTimeout(keeping);
  keeping = setTimeout(keep, KEEP_AFTER);
});
const card = new Card(byId('card'), log);

function say(text, button = null) {
  const line = byId('message');
  line.textContent = text;
  if (button) {
    const element = add(line, 'button', button.text, 'link');
    element.type = 'button';
    element.addEventListener('click', button.action);
  }
}

function keep() {
  clearTimeout(keeping);
  const problem = save(settings.values, turns);
  // once, so that nothing else that is said is lost under it
  if (problem && problem !== keepingProblem) say(problem);
  keepingProblem = problem;
}

// ---- the server

async function connect() {
  clearTimeout(waiting);
  try {
    const props = await server.props();
    // an alias may be the path of the file
    model = oneLine(String(props.model_alias || props.model_path || '').split(/[\\/]/).pop() || 'unnamed model');
    byId('model').textContent = model;
    document.title = `${model} – darwin-neg`;
    settings.describe(props);
    if (unanswered) say(kept.problem);
    unanswered = false;
    kept.problem = '';
    if (keyless) {
      openSettings(false);
      prompt.focus();
    }
    keyless = false;
  } catch (error) {
    unanswered = true;
    fail(error);
    byId('model').textContent = error.kind === 'loading' ? 'loading the model …' : 'not connected';
    if (['loading', 'lost', 'busy'].includes(error.kind)) waiting = setTimeout(connect, ASK_AGAIN);
  }
}

function fail(error) {
  say(error instanceof ServerError ? error.message : `The server’s answer cannot be read: ${oneLine(error.message)}`);
  if (error.kind === 'key') {
    keyless = true;
    unanswered = true;
    openSettings(true);
    byId('key').focus();
  }
}

// ---- turns

// Writes one answer into its view. Returns whether it came to its end.
async function write(answer, view, messages) {
  let frame = 0;
  // once for all chunks that come before the next picture
  const draw = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < FOLLOW;
    view.append();
    if (atEnd) log.scrollTop = log.scrollHeight;
  };
  view.setLive(true);
  try {
    const body = { messages, stream: true, logprobs: true, top_logprobs: ALTERNATIVES, ...answer.request };
    for await (const chunk of server.chat(body, running.signal)) {
      const before = answer.tokens;
      addChunk(answer, chunk);
      if (answer.tokens !== before && !view.settle()) card.hide();
      frame ||= requestAnimationFrame(draw);
    }
    return true;
  } catch (error) {
    if (error.name === 'AbortError') {
      answer.finish = 'stopped';
    } else {
      answer.error = error instanceof ServerError ? error.message : 'The server’s answer cannot be read.';
      fail(error);
    }
    return false;
  } finally {
    draw();
    view.setLive(false);
  }
}

function history() {
  const system = settings.values.system.trim();
  const messages = system ? [{ role: 'system', content: system }] : [];
  for (const turn of turns) {
    messages.push({ role: 'user', content: turn.user });
    messages.push({ role: 'assistant', content: turn.answers[turn.chosen].content });
  }
  return messages;
}

async function send(compare) {
  const user = prompt.value;
  if (running || !user.trim()) return;
  const { fields, problem } = settings.request();
  if (problem) {
    say(problem);
    openSettings(true);
    return;
  }
  if (compare && !settings.head) {
    say('There is nothing to compare: this model has no NEG head.');
    return;
  }
  say('');
  openSettings(false);
  cleared = null;
  const messages = [...history(), { role: 'user', content: user }];
  const on = settings.gate === 'off' ? 'mask' : settings.gate;
  const gates = compare ? [on, 'off'] : [settings.gate];
  // both begin from the same state: what a server keeps of a prompt can change the last digits
  const exact = compare ? { cache_prompt: false } : {};
  const request = (gate) => ({ ...fields, ...exact, ...settings.neg(gate) });
  const title = (gate) => (compare ? (gate === 'off' ? 'Gate off' : `Gate on: ${gate}`) : '');
  const turn = { user, answers: gates.map((gate) => newAnswer(request(gate), title(gate))), chosen: 0 };
  prompt.value = '';
  fit();
  running = new AbortController();
  showRunning();
  const shown = showTurn(turn);
  turns.push(turn);
  log.scrollTop = log.scrollHeight;
  let complete = true;
  // one after the other, since what else is in a batch can change the last digits too
  for (const [i, answer] of turn.answers.entries()) {
    if (complete) complete = await write(answer, shown.views[i], messages);
    else answer.error = 'not asked, since the other answer was not completed';
    shown.views[i].update();
  }
  running = null;
  showRunning();
  finish(turn, shown, user);
}

// What is done after a turn, whole or not.
function finish(turn, shown, user) {
  if (turn.answers.every((answer) => !answer.tokens.length && answer.error)) {
    // nothing came: the message goes back to where it can be sent again
    turns = turns.filter((other) => other !== turn);
    views = views.filter((view) => !shown.views.includes(view));
    shown.element.remove();
    if (!prompt.value) prompt.value = user;
    fit();
  } else {
    showDifference(turn, shown);
  }
  byId('welcome').hidden = turns.length > 0;
  if (document.activeElement === document.body && !onPhone()) prompt.focus();
  const { tokens, marked } = figures(turn.answers[0], settings.threshold);
  byId('said').textContent = `The answer has ended: ${tokens} tokens, ${marked} marked.`;
  keep();
}

function showTurn(turn) {
  byId('welcome').hidden = true;
  const element = add(log, 'section', '', turn.answers.length > 1 ? 'turn compared' : 'turn');
  const user = add(element, 'div', '', 'user');
  user.dir = 'auto';
  for (const { text, mark } of visibleParts(turn.user)) {
    if (!mark) user.append(text);
    else if (text !== '↵') add(user, 'i', text);
  }
  const verdict = turn.answers.length > 1 ? add(element, 'p', '', 'verdict') : null;
  const row = add(element, 'div', '', 'answers');
  const shown = { element, verdict, views: [], buttons: [] };
  for (const [i, answer] of turn.answers.entries()) {
    const view = new AnswerView(answer, settings.threshold);
    row.append(view.element);
    shown.views.push(view);
    views.push(view);
    if (turn.answers.length > 1) {
      const button = add(view.title, 'button', 'Continue with this one', 'link');
      button.type = 'button';
      button.addEventListener('click', () => choose(turn, shown, i));
      shown.buttons.push(button);
    }
  }
  choose(turn, shown, turn.chosen);
  return shown;
}

function choose(turn, shown, i) {
  turn.chosen = i;
  for (const [k, button] of shown.buttons.entries()) button.setAttribute('aria-pressed', k === i);
  if (turns.includes(turn)) keep();
}

function showDifference(turn, shown) {
  if (!shown.verdict) return;
  if (turn.answers.some((answer) => answer.error || answer.finish === 'stopped')) {
    shown.verdict.textContent = 'Not compared: an answer is not complete.';
    return;
  }
  const found = firstDifference(...turn.answers);
  const { seed } = turn.answers[0].request;
  if (!found) {
    shown.verdict.textContent = `Seed ${seed}: both answers are the same.`;
    return;
  }
  for (const [i, view] of shown.views.entries()) view.markDifference(found[i]);
  const number = Math.max(...found) + 1;
  shown.verdict.textContent = `Seed ${seed}: the answers part at token ${number}. `;
  const which = found[0] >= 0 ? 0 : 1;
  const button = add(shown.verdict, 'button', 'Show it', 'link');
  button.type = 'button';
  button.addEventListener('click', () => shown.views[which].focus(found[which]));
}

function showRunning() {
  byId('send').hidden = byId('compare').hidden = Boolean(running);
  byId('stop').hidden = !running;
}

// ---- the page

function openSettings(open) {
  document.body.classList.toggle('settings', open);
  byId('settings-button').setAttribute('aria-expanded', open);
}

function onPhone() {
  return matchMedia('(pointer: coarse)').matches;
}

function fit() {
  prompt.style.height = 'auto';
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

function clear() {
  if (running || !turns.length) return;
  cleared = turns;
  restore([]);
  say('The conversation is cleared. ', { text: 'Undo', action: () => {
    if (cleared) restore([...cleared, ...turns]);
    cleared = null;
    say('');
  } });
}

function restore(list) {
  for (const element of log.querySelectorAll('.turn')) element.remove();
  views = [];
  turns = list;
  for (const turn of turns) showDifference(turn, showTurn(turn));
  byId('welcome').hidden = turns.length > 0;
  card.hide();
  keep();
}

function download() {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([exported(turns, model)], { type: 'application/json' }));
  link.download = `darwin-neg-chat-${new Date().toISOString().slice(0, 19).replace(/:/g, '')}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  send(false);
});
byId('compare').addEventListener('click', () => send(true));
byId('stop').addEventListener('click', () => running?.abort());
byId('clear').addEventListener('click', clear);
byId('export').addEventListener('click', download);
byId('settings-button').addEventListener('click', () => openSettings(!document.body.classList.contains('settings')));
byId('suggestions').addEventListener('click', (event) => {
  if (event.target.tagName !== 'BUTTON') return;
  prompt.value = event.target.textContent;
  fit();
  prompt.focus();
});
byId('key').addEventListener('input', () => {
  server.key = byId('key').value.trim();
});
byId('key').addEventListener('change', connect);
byId('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  connect();
});
prompt.addEventListener('input', fit);
prompt.addEventListener('keydown', (event) => {
  // on a phone's keyboard, Enter is a new line
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && !onPhone()) {
    event.preventDefault();
    send(false);
  }
});
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  if (card.at) {
    const { span } = card.at;
    card.hide();
    if (span === document.activeElement) prompt.focus();
  } else if (document.body.classList.contains('settings')) {
    openSettings(false);
    byId('settings-button').focus();
  } else {
    running?.abort();
  }
});
// what was written so far is not lost where the page is left
addEventListener('pagehide', keep);

restore(kept.turns);
fit();
connect();
