// Entropy along an answer as a small chart: a line, the threshold, and a tick for each marked token.

import { figures, isMarked } from './answer.js';

const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 600;
const HEIGHT = 40;
const TICK = 4; // height of the strip for ticks, under the line
const SMALLEST_TOP = 2; // nats
const MOST_POINTS = 600; // of a longer answer, the highest of neighbouring tokens

export function newSparkline() {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'spark');
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  for (const name of ['area', 'limit', 'line', 'ticks', 'here']) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', name);
    svg.append(path);
  }
  return svg;
}

export function drawSparkline(svg, tokens, threshold) {
  const { tokens: count, known, mean, highest, marked } = figures({ tokens }, threshold);
  svg.toggleAttribute('hidden', known < 2);
  if (known < 2) return;
  const top = Math.max(SMALLEST_TOP, Math.ceil(highest));
  const bottom = HEIGHT - TICK;
  const x = (i) => ((i * WIDTH) / Math.max(1, count - 1)).toFixed(1);
  const y = (entropy) => (bottom * (1 - Math.max(0, entropy) / top)).toFixed(1);
  const step = Math.max(1, Math.ceil(count / MOST_POINTS));
  const points = [];
  for (let i = 0; i < count; i += step) {
    const values = tokens.slice(i, i + step).map((token) => token.entropy).filter((value) => value !== null);
    if (values.length) points.push(`${x(i)} ${y(Math.max(...values))}`);
  }
  const line = `M${points.join('L')}`;
  const last = points[points.length - 1].split(' ')[0];
  const set = (name, d) => svg.querySelector(`.${name}`).setAttribute('d', d);
  set('line', line);
  set('area', `${line}L${last} ${bottom}L${points[0].split(' ')[0]} ${bottom}Z`);
  set('limit', threshold !== null && threshold <= top ? `M0 ${y(threshold)}H${WIDTH}` : '');
  set('ticks', tokens.map((token, i) => (isMarked(token, threshold) ? `M${x(i)} ${bottom}V${HEIGHT}` : '')).join(''));
  set('here', '');
  svg.setAttribute('aria-label',
    `Entropy over ${count} tokens: mean ${mean.toFixed(2)}, highest ${highest.toFixed(2)} nats; ${marked} marked`);
}

// Shows where a token stands; index null: nowhere.
export function pointAt(svg, index, count) {
  const x = index === null ? '' : ((index * WIDTH) / Math.max(1, count - 1)).toFixed(1);
  svg.querySelector('.here').setAttribute('d', index === null ? '' : `M${x} 0V${HEIGHT}`);
}
