// How the mirror does at this moment.

import {badge} from './badge.js';
import {Chart, rates} from './chart.js';
import {empty, h, keyed, panel, put, say, skeleton, table} from './dom.js';
import {before, bytes, count, counted, percent, rate, short, span} from './format.js';
import {prefetches} from './prefetches.js';

const LIVE_SECONDS = 120;
const STATES = {
  up: ['Up', 'good', 'it answers'],
  idle: ['Not asked yet', 'plain', 'nobody has asked it since the start'],
  limited: ['Limited', 'warn', 'it has said 429, and is left alone for a while'],
  degraded: ['Degraded', 'warn', 'some of its endpoints do not answer'],
  down: ['Down', 'bad', 'none of its endpoints answers; what is here is served'],
  offline: ['Offline', 'plain', 'policy.mode is offline: it is never asked'],
  denied: ['Denied', 'plain', 'policy.mode is deny'],
};

function stat(title, help) {
  const value = h('div', {class: 'stat-value'}, '–');
  const note = h('div', {class: 'stat-note'}, ' ');
  return {value, note,
    element: h('div', {class: 'stat', title: help}, h('h2', {class: 'stat-title'}, title), value, note)};
}

function meter(label) {
  const fill = h('i');
  return {fill, element: h('div', {class: 'meter', role: 'img', 'aria-label': label}, fill)};
}

function setMeter({element, fill}, share, label, kind = '') {
  fill.style.setProperty('inline-size', `${Math.min(100, Math.max(0, share * 100))}%`);
  element.className = `meter ${kind}`;
  element.setAttribute('aria-label', label);
}

export function overview(main, app) {
  const stats = {
    hit: stat('Without a download', 'The share of bytes for which nothing had to be downloaded'),
    bytes: stat('Traffic saved', 'Bytes sent to clients, less those downloaded from upstreams'),
    pulls: stat('Pulls saved', 'Manifests sent to clients, less those downloaded: what pull limits count'),
    requests: stat('Requests', 'Since the mirror started'),
  };
  const chart = new Chart('Throughput', [{name: 'to clients', kind: 'out'}, {name: 'from upstreams', kind: 'in'}]);
  let range = 'live';
  const buttons = [['live', '2 min'], ['hour', '1 h']].map(([name, text]) =>
    h('button', {type: 'button', class: 'small', 'aria-pressed': String(name === range), onclick: (event) => {
      range = name;
      for (const each of buttons) each.setAttribute('aria-pressed', String(each === event.currentTarget));
      draw();
    }}, text));
  const parts = {
    fills: fills(), prefetches: prefetches(app), upstreams: upstreams(), rates: pullRates(), cache: cacheUse(),
  };
  const notReady = h('div', {class: 'banner bad', role: 'alert', hidden: true});
  put(main, h('h1', null, 'Overview'), notReady,
    h('div', {class: 'stats'}, Object.values(stats).map((each) => each.element)),
    panel('Throughput', h('div', {class: 'switch', role: 'group', 'aria-label': 'Time shown'}, buttons), chart.element),
    parts.fills.element, parts.prefetches.element,
    h('div', {class: 'columns'}, parts.cache.element, parts.rates.element),
    parts.upstreams.element);

  function draw() {
    const overview = app.overview;
    if (!overview) return;
    const samples = range === 'live' ? app.samples : [...app.history, overview.sample];
    const seconds = range === 'live' ? LIVE_SECONDS : 3600;
    const from = overview.at - seconds;
    const kept = samples.filter((each) => each.at >= from);
    chart.show([rates(kept, 'sent_bytes'), rates(kept, 'received_bytes')], from, overview.at);
  }

  function update(overview) {
    const {traffic} = overview;
    say(stats.hit.value, percent(traffic.byte_hit_ratio));
    say(stats.hit.note, traffic.hit_ratio === null ? 'nothing was sent yet'
      : `of bytes; ${percent(traffic.hit_ratio)} of requests`);
    say(stats.bytes.value, bytes(traffic.saved_bytes));
    say(stats.bytes.note, `${bytes(traffic.sent_bytes)} sent, ${bytes(traffic.received_bytes)} downloaded`);
    say(stats.pulls.value, count(traffic.saved_pulls));
    const hub = overview.upstreams.find((each) => each.upstream === 'docker.io');
    say(stats.pulls.note, `of ${count(traffic.pulls)}${hub ? `; ${count(hub.saved_pulls)} at Docker Hub` : ''}`);
    say(stats.requests.value, count(traffic.requests));
    const stale = traffic.results.stale ? `, ${count(traffic.results.stale)} stale` : '';
    say(stats.requests.note, `${count(traffic.results.error)} without content${stale}; in ${span(overview.at - traffic.started_at)}`);
    notReady.hidden = !overview.not_ready.length;
    say(notReady, `Not ready: ${overview.not_ready.join('; ')}`);
    draw();
    for (const part of Object.values(parts)) part.update(overview);
  }

  return app.watch('overview', update);
}

