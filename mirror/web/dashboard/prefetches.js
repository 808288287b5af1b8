// Prefetches that run, and those that have just ended.

import {get, send} from './api.js';
import {confirmed, h, keyed, panel, say, table, toast} from './dom.js';
import {ago, bytes, count, percent} from './format.js';
import {badge} from './badge.js';

const RECENT_SECONDS = 600;
const KINDS = {done: 'good', running: 'info', waiting: 'plain', cancelled: 'plain'};

/** The panel; hidden while there is nothing to show. */
export function prefetches(app) {
  const body = h('tbody');
  const element = panel('Prefetches', null, table('Prefetches',
    ['By', 'State', ['Images', 'number'], 'Progress', ['Begun', 'number'], ''], body));
  element.hidden = true;
  let isAsking = false;

  function make(job) {
    const row = {state: h('td'), images: h('td', {class: 'number'}), bar: h('progress', {'aria-label': `Progress of the prefetch ${job.id}`}),
      part: h('span'), begun: h('td', {class: 'number'})};
    row.stop = h('button', {type: 'button', class: 'small', onclick: () => cancel(job)}, 'Stop');
    row.element = h('tr', null, h('th', {scope: 'row'}, job.origin), row.state, row.images,
      h('td', {class: 'progress'}, row.bar, row.part), row.begun, h('td', null, row.stop));
    return row;
  }

  async function cancel(job) {
    const yes = await confirmed({title: 'Stop this prefetch?', action: 'Stop', danger: true,
      body: ['What it has fetched stays. What is being fetched goes on where it is when somebody pulls it.']});
    if (!yes) return;
    try {
      await send('DELETE', 'prefetch', {query: {id: job.id}});
    } catch (error) {
      if (!app.denied(error)) toast(error.message, 'bad');
    }
  }

  function show(row, job) {
    row.state.replaceChildren(badge(job.state, KINDS[job.state] ?? 'warn'));
    const failed = job.failed ? `, ${count(job.failed)} failed` : '';
    say(row.images, `${count(job.done)} of ${count(job.images)}${failed}`);
    const share = job.total_bytes ? job.done_bytes / job.total_bytes : Number(job.ended_at !== null);
    row.bar.value = share;
    say(row.part, `${bytes(job.done_bytes)} of ${bytes(job.total_bytes)} (${percent(share)}); ${bytes(job.fetched_bytes)} fetched`);
    say(row.begun, ago(job.started_at));
    row.stop.hidden = job.ended_at !== null;
  }

  async function update({at}) {
    if (isAsking) return;
    isAsking = true;
    try {
      if (!(await app.routes())['/api/v1/prefetch']) return;
      const jobs = (await get('prefetch')).prefetches
        .filter((job) => job.ended_at === null || at - job.ended_at < RECENT_SECONDS);
      element.hidden = !jobs.length;
      keyed(body, jobs, (job) => job.id, make, show);
    } catch { /* the connection tells of it */ } finally {
      isAsking = false;
    }
  }
  return {element, update};
}
