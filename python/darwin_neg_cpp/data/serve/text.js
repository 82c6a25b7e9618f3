// Text from outside made safe to show, by the rules of the package's files/shown_text.py: nothing in it is hidden or
// turns the direction of other text.

const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{DI}]/u;
// of the category "format", but drawn
const SEEN_FORMATS = /[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u{110bd}\u{110cd}]/u;
// unseen themselves, but they shape the character before them: in Persian, in Indic scripts, in emoji
const JOINERS = '\u200c\u200d\ufe0e\ufe0f';
const JOINERS_TOGETHER = 2; // an emoji's variation selector and the joiner to the next one
const LONGEST_LINE = 400;

export function isUnseen(character) {
  return UNSEEN.test(character) && !SEEN_FORMATS.test(character);
}

function named(character) {
  const code = character.codePointAt(0);
  return code < 0x20 ? String.fromCharCode(0x2400 + code) : 'U+' + code.toString(16).toUpperCase().padStart(4, '0');
}

// The parts of a text as { text, mark }: what would not be seen is a mark that names it. before: what was shown before
// it, which a joiner at its beginning may shape.
export function visibleParts(text, before = '') {
  const parts = [];
  const add = (part, mark) => {
    const last = parts[parts.length - 1];
    if (last && !mark && !last.mark) last.text += part;
    else parts.push({ text: part, mark });
  };
  let joiners = JOINERS_TOGETHER;
  const earlier = [...before.slice(-6)];
  for (const [i, c] of [...earlier, ...text].entries()) {
    const put = i < earlier.length ? () => {} : add;
    if (JOINERS.includes(c) && joiners < JOINERS_TOGETHER) {
      joiners += 1;
      put(c, false);
    } else if (c === '\n') {
      joiners = JOINERS_TOGETHER;
      put('↵', true);
      put('\n', false);
    } else if (c !== '\t' && isUnseen(c)) {
      joiners = JOINERS_TOGETHER;
      put(named(c), true);
    } else {
      joiners = /\s/.test(c) ? JOINERS_TOGETHER : 0;
      put(c, false);
    }
  }
  return parts.length ? parts : [{ text: '·', mark: true }];
}

// Text as a string literal, in which every unseen character is an escape.
export function literal(text) {
  return JSON.stringify(text).replace(
    /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{DI}]/gu, (c) => '\\u{' + c.codePointAt(0).toString(16) + '}');
}

// Text for one line of a message, cut where it is too long for one.
export function oneLine(text) {
  const line = [...String(text).replace(/\s+/g, ' ').trim()].map((c) => (isUnseen(c) ? `[${named(c)}]` : c)).join('');
  return line.length > LONGEST_LINE ? line.slice(0, LONGEST_LINE) + ' …' : line;
}
