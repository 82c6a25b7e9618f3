// The server that this page came from. Addresses are relative, so that a reverse proxy may put it under a path.

import { oneLine } from './text.js';

// An error in one sentence for people. kind: 'key', 'loading', 'busy', 'lost', 'refused' or 'broken'.
export class ServerError extends Error {
  constructor(kind, sentence) {
    super(sentence);
    this.kind = kind;
  }
}

export class Server {
  constructor() {
    this.key = ''; // here alone: not in an address, not in the browser's storage
  }

  async props() {
    return (await this.#ask('props', {})).json();
  }

  // The chunks of a streamed chat answer.
  async *chat(request, signal) {
    const response = await this.#ask('v1/chat/completions', {
      method: 'POST',
      body: JSON.stringify(request),
      headers: { 'Content-Type': 'application/json' },
      signal,
    });
    let complete = false;
    for await (const data of dataLines(response.body)) {
      if (data === '[DONE]') {
        complete = true;
        continue;
      }
      let chunk;
      try {
        chunk = JSON.parse(data);
      } catch {
        throw new ServerError('broken', 'The server sent something that is not JSON; the answer ends here.');
      }
      if (chunk === null || typeof chunk !== 'object') {
        throw new ServerError('broken', 'The server sent something that is not an object; the answer ends here.');
      }
      if (chunk.error) throw new ServerError('refused', `The server stopped: ${sentence(chunk)}`);
      yield chunk;
    }
    if (!complete) throw cut();
  }

  async #ask(path, options) {
    const headers = { ...options.headers };
    if (this.key) {
      if (!/^[\x21-\x7e]+$/.test(this.key)) {
        throw new ServerError('key', 'An API key has ASCII characters and no spaces; check it under Settings.');
      }
      headers.Authorization = `Bearer ${this.key}`;
    }
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: 'no-store', credentials: 'same-origin' });
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ServerError('lost', 'The server cannot be reached; check that it is running.');
    }
    if (!response.ok) throw await this.#refusal(response);
    return response;
  }

  async #refusal(response) {
    let body = null;
    try {
      body = await response.json();
    } catch {
      // an answer of something between here and the server; its status says enough
    }
    const said = sentence(body);
    if (response.status === 401 || response.status === 403) {
      return new ServerError('key', this.key ? 'The server refused this API key; check it under Settings.'
        : 'The server asks for an API key; type it under Settings.');
    }
    if (response.status === 503 && /loading/i.test(said)) {
      return new ServerError('loading', 'The server is still loading the model.');
    }
    if (response.status === 503 || response.status === 429) {
      const seconds = parseInt(response.headers.get('Retry-After'), 10);
      const when = seconds > 0 ? `in ${seconds} s` : 'in a moment';
      return new ServerError('busy', `The server is busy; try again ${when}.${said ? ` (${said})` : ''}`);
    }
    return new ServerError('refused', `The server answered ${response.status}: ${said || 'no reason given'}`);
  }
}

function sentence(body) {
  const said = body?.error?.message ?? body?.error ?? '';
  return typeof said === 'string' ? oneLine(said) : '';
}

function cut() {
  return new ServerError('lost', 'The connection was lost before the answer was complete.');
}

// The `data:` lines of server-sent events. Characters may be split between reads; the decoder puts them together.
async function* dataLines(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      let read;
      try {
        read = await reader.read();
      } catch (error) {
        throw error.name === 'AbortError' ? error : cut();
      }
      rest += read.done ? decoder.decode() : decoder.decode(read.value, { stream: true });
      const lines = rest.split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith('data:')) yield line.slice(5).trim();
      }
      if (read.done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