function fills() {
  const body = h('tbody');
  const nothing = empty('No download is running.', 'What clients pull and the cache does not have shows up here.');
  const shown = table('Running downloads', ['Blob', 'Progress', ['Speed', 'number'], ['Left', 'number'], ['Readers', 'number']], body);
  const number = h('span', {class: 'quiet'});
  const element = panel('Running downloads', number, skeleton(2));
  const content = element.lastChild;
  let place = content;
  const show = (next) => {
    if (place !== next) place.replaceWith(next);
    place = next;
  };

  function make() {
    const cells = {name: h('td'), bar: h('progress'), part: h('span'), speed: h('td', {class: 'number'}),
      left: h('td', {class: 'number'}), readers: h('td', {class: 'number'})};
    return {...cells, marks: [], element: h('tr', null, cells.name,
      h('td', {class: 'progress'}, cells.bar, cells.part), cells.speed, cells.left, cells.readers)};
  }

  function speed(row, fill, at) {
    row.marks.push([at, fill.received_bytes]);
    if (row.marks.length > 6) row.marks.shift();
    const [[began, had], [ended, has]] = [row.marks[0], row.marks.at(-1)];
    return ended > began ? Math.max(0, (has - had) / (ended - began)) : null;
  }

  function update(overview) {
    say(number, overview.fills.length ? counted(overview.fills.length, 'download') : '');
    show(overview.fills.length ? shown : nothing);
    keyed(body, overview.fills, (fill) => fill.digest, make, (row, fill) => {
      if (!row.name.firstChild) {
        const repository = `${fill.upstream}/${fill.repository}`;
        row.name.append(h('a', {href: `#/catalogue/${repository}`}, repository), h('br'),
          h('code', {title: fill.digest}, short(fill.digest)));
      }
      const perSecond = speed(row, fill, overview.at);
      if (fill.size_bytes === null) row.bar.removeAttribute('value');
      else row.bar.value = fill.received_bytes / Math.max(1, fill.size_bytes);
      row.bar.setAttribute('aria-label', `Progress of ${short(fill.digest)}`);
      say(row.part, fill.is_waiting && !fill.received_bytes ? 'waits for another to end'
        : fill.is_verified ? 'verified' : fill.size_bytes === null ? bytes(fill.received_bytes)
          : `${bytes(fill.received_bytes)} of ${bytes(fill.size_bytes)} (${percent(fill.received_bytes / Math.max(1, fill.size_bytes))})`);
      say(row.speed, perSecond === null ? '–' : rate(perSecond));
      const left = fill.size_bytes === null || !perSecond ? null : (fill.size_bytes - fill.received_bytes) / perSecond;
      say(row.left, left !== null && left < 1 ? '< 1 s' : span(left));
      say(row.readers, count(fill.readers));
    });
  }
  return {element, update};
}

