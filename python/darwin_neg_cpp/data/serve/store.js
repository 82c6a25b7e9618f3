// The conversation in the browser's storage and as a file. The storage may be full, switched off, or hold anything.

import { PARTS } from './answer.js';

const KEY = 'darwin-neg.chat';
const ASIDE = 'darwin-neg.chat.unreadable';
const VERSION = 1;

const isText = (x) => typeof x === 'string';
const isNumber = (x) => x === null || (typeof x === 'number' && Number.isFinite(x));
const isFlag = (x) => x === null || typeof x === 'boolean';

// What was kept, as { settings, turns, problem }: the problem is a sentence, or empty.
export function load() {
  const nothing = { settings: {}, turns: [], problem: '' };
  let kept;
  try {
    kept = localStorage.getItem(KEY);
  } catch {
    return { ...nothing, problem: 'This browser does not let the page keep the conversation.' };
  }
  if (kept === null) return nothing;
  try {
    const data = JSON.parse(kept);
    if (data.version !== VERSION || !Array.isArray(data.turns)) throw new Error('not ours');
    return { settings: Object(data.settings), turns: data.turns.map(unpackTurn), problem: '' };
  } catch {
    try {
      localStorage.setItem(ASIDE, kept);
    } catch {
      // it was there to be looked at; nothing depends on it
    }
    return { ...nothing, problem: 'The conversation that this browser kept cannot be read; a new one begins.' };
  }
}

// Keeps what there is room for; returns a sentence where that is not all.
export function save(settings, turns) {
  const attempts = [
    [(token) => token, ''],
    [(token) => ({ ...token, top: [] }), ''],
    [null, 'The browser’s storage is full: of this conversation it keeps the text without the figures.'],
  ];
  for (const [thin, problem] of attempts) {
    try {
      const packed = turns.map((turn) => packTurn(turn, thin));
      localStorage.setItem(KEY, JSON.stringify({ version: VERSION, settings, turns: packed }));
      return problem;
    } catch {
      // full: the next attempt is shorter. Switched off: all of them fail
    }
  }
  return 'This browser cannot keep the conversation; export it if you want to.';
}

// Enough digits to show a probability; the others would fill the storage.
function short(logprob) {
  return logprob === null ? null : Number(logprob.toPrecision(5));
}

function packTurn(turn, thin) {
  return { ...turn, answers: turn.answers.map((answer) => ({
    ...answer,
    tokens: thin === null ? [] : answer.tokens.map(thin).map((token) => [
      PARTS.indexOf(token.part), token.text, token.entropy, token.active, short(token.logprob),
      token.top.map(([text, logprob]) => [text, short(logprob)])]),
  })) };
}

function unpackTurn(turn) {
  if (!isText(turn.user) || !Array.isArray(turn.answers) || !turn.answers.length) throw new Error('a turn');
  const answers = turn.answers.map(unpackAnswer);
  const chosen = Number.isInteger(turn.chosen) && answers[turn.chosen] ? turn.chosen : 0;
  return { user: turn.user, answers, chosen };
}

function unpackAnswer(answer) {
  const { title, request, reasoning, content, finish, error, speed } = answer;
  const good = [title, reasoning, content, error].every(isText) && (finish === null || isText(finish));
  if (!good || !isNumber(speed) || typeof request !== 'object' || request === null) throw new Error('an answer');
  const tokens = answer.tokens.map(unpackToken);
  return { title, request, reasoning, content, tokens, finish, error, speed };
}

function unpackToken([part, text, entropy, active, logprob, top]) {
  const likely = top.every((one) => isText(one[0]) && isNumber(one[1]));
  if (!isText(PARTS[part]) || !isText(text) || !isNumber(entropy) || !isFlag(active) || !isNumber(logprob) || !likely) {
    throw new Error('a token');
  }
  return { part: PARTS[part], text, entropy, active, logprob, top };
}

// The conversation as a JSON document: messages as OpenAI's API has them, with what is known of each token.
export function exported(turns, model) {
  const messages = turns.flatMap((turn) => {
    const chosen = exportedAnswer(turn.answers[turn.chosen]);
    const others = turn.answers.filter((_, i) => i !== turn.chosen).map(exportedAnswer);
    return [{ role: 'user', content: turn.user }, others.length ? { ...chosen, compared_with: others } : chosen];
  });
  const head = { format: 'darwin-neg chat', version: VERSION, exported: new Date().toISOString(), model };
  return JSON.stringify({ ...head, messages }, null, 1) + '\n';
}

function exportedAnswer(answer) {
  return {
    role: 'assistant',
    content: answer.content,
    ...(answer.reasoning ? { reasoning_content: answer.reasoning } : {}),
    finish_reason: answer.finish,
    ...(answer.error ? { error: answer.error } : {}),
    request: answer.request,
    tokens: answer.tokens.map((token) => ({
      part: token.part,
      token: token.text,
      neg: { entropy: token.entropy, active: token.active },
      logprob: token.logprob,
      top_logprobs: token.top.map(([text, logprob]) => ({ token: text, logprob })),
    })),
  };
}
