// The last requests of clients, and what the next pull would do.

import {get} from './api.js';
import {empty, failure, h, keyed, panel, prose, put, say, shown, skeleton, table} from './dom.js';
import {bytes, clock, count, counted, day, nameOf, percent, short, span} from './format.js';
import {badge} from './badge.js';

const KEPT = 500;
const SHOWN = 100;
const RESULTS = {
  hit: ['Hit', 'good', 'From the cache'],
  joined: ['Joined', 'good', 'A download that another request had begun delivered it'],
  revalidated: ['Confirmed', 'good', 'From the cache, after upstream had confirmed it'],
  miss: ['Miss', 'info', 'It was downloaded for this request'],
  stale: ['Stale', 'warn', 'From the cache although its time was up: upstream is in trouble'],
  passthrough: ['Passed', 'warn', 'From upstream, without being kept: there was no room'],
  error: ['Error', 'bad', 'No content was sent'],
};

const resultBadge = (request) => {
  // A client that asks for a tag that is not there is no error of anybody.
  if (request.result === 'error' && request.status < 500) return badge(String(request.status), 'plain', request.error);
  const [text, kind, why] = RESULTS[request.result] ?? [request.result, 'plain', ''];
  return badge(text, kind, why);
};

const nameIn = (request) => (request.repository ? `${request.upstream}/${request.repository}` : '');

const what = (request) => (request.repository
  ? `${nameIn(request)}${request.reference ? (request.reference.includes(':') ? `@${short(request.reference)}` : `:${request.reference}`) : ''}`
  : request.kind);

let serial = 0;
const numbered = (request) => ({...request, serial: ++serial});

export function requests(main, app, filter) {
  let all = [];
  let live = true;
  let limit = SHOWN;
  const body = h('tbody');
  const rows = table('Requests', ['Time', 'What', 'Result', 'Kind', ['Waited', 'number'], ['Took', 'number'], ['Sent', 'number'], 'Client'], body);
  const place = h('div', null, skeleton(8));
  const more = h('button', {type: 'button', class: 'more', onclick: () => { limit += SHOWN; show(); }}, 'Show more');
  const note = h('span', {class: 'quiet'});
  const search = h('input', {type: 'search', id: 'search', placeholder: 'repository, client, result, status',
    value: filter, autocomplete: 'off', spellcheck: 'false', oninput: () => show()});
  const pause = h('button', {type: 'button', class: 'small', 'aria-pressed': 'false', onclick: () => {
    live = !live;
    pause.setAttribute('aria-pressed', String(!live));
    say(pause, live ? 'Pause' : 'Go on');
    if (live) load();
  }}, 'Pause');
  put(main, h('h1', null, 'Requests'),
    h('form', {class: 'search', role: 'search', onsubmit: (event) => event.preventDefault()},
      h('label', {for: 'search'}, 'Show only requests with'), search),
    panel('The last requests', h('div', {class: 'panel-end'}, note, pause), place));

  const fits = (request, words) => {
    const text = `${what(request)} ${request.reference} ${request.client} ${request.result} ${request.status} ${request.kind} ${request.request_id} ${request.endpoint ?? ''}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };

  function make(request) {
    const open = h('button', {type: 'button', class: 'link', onclick: () => details(request, app)}, what(request));
    return {element: h('tr', null,
      h('td', {title: day(request.at)}, clock(request.at)), h('td', {class: 'wrap'}, open),
      h('td', null, resultBadge(request)),
      h('td', null, `${request.method === 'GET' ? '' : `${request.method} `}${request.kind}`),
      h('td', {class: 'number'}, span(request.waited_seconds)), h('td', {class: 'number'}, span(request.seconds)),
      h('td', {class: 'number'}, bytes(request.sent_bytes)), h('td', null, request.client))};
  }

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = all.filter((each) => fits(each, words));
    say(note, words.length ? `${count(found.length)} of ${count(all.length)}` : counted(all.length, 'request'));
    if (found.length) {
      keyed(body, found.slice(0, limit), (each) => each.serial, make);
      more.hidden = found.length <= limit;
      if (place.firstChild !== rows) put(place, rows, more);
    } else if (all.length) put(place, empty('No request is like that.', 'Only the last ones are kept.'));
    else put(place, empty('Nobody has asked yet.', 'Point a client at this mirror: ', h('a', {href: '#/clients'}, 'how to use me')));
  }

  async function load() {
    try {
      all = (await get('requests', {limit: KEPT})).requests.map(numbered);
      show();
    } catch (error) {
      if (!app.denied(error)) put(place, failure(error, load));
    }
  }
  load();
  return app.watch('requests', (news) => {
    if (!live) return;
    all = [...news.map(numbered), ...all].slice(0, KEPT);
    show();
  });
}

function details(request, app) {
  const next = h('div');
  const rows = [
    ['When', day(request.at)], ['Request', h('code', null, request.request_id)], ['Client', request.client],
    ['Asked for', `${request.method} ${request.kind}`], ['Repository', nameIn(request) || '–'],
    ['Reference', request.reference ? h('code', {class: 'break'}, request.reference) : '–'],
    ['Answer', [`${request.status} `, resultBadge(request), request.reason ? ` because of ${request.reason}` : '']],
    ['Waited for the head', span(request.waited_seconds)], ['Took', span(request.seconds)], ['Sent', bytes(request.sent_bytes)],
    request.endpoint ? ['Upstream asked', h('code', {class: 'break'}, request.endpoint)] : null,
    request.pulls ? ['Cost', `${counted(request.pulls, 'pull')} of the limit`] : null,
    request.error ? ['Why not', h('span', {class: 'break'}, request.error)] : null,
  ];
  shown('A request', h('dl', {class: 'facts wide'},
    rows.filter(Boolean).map(([name, value]) => [h('dt', null, name), h('dd', null, value)])), next);
  if (request.kind !== 'manifest' || !request.repository) return;
  const reference = nameOf(nameIn(request), request.reference);
  put(next, h('h3', null, 'The next pull'), skeleton(3));
  get('explain', {ref: reference}).then(
    (explanation) => put(next, h('h3', null, 'The next pull'), explained(explanation),
      explanation.digest ? h('p', null, h('a', {href: `#/image/${reference}`, onclick: (event) => event.target.closest('dialog').close()}, 'Open the image')) : null),
    (error) => app.denied(error) || put(next, h('p', {class: 'quiet'}, error.message)));
}

/** What the next pull of an image would do, and why. */
export function explained(about) {
  const ttl = about.ttl_seconds === null ? 'for ever' : about.ttl_seconds > 0 ? `for ${span(about.ttl_seconds)} more` : 'not any more';
  const rows = [
    ['What it does', h('b', null, prose(about.action))], ['Why', prose(about.why)],
    ['Here', about.here], ['Age', about.age_seconds === null ? about.age : `${about.age}, ${span(about.age_seconds)}`],
    about.digest ? ['Believed', `${ttl}, by ${about.believed_by}${about.is_stretched ? ' (stretched: few pulls are left)' : ''}`] : null,
    ['Upstream', about.trouble ? [badge(about.upstream, 'warn'), ` ${about.trouble}`] : about.upstream],
    about.rate.limit !== null ? ['Pull limit', `${count(about.rate.remaining)} of ${count(about.rate.limit)} left (${percent(about.rate.remaining / about.rate.limit)})`] : null,
  ];
  return h('dl', {class: 'facts wide'}, rows.filter(Boolean).map(([name, value]) => [h('dt', null, name), h('dd', null, value)]));
}
