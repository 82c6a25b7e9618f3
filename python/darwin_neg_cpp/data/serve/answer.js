// An answer as data: its text, and its tokens with what is known of each.
//
// A token is { part, text, entropy, active, logprob, top }.
// part: 'reasoning', 'content', or 'unseen' for a token that is not shown, such as a tag.
// text: empty where the token wrote a part of the next one's character.
// entropy: nats, or null. active: the gate's state when the token was drawn, or null.
// top: the likeliest tokens as [text, logprob].

export const PARTS = ['reasoning', 'content', 'unseen'];
const LONGEST_CHARACTER = 8; // UTF-16 units that a character of several tokens may have, in alignment

const finite = (x) => (typeof x === 'number' && Number.isFinite(x) ? x : null);
const flag = (x) => (typeof x === 'boolean' ? x : null);
const list = (x) => (Array.isArray(x) ? x : []);
const text = (x) => (typeof x === 'string' ? x : '');

// request: what was asked for, without the messages. title: what an answer of several is called.
export function newAnswer(request, title = '') {
  return { title, request, reasoning: '', content: '', tokens: [], finish: null, error: '', speed: null };
}

// Takes a chunk of a stream in; returns the number of tokens that it brought. A chunk's entry of `logprobs` belongs to
// the newest token; tokens that wrote nothing yet have no chunk, and their text comes with a later one.
export function addChunk(answer, chunk) {
  const choice = list(chunk.choices)[0] ?? {};
  const entries = list(choice.logprobs?.content);
  const before = answer.tokens.length;
  for (const [part, name] of [['reasoning', 'reasoning_content'], ['content', 'content']]) {
    const delta = text(choice.delta?.[name]);
    if (!delta) continue;
    answer[part] += delta;
    if (entries.length > 1 && entries.map((entry) => text(entry?.token)).join('') === delta) {
      answer.tokens.push(...entries.map((entry) => newToken(part, entry.token, entry, null)));
    } else {
      answer.tokens.push(newToken(part, delta, entries[entries.length - 1], chunk.neg));
    }
  }
  answer.speed = finite(chunk.timings?.predicted_per_second) ?? answer.speed;
  const added = answer.tokens.length - before;
  if (typeof choice.finish_reason === 'string') answer.finish = choice.finish_reason;
  if (choice.neg) settle(answer, choice.neg);
  return added;
}

function newToken(part, written, entry, neg) {
  const top = list(entry?.top_logprobs).map((one) => [candidate(one), finite(one?.logprob)]);
  return {
    part,
    text: written,
    entropy: finite(entry?.neg?.entropy ?? neg?.entropy),
    active: flag(entry?.neg?.active ?? neg?.active),
    logprob: finite(entry?.logprob),
    top: top.filter(([, logprob]) => logprob !== null),
  };
}

// A likely token's text, or its bytes where they are a part of a character.
function candidate(one) {
  const bytes = list(one?.bytes);
  if (!text(one?.token).includes('\ufffd') || !bytes.every(Number.isInteger)) return text(one?.token);
  return bytes.map((byte) => `<${byte.toString(16).toUpperCase().padStart(2, '0')}>`).join('') || one.token;
}

// The complete arrays at a stream's end are the truth about each token, those without a chunk included. Where they do
// not fit the text, what was streamed stays.
function settle(answer, neg) {
  const pieces = list(neg.tokens).map(text);
  const entropy = list(neg.entropy);
  const active = list(neg.active);
  if (!pieces.length || entropy.length !== pieces.length || active.length !== pieces.length) return;
  const whole = answer.reasoning + answer.content;
  const ranges = align(pieces, whole);
  const border = answer.reasoning.length;
  if (!ranges || ranges.some((range) => range && range[0] < border && border < range[1])) return;
  // what a chunk says is about the token that its text ends with
  const streamed = new Map();
  let at = 0;
  for (const token of answer.tokens) {
    at += token.text.length;
    streamed.set(at, token);
  }
  const parts = ranges.map((range) => (range ? (range[0] < border ? 'reasoning' : 'content') : 'unseen'));
  for (let i = parts.length - 2; i >= 0; i -= 1) {
    if (!ranges[i] && !pieces[i]) parts[i] = parts[i + 1];
  }
  const told = ranges.map((range) => range && streamed.get(range[1]));
  // a word of a tag may be taken for one of the text, but not with the entropy that was streamed
  if (told.some((token, i) => token && token.entropy !== null && token.entropy !== entropy[i])) return;
  answer.tokens = pieces.map((piece, i) => {
    const known = told[i];
    return {
      part: parts[i],
      text: ranges[i] ? whole.slice(...ranges[i]) : piece,
      entropy: finite(entropy[i]),
      active: flag(active[i]),
      logprob: known ? known.logprob : null,
      top: known ? known.top : [],
    };
  });
}

// Where each piece stands in the text, as [start, end], or null for one that is not shown; null where the pieces do not
// make up the text. Tags are missing in it, spaces around its parts may be, and bytes of a character that several
// tokens wrote belong to the last of them.
export function align(pieces, whole) {
  const ranges = pieces.map(() => null);
  let at = 0;
  let waiting = -1; // the last piece without a place since the last one with one
  for (const [i, piece] of pieces.entries()) {
    const forms = [piece, piece.trimStart(), piece.trimEnd(), piece.trim()].filter((form) => form);
    let start = at;
    let found = forms.find((form) => whole.startsWith(form, at));
    if (!found && waiting >= 0 && piece.trim()) {
      start = whole.indexOf(piece, at);
      if (start >= 0 && start - at <= LONGEST_CHARACTER) {
        found = piece;
        ranges[waiting] = [at, start];
      }
    }
    if (found) {
      ranges[i] = [start, start + found.length];
      at = start + found.length;
      waiting = -1;
    } else {
      waiting = i;
    }
  }
  if (at < whole.length && waiting >= 0 && whole.length - at <= LONGEST_CHARACTER) {
    ranges[waiting] = [at, whole.length];
    at = whole.length;
  }
  return at === whole.length ? ranges : null;
}

export function isMarked(token, threshold) {
  return token.entropy !== null && threshold !== null && token.entropy > threshold;
}

export function figures(answer, threshold) {
  const known = answer.tokens.map((token) => token.entropy).filter((x) => x !== null);
  const sum = known.reduce((a, b) => a + b, 0);
  return {
    tokens: answer.tokens.length,
    known: known.length,
    mean: known.length ? sum / known.length : null,
    highest: known.length ? Math.max(...known) : null,
    marked: answer.tokens.filter((token) => isMarked(token, threshold)).length,
    active: answer.tokens.filter((token) => token.active).length,
  };
}

// The numbers of the first tokens that differ, one for each answer; null where the answers are equal. A number of -1:
// this answer ended before.
export function firstDifference(a, b) {
  const texts = [a, b].map((answer) => `${answer.reasoning}\0${answer.content}`);
  if (texts[0] === texts[1]) return null;
  let at = 0;
  while (at < texts[0].length && texts[0][at] === texts[1][at]) at += 1;
  return [a, b].map((answer) => {
    let end = 0;
    let part = 'reasoning';
    for (const [i, token] of answer.tokens.entries()) {
      if (token.part === 'unseen') continue;
      if (token.part === 'content' && part === 'reasoning') {
        part = 'content';
        end = answer.reasoning.length + 1;
      }
      end += token.text.length;
      if (at < end) return i;
    }
    return -1;
  });
}
