// The frame: pages by the fragment of the address, the stream of events, access, theme, keys.

import {forgetCredential, get, hasCredential, listen, Problem, useCredential} from './api.js';
import {catalogue, repository} from './catalogue.js';
import {clients} from './clients.js';
import {h, put, say, shown} from './dom.js';
import {image} from './image.js';
import {overview} from './overview.js';
import {requests} from './requests.js';

const KEPT_SAMPLES = 150;
const PAGES = [
  ['', 'Overview', 'o'], ['catalogue', 'Catalogue', 'c'], ['requests', 'Requests', 'r'], ['clients', 'Clients', 'u'],
];
const THEMES = [['auto', 'As the system', '◐'], ['light', 'Light', '☀'], ['dark', 'Dark', '☾']];
const main = document.getElementById('main');
const live = document.getElementById('live');
const out = document.getElementById('out');

/** What the pages share. */
const app = {
  overview: null,
  samples: [],
  history: [],
  watchers: new Map(),

  /** Call `tell` with each event of a name, and with the latest overview now. */
  watch(name, tell) {
    const all = this.watchers.get(name) ?? new Set();
    this.watchers.set(name, all.add(tell));
    if (name === 'overview' && this.overview) tell(this.overview);
    return () => all.delete(tell);
  },

  tell(name, news) {
    if (name === 'overview') this.keep(news);
    for (const tell of this.watchers.get(name) ?? []) tell(news);
  },

  keep(news) {
    const {at, traffic} = news;
    news.sample = {at, sent_bytes: traffic.sent_bytes, received_bytes: traffic.received_bytes, requests: traffic.requests};
    this.overview = news;
    this.samples = [...this.samples, news.sample].slice(-KEPT_SAMPLES);
  },

  /** What the admin API of this mirror has. */
  async routes() {
    this.paths ??= (await get('openapi.json')).paths;
    return this.paths;
  },

  /** Whether an error is that nobody may look without a token; then it is asked for. */
  denied(error) {
    const is = error instanceof Problem && error.isAccess;
    if (is) askWho(error);
    return is;
  },
};

// --- events ------------------------------------------------------------------------------------

let stop = null;

async function connect() {
  stop?.();
  stop = null;
  state('wait');
  try {
    const first = await get('overview');
    app.history = first.history;
    app.tell('overview', first);
  } catch (error) {
    if (app.denied(error)) return;
  }
  if (document.hidden) return;
  stop?.();
  stop = listen((name, news) => app.tell(name, news), (name, error) => {
    state(name);
    if (name === 'denied') app.denied(error);
  });
}

function state(name) {
  const [text, title] = {live: ['Live', 'Updated once a second'], wait: ['Connecting', ''],
    lost: ['Reconnecting', 'The mirror does not answer; what is shown is old'], denied: ['No access', '']}[name];
  live.className = `live ${name}`;
  live.title = title;
  out.hidden = !hasCredential();
  say(live, text);
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    stop?.();
    stop = null;
  } else if (!stop && !main.querySelector('#secret')) connect();
});

// --- access ------------------------------------------------------------------------------------

function askWho(problem) {
  stop?.();
  stop = null;
  state('denied');
  leave();
  if (main.querySelector('#secret')) return;
  const again = () => { put(main); connect().then(show); };
  const sentence = `${problem.message[0].toUpperCase()}${problem.message.slice(1)}.`;
  if (!problem.isCurable) {
    put(main, h('section', {class: 'panel login'}, h('h1', null, 'Nobody may look'),
      h('p', {role: 'alert'}, sentence), h('p', null, problem.hint),
      h('button', {type: 'button', onclick: again}, 'Try again')));
    return;
  }
  const user = h('input', {id: 'user', autocomplete: 'username', spellcheck: 'false', autocapitalize: 'off'});
  const secret = h('input', {type: 'password', id: 'secret', autocomplete: 'current-password', required: true});
  put(main, h('section', {class: 'panel login'},
    h('h1', null, 'Who are you?'), h('p', {role: 'alert'}, sentence),
    h('form', {onsubmit: (event) => {
      event.preventDefault();
      useCredential(user.value.trim(), secret.value.trim());
      again();
    }},
      h('label', {for: 'secret'}, 'Admin token, or password'), secret,
      h('label', {for: 'user'}, 'User, only with a password'), user,
      h('p', {class: 'quiet'}, 'The content of server.admin.token_file, or who has a role by server.auth.rules. It is kept in this tab until you close it.'),
      h('button', {type: 'submit', class: 'primary'}, 'Go on'))));
  secret.focus();
}

