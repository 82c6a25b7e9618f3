// The fields of the settings: what is asked of the server, and the threshold that marks tokens.

import { FULL_SHADE } from './view.js';

const DEFAULTS = { gate: null, threshold: null, temperature: '', seed: '', maxTokens: '2048', system: '' };
const GATES = ['mask', 'sample', 'off'];
const UNREACHABLE = 100; // nats; no vocabulary has this entropy
const LARGEST_SEED = 0xffffffff - 1; // the last one means "random" to llama.cpp

const byId = (id) => document.getElementById(id);

export class Settings {
  // kept: what an earlier visit had. changed: called with `true` where the threshold has moved.
  constructor(kept, changed) {
    this.values = { ...DEFAULTS };
    for (const name of Object.keys(DEFAULTS)) {
      if (typeof kept[name] === 'string') this.values[name] = kept[name];
    }
    if (!GATES.includes(this.values.gate)) this.values.gate = null;
    if (typeof kept.threshold === 'number' && kept.threshold >= 0) this.values.threshold = kept.threshold;
    else this.values.threshold = null;
    this.head = null;
    this.changed = changed;
    const fields = { temperature: 'temperature', seed: 'seed', 'max-tokens': 'maxTokens', system: 'system' };
    for (const [id, name] of Object.entries(fields)) {
      byId(id).value = this.values[name];
      byId(id).addEventListener('input', () => this.#set(name, byId(id).value));
    }
    byId('gate').addEventListener('change', (event) => this.#set('gate', event.target.value));
    byId('threshold').addEventListener('input', () => this.#setThreshold(Number(byId('threshold').value)));
    byId('threshold-default').addEventListener('click', () => this.#setThreshold(null));
    this.#show();
  }

  // props: what the server says about itself.
  describe(props) {
    this.head = props.neg ?? null;
    const temperature = props.default_generation_settings?.params?.temperature;
    if (typeof temperature === 'number') byId('temperature').placeholder = String(Number(temperature.toFixed(3)));
    byId('gate-fields').disabled = !this.head;
    byId('no-head').hidden = Boolean(this.head);
    this.#showScale(this.head?.threshold);
    this.#show();
    this.changed(true);
  }

  // The slider and the scale of shades go from 0 to beyond the model's own threshold.
  #showScale(threshold) {
    const high = threshold > FULL_SHADE - 1 && threshold < UNREACHABLE;
    const end = high ? Math.ceil(threshold * 1.5) : FULL_SHADE;
    byId('threshold').max = end;
    byId('scale-end').textContent = end;
    byId('scale').style.setProperty('--full', `${(100 * FULL_SHADE) / end}%`);
  }

  get threshold() {
    if (!this.head) return null;
    return this.values.threshold ?? (Number.isFinite(this.head.threshold) ? this.head.threshold : null);
  }

  get gate() {
    return this.values.gate ?? (GATES.includes(this.head?.action) ? this.head.action : 'mask');
  }

  // The fields of a request, and what is wrong with them, as a sentence or empty.
  request() {
    const { temperature, seed, maxTokens } = this.values;
    const problem = [
      [!byId('temperature').validity.badInput && Number(temperature) >= 0 && Number(temperature) < Infinity,
        'The temperature must be a number that is not negative.'],
      [seed === '' || (/^\d+$/.test(seed.trim()) && Number(seed) <= LARGEST_SEED),
        `The seed must be a whole number from 0 to ${LARGEST_SEED}, or empty for a random one.`],
      [/^[1-9]\d*$/.test(maxTokens), 'The maximum number of tokens must be a whole number of at least 1.'],
    ].find(([good]) => !good)?.[1] ?? '';
    return {
      problem,
      fields: {
        ...(temperature === '' ? {} : { temperature: Number(temperature) }),
        seed: seed.trim() === '' ? randomSeed() : Number(seed),
        max_tokens: Number(maxTokens),
      },
    };
  }

  // The `neg` field of a request with this gate; nothing without a head.
  neg(gate) {
    if (!this.head) return {};
    if (gate === 'off') return { neg: false, return_neg: true };
    const own = this.values.threshold === null ? {} : { threshold: this.values.threshold };
    return { neg: { enabled: true, action: gate, ...own }, return_neg: true };
  }

  #set(name, value) {
    this.values[name] = value;
    this.#show();
    this.changed(false);
  }

  #setThreshold(value) {
    this.values.threshold = value;
    this.#show();
    this.changed(true);
  }

  #show() {
    const { threshold } = this;
    for (const radio of byId('gate').querySelectorAll('input')) radio.checked = radio.value === this.gate;
    const slider = byId('threshold');
    if (threshold !== null) slider.value = threshold;
    const shown = threshold === null ? '–' : threshold > UNREACHABLE ? 'never reached' : `${threshold.toFixed(3)} nats`;
    byId('threshold-value').textContent = shown;
    slider.setAttribute('aria-valuetext', shown);
    byId('threshold-default').hidden = this.values.threshold === null;
    const temperature = this.values.temperature || byId('temperature').placeholder;
    const greedy = temperature !== '' && Number(temperature) === 0;
    byId('greedy-note').hidden = !(greedy && this.gate === 'mask' && this.head);
  }
}

function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
}