function upstreams() {
  const body = h('tbody');
  const element = panel('Upstreams', null, table('Upstreams',
    ['Name', 'State', ['Answered', 'number'], ['Time to answer', 'number'], ['Asked', 'number'], ['Failed', 'number'],
      ['Downloaded', 'number'], ['Sent', 'number'], ['Pulls saved', 'number']], body));

  const make = (upstream) => {
    const cells = Array.from({length: 7}, () => h('td', {class: 'number'}));
    const state = h('td');
    return {state, cells, element: h('tr', null, h('th', {scope: 'row'}, upstream.upstream), state, cells)};
  };

  function update(overview) {
    keyed(body, overview.upstreams, (each) => each.upstream, make, (row, each) => {
      const [text, kind, why] = STATES[each.state];
      const closed = each.endpoints.filter((endpoint) => !endpoint.is_open);
      const note = closed.map((endpoint) =>
        `${endpoint.url}: ${counted(endpoint.failures, 'time')} without an answer${
          endpoint.closed_seconds ? `, asked again in ${span(endpoint.closed_seconds)}` : ''}`).join('; ');
      put(row.state, badge(text, kind, why), note ? h('div', {class: 'quiet'}, note) : null);
      [each.answered_seconds === null ? '–' : before(each.answered_seconds), span(each.head_seconds),
        count(each.requests), count(each.failed_requests), bytes(each.received_bytes), bytes(each.sent_bytes),
        `${count(each.saved_pulls)} of ${count(each.pulls)}`].forEach((value, number) => say(row.cells[number], value));
      row.cells[3].classList.toggle('bad-text', each.failed_requests > 0);
    });
  }
  return {element, update};
}

function pullRates() {
  const list = h('div', {class: 'rates'});
  const nothing = empty('No pull limit is known.', 'Docker Hub tells it with its answers: it shows up after the first pull from there.');
  const element = panel('Pull limits', null, list, nothing);

  const make = () => {
    const row = {title: h('b'), number: h('span', {class: 'number'}), bar: meter(''), note: h('div', {class: 'quiet'})};
    row.element = h('div', {class: 'rate'}, h('div', {class: 'between'}, row.title, row.number), row.bar.element, row.note);
    return row;
  };

  function forecast(each) {
    if (each.pause_seconds > 0) return `left alone for ${span(each.pause_seconds)}, after a 429`;
    if (each.remaining === 0) return 'none is left; what is here is served';
    if (each.empty_in_seconds === null) return 'not shrinking at the rate of the last hour';
    return `none left in ${span(each.empty_in_seconds)}, at the rate of the last hour`;
  }

  function update(overview) {
    const known = overview.rates.filter((each) => each.limit !== null || each.pause_seconds > 0);
    nothing.hidden = known.length > 0;
    keyed(list, known, (each) => `${each.upstream} ${each.account}`, make, (row, each) => {
      say(row.title, `${each.upstream} (${each.account})`);
      say(row.number, each.limit === null ? '' : `${count(each.remaining)} of ${count(each.limit)} left per ${span(each.window_seconds)}`);
      const share = each.limit ? each.remaining / each.limit : 0;
      setMeter(row.bar, share, `${percent(share)} of the pulls are left`, each.is_low || !share ? 'bad' : '');
      say(row.note, `${forecast(each)}${each.source ? `; counted for ${each.source}` : ''}`);
    });
  }
  return {element, update};
}

function cacheUse() {
  const bar = meter('');
  const title = h('b');
  const number = h('span', {class: 'number'});
  const list = h('dl', {class: 'facts'});
  const element = panel('Cache', h('a', {href: '#/catalogue'}, 'Look through it'),
    h('div', {class: 'between'}, title, number), bar.element, list);

  function update({cache}) {
    const share = cache.limit_bytes ? cache.used_bytes / cache.limit_bytes : 0;
    say(title, `${bytes(cache.used_bytes)} of ${bytes(cache.limit_bytes)}`);
    say(number, percent(share));
    setMeter(bar, share, `${percent(share)} of the cache is used`, share > 0.97 ? 'warn' : '');
    const facts = [['Stored', bytes(cache.stored_bytes)], ['Reserved for downloads', bytes(cache.reserved_bytes)],
      ['Begun downloads', `${bytes(cache.partial_bytes)} in ${count(cache.partials)}`],
      ['Blobs', count(cache.blobs)], ['Manifests', count(cache.manifests)], ['Directory', cache.directory]];
    put(list, facts.map(([name, value]) => [h('dt', null, name), h('dd', null, value)]));
  }
  return {element, update};
}