// --- pages -------------------------------------------------------------------------------------

let leave = () => {};

function show() {
  if (main.querySelector('#secret')) return;
  leave();
  const whole = decodeURIComponent(location.hash.replace(/^#\/?/, ''));
  const [path, query = ''] = whole.split('?');
  const [page, ...rest] = path.split('/');
  const name = rest.join('/');
  main.replaceChildren();
  leave = open(page, name, query) ?? (() => {});
  const at = page === 'image' ? 'catalogue' : page;
  for (const link of document.querySelectorAll('#nav a')) {
    if (link.dataset.page === at) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const title = main.querySelector('h1')?.textContent;
  document.title = title && title !== 'Overview' ? `${title} – Mirror` : 'Mirror';
}

function open(page, name, query) {
  switch (page) {
    case 'catalogue': return name ? repository(main, app, name) : catalogue(main, app);
    case 'image': return image(main, app, name);
    case 'requests': return requests(main, app, query);
    case 'clients': return clients(main, app);
    default: return overview(main, app);
  }
}

window.addEventListener('hashchange', () => {
  document.querySelectorAll('dialog[open]').forEach((dialog) => dialog.close());
  show();
  window.scrollTo(0, 0);
  main.focus({preventScroll: true});
});

put(document.getElementById('nav'), PAGES.map(([page, title]) => h('a', {href: `#/${page}`, 'data-page': page}, title)));
document.getElementById('skip').addEventListener('click', () => main.focus());

// --- theme and keys ----------------------------------------------------------------------------

const themeButton = document.getElementById('theme');

function theme(name) {
  const [, title, sign] = THEMES.find(([each]) => each === name) ?? THEMES[0];
  if (name === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  say(themeButton, sign);
  themeButton.title = `Colours: ${title.toLowerCase()}`;
  themeButton.setAttribute('aria-label', themeButton.title);
  themeButton.dataset.name = name;
}

function remembered() {
  try {
    return localStorage.getItem('mirror-theme') ?? 'auto';
  } catch {
    return 'auto';
  }
}

themeButton.addEventListener('click', () => {
  const names = THEMES.map(([name]) => name);
  const next = names[(names.indexOf(themeButton.dataset.name) + 1) % names.length];
  theme(next);
  try {
    localStorage.setItem('mirror-theme', next);
  } catch { /* until the page is loaded again */ }
});

function help() {
  const keys = [...PAGES.map(([, title, key]) => [`g ${key}`, title]), ['/', 'Search'], ['?', 'These shortcuts'], ['Esc', 'Close what is open']];
  shown('Keyboard shortcuts', h('dl', {class: 'facts keys'},
    keys.map(([key, title]) => [h('dt', null, key.split(' ').map((each) => [h('kbd', null, each), ' '])), h('dd', null, title)])));
}

let pending = false;

document.addEventListener('keydown', (event) => {
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const page = pending && PAGES.find(([, , key]) => key === event.key);
  pending = event.key === 'g';
  if (page) location.hash = `#/${page[0]}`;
  else if (event.key === '?') help();
  else if (event.key === '/') {
    event.preventDefault();
    const field = document.getElementById('search');
    if (field) field.focus();
    else location.hash = '#/catalogue';
  }
});

document.getElementById('keys').addEventListener('click', help);
out.addEventListener('click', () => {
  forgetCredential();
  location.reload();
});

theme(remembered());
show();
connect();
