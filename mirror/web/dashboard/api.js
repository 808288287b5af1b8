// The admin API. All addresses are relative to the page, so that it works below any path.

const KEY = 'mirror-admin-credential';
let credential = stored();

function stored() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // a browser that keeps nothing for this page
  }
}

/** Show a token, or a user's password, from now on; it is gone when the tab is closed. */
export function useCredential(user, secret) {
  const pair = new TextEncoder().encode(`${user}:${secret}`);
  credential = user ? `Basic ${btoa(String.fromCharCode(...pair))}` : `Bearer ${secret.replace(/[^\x21-\x7e]/g, '')}`;
  try {
    sessionStorage.setItem(KEY, credential);
  } catch { /* it stays in memory */ }
}

/** Forget it. */
export function forgetCredential() {
  credential = null;
  try {
    sessionStorage.removeItem(KEY);
  } catch { /* it was in memory only */ }
}

export const hasCredential = () => credential !== null;

/** An answer that is none; `hint` says what to do. */
export class Problem extends Error {
  constructor(status, code, message, hint = '', isRead = true) {
    super(message);
    this.isRead = isRead;
    this.status = status;
    this.code = code;
    this.hint = hint;
  }

  /** Nobody may look without showing who he is, or he may not. */
  get isAccess() {
    return this.status === 401 || (this.status === 403 && (this.code.startsWith('token_')
      || (this.code === 'role_missing' && this.isRead)));
  }

  /** Another credential would help. */
  get isCurable() {
    return this.status === 401 || this.code === 'role_missing';
  }
}

async function fetched(path, options) {
  const headers = {'X-Mirror-CSRF': '1'};
  if (credential !== null) headers.Authorization = credential;
  let response;
  try {
    response = await fetch(`api/v1/${path}`, {...options, headers, cache: 'no-store', credentials: 'same-origin'});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, 'unreachable', 'The mirror does not answer.', 'Does it run, and can this browser reach it?');
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const problem = body?.error ?? {};
  throw new Problem(response.status, problem.code ?? 'http',
    problem.message ?? `The answer is ${response.status} ${response.statusText}.`, problem.hint, !options.method);
}

function target(path, query) {
  const pairs = Object.entries(query ?? {}).filter(([, value]) => value !== undefined);
  const text = new URLSearchParams(pairs).toString();
  return text ? `${path}?${text}` : path;
}

export const get = async (path, query, signal) =>
  (await fetched(target(path, query), {signal})).json();

export const send = async (method, path, {query, body} = {}) =>
  (await fetched(target(path, query),
    {method, body: body === undefined ? undefined : JSON.stringify(body)})).json();

/**
 * Listen to the events until the returned function is called. Not by EventSource: that cannot
 * send a token.
 */
export function listen(on, onState) {
  const stop = new AbortController();
  let pause = 1000;

  async function once() {
    const response = await fetched('events', {signal: stop.signal});
    onState('live');
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return;
      pause = 1000;
      const blocks = (rest + value).split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) dispatch(block);
    }
  }

  function dispatch(block) {
    const [head, data] = block.split('\ndata: ');
    try {
      on(head.replace('event: ', ''), JSON.parse(data));
    } catch (error) {
      console.error(error); // a fault of the page is not one of the connection
    }
  }

  (async () => {
    while (!stop.signal.aborted) {
      try {
        await once();
      } catch (error) {
        if (stop.signal.aborted) return;
        onState(error instanceof Problem && error.isAccess ? 'denied' : 'lost', error);
        if (error instanceof Problem && error.isAccess) return;
        await new Promise((wake) => setTimeout(wake, pause));
        pause = Math.min(pause * 2, 15000);
      }
    }
  })();
  return () => stop.abort();
}
