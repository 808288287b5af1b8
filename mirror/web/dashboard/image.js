// One image: what it is, what is in it, what its tag meant, and what can be done with it.

import {get, send} from './api.js';
import {confirmed, copyButton, empty, failure, h, panel, put, skeleton, table, toast} from './dom.js';
import {ago, bytes, counted, day, nameOf, percent, short, span, split} from './format.js';
import {badge} from './badge.js';
import {explained} from './requests.js';

const INDEX = /image\.index|manifest\.list/;
const CONFIG = /\.config\.|container\.image/;

const kindOf = (type) => (CONFIG.test(type ?? '') ? 'Config' : /layer|rootfs|tar/.test(type ?? '') ? 'Layer' : 'Part');

export function image(main, app, reference) {
  const body = h('div', null, skeleton(8));
  const [repository] = split(reference);
  put(main,
    h('nav', {class: 'crumbs', 'aria-label': 'Where you are'},
      h('a', {href: '#/catalogue'}, 'Catalogue'), h('a', {href: `#/catalogue/${repository}`}, repository)),
    h('h1', {class: 'break'}, reference), body);

  async function load() {
    try {
      const details = await get('cache/image', {ref: reference});
      const [explanation, {referrers}, {pins}, routes] = await Promise.all([
        get('explain', {ref: reference}).catch((error) => error),
        get('cache/referrers', {ref: reference}), get('cache/pins'), app.routes()]);
      const pin = pins.find((each) => each.image === (explanation.image ?? reference));
      const canPrefetch = Boolean(routes['/api/v1/prefetch']?.post);
      put(body, actions(details, pin, canPrefetch), facts(details, pin),
        nextPull(explanation), content(details), history(details), referring(referrers, repository));
    } catch (error) {
      if (app.denied(error)) return;
      put(body, error.code === 'not_found'
        ? empty('This image is not here.', 'It may have been removed or evicted; it comes back with its next pull. ',
          h('a', {href: `#/catalogue/${repository}`}, 'The other images of this repository'))
        : failure(error, load));
    }
  }

  async function doing(work, said) {
    try {
      const result = await work();
      toast(said(result));
      return true;
    } catch (error) {
      if (!app.denied(error)) toast(`${error.message}${error.hint ? ` – ${error.hint}` : ''}`, 'bad');
      return false;
    }
  }

  function actions(details, pin, canPrefetch) {
    const {tag} = details.image;
    return h('div', {class: 'actions', role: 'group', 'aria-label': 'What can be done'},
      tag ? h('button', {type: 'button', onclick: refresh}, 'Refresh') : null,
      canPrefetch && tag ? h('button', {type: 'button', onclick: () => prefetch(details)}, 'Prefetch') : null,
      pin ? h('button', {type: 'button', disabled: pin.declared, title: pin.declared ? 'Pinned by the configuration: take it out of `pins` there' : null, onclick: unpin}, 'Unpin')
        : h('button', {type: 'button', onclick: () => pinIt(details)}, 'Pin'),
      h('button', {type: 'button', class: 'danger', onclick: purge}, 'Purge'),
      copyButton(() => reference, 'Copy the name'));
  }

  async function refresh() {
    const yes = await confirmed({title: 'Refresh this tag?', action: 'Refresh',
      body: ['Upstream is asked now what the tag means. If it has moved, the new manifest is fetched: one pull of the limit.']});
    if (yes && await doing(() => send('POST', 'cache/refresh', {body: {image: reference}}),
      (done) => (done.moved ? `The tag has moved to ${short(done.now)}` : 'The tag means what it meant'))) load();
  }

  async function prefetch(details) {
    const choice = platformChoice(details, 'Which platforms?');
    const yes = await confirmed({title: 'Prefetch this image?', action: 'Prefetch',
      body: ['What is missing is fetched in the background.', choice.element]});
    if (yes) await doing(() => send('POST', 'prefetch', {body: {images: [reference], platforms: choice.platforms()}}),
      () => 'It is being fetched; the overview shows the downloads');
  }

  async function pinIt(details) {
    const choice = platformChoice(details, 'Which platforms?');
    const yes = await confirmed({title: 'Pin this image?', action: 'Pin',
      body: ['It is never evicted, also what of it comes in later. What is missing of the chosen platforms is fetched.', choice.element]});
    if (yes && await doing(() => send('POST', 'cache/pins', {body: {image: reference, platforms: choice.platforms()}}),
      () => 'It is pinned')) load();
  }

  async function unpin() {
    const yes = await confirmed({title: 'Unpin this image?', action: 'Unpin',
      body: ['It may then be evicted when room is needed.']});
    if (yes && await doing(() => send('DELETE', 'cache/pins', {query: {image: reference}}),
      () => 'It is not pinned any more')) load();
  }

  async function purge() {
    let plan;
    try {
      plan = await send('DELETE', 'cache/images', {query: {ref: reference, dry_run: 1}});
    } catch (error) {
      if (!app.denied(error)) toast(error.message, 'bad');
      return;
    }
    if (plan.pinned.length) {
      toast('A pin keeps it: unpin it first', 'bad');
      return;
    }
    const yes = await confirmed({title: 'Purge this image?', danger: true, action: plan.freed_bytes ? `Purge, and free ${bytes(plan.freed_bytes)}` : 'Purge',
      body: [h('p', null, `${counted(plan.tags, 'tag')} and ${counted(plan.objects, 'object')} go. What another image needs, stays.`),
        h('p', null, 'The next pull fetches it anew, which counts against the pull limit.')]});
    if (yes && await doing(() => send('DELETE', 'cache/images', {query: {ref: reference}}),
      (done) => `${bytes(done.freed_bytes)} are free${done.busy.length ? `; ${counted(done.busy.length, 'object')} is being read and goes later` : ''}`)) {
      location.hash = `#/catalogue/${repository}`;
    }
  }

  load();
  return () => {};
}

function platformChoice(details, label) {
  const known = [...new Set([...details.image.platforms, ...details.parts.map((part) => part.platform)])]
    .filter((each) => each && !each.startsWith('unknown'));
  const boxes = known.map((each) => h('input', {type: 'checkbox', value: each, 'data-platform': each}));
  const element = known.length < 2 ? null : h('fieldset', null, h('legend', null, `${label} Without a choice: all.`),
    boxes.map((box, number) => h('label', {class: 'check'}, box, ` ${known[number]}`)));
  return {element, platforms: () => boxes.filter((box) => box.checked).map((box) => box.dataset.platform)};
}

function facts({image: about, confirmed_at: confirmedAt}, pin) {
  const stored = about.size_bytes ? ` (${percent(about.stored_bytes / about.size_bytes)})` : '';
  const rows = [
    ['Digest', [h('code', {class: 'break'}, about.digest), ' ', copyButton(() => about.digest)]],
    ['Media type', h('code', {class: 'break'}, about.media_type ?? 'unknown')],
    ['Size', bytes(about.size_bytes)],
    ['Here', [`${bytes(about.stored_bytes)}${stored} `, about.complete ? badge('Whole', 'good') : badge('Not whole', 'warn')]],
    ['Platforms here', about.platforms.join(', ') || '–'],
    about.hits === null ? null : ['Served', `${counted(about.hits, 'time')} since the mirror started`],
    ['Last use', about.used_at === null ? 'never' : `${ago(about.used_at)}, ${day(about.used_at)}`],
    confirmedAt !== null ? ['Confirmed by upstream', `${ago(confirmedAt)}, ${day(confirmedAt)}`] : null,
    pin ? ['Pinned', [badge(pin.held ? 'Held at this digest' : 'Never evicted', 'info'), ` ${pin.platforms.join(', ') || 'all platforms'}${pin.declared ? ', by the configuration' : `, ${ago(pin.pinned_at)}`}`]] : null,
  ];
  return panel('About', null, h('dl', {class: 'facts wide'},
    rows.filter(Boolean).map(([name, value]) => [h('dt', null, name), h('dd', null, value)])));
}

const nextPull = (explanation) => panel('The next pull', null,
  explanation instanceof Error ? h('p', {class: 'quiet'}, explanation.message) : explained(explanation));

const shared = (part) => (part.manifests > 1 ? `with ${counted(part.manifests - 1, 'other image')}` : '–');

const here = (part) => (part.stored ? badge('Here', 'good') : badge('Not here', 'plain', 'It is fetched when somebody pulls it'));

function layers(parts) {
  return table('Layers', ['', 'Digest', ['Size', 'number'], 'State', 'Shared', 'Media type'], h('tbody', null,
    parts.map((part) => h('tr', null, h('td', null, kindOf(part.media_type)),
      h('td', null, h('code', {title: part.digest}, short(part.digest))),
      h('td', {class: 'number'}, bytes(part.size_bytes)), h('td', null, here(part)), h('td', null, shared(part)),
      h('td', null, h('code', null, part.media_type ?? 'unknown'))))));
}

function content(details) {
  const {image: about, parts} = details;
  if (!INDEX.test(about.media_type ?? '')) {
    const common = parts.filter((part) => part.manifests > 1);
    const size = common.reduce((sum, part) => sum + part.size_bytes, 0);
    return panel('Layers', h('span', {class: 'quiet'}, common.length ? `${bytes(size)} shared with other images` : null),
      parts.length ? layers(parts) : empty('It links nothing.', null));
  }
  return panel('Platforms', null, h('div', {class: 'platforms'}, parts.map((part) => platform(about, part))));
}

/** A platform of an index; its layers are looked up when it is opened. */
function platform(about, part) {
  const name = part.platform && !part.platform.startsWith('unknown') ? part.platform : 'Attestation or other';
  const reference = nameOf(about.repository, part.digest);
  const head = h('summary', null, h('b', null, name), ' ', h('code', {title: part.digest}, short(part.digest)), ' ', here(part));
  if (!part.stored) return h('div', {class: 'platform'}, head.childNodes.length ? [...head.childNodes] : null);
  const inside = h('div', null, skeleton(3));
  let asked = false;
  return h('details', {class: 'platform', ontoggle: async () => {
    if (asked) return;
    asked = true;
    try {
      const child = await get('cache/image', {ref: reference});
      put(inside, h('p', {class: 'quiet'}, `${bytes(child.image.size_bytes)}, of which ${bytes(child.image.stored_bytes)} are here. `,
        h('a', {href: `#/image/${reference}`}, 'Open it')), layers(child.parts));
    } catch (error) {
      put(inside, failure(error));
    }
  }}, head, inside);
}

function history(details) {
  if (!details.image.tag) return null;
  return panel('What the tag meant', null, table('History of the tag', ['Digest', 'Since', ['For', 'number']], h('tbody', null,
    details.history.map((each, number) => h('tr', null,
      h('td', null, number === 0 ? [h('code', {title: each.digest}, short(each.digest)), ' ', badge('Now', 'info')]
        : h('a', {href: `#/image/${nameOf(details.image.repository, each.digest)}`}, h('code', {title: each.digest}, short(each.digest)))),
      h('td', null, day(each.since)),
      h('td', {class: 'number'}, span((number === 0 ? Date.now() / 1000 : details.history[number - 1].since) - each.since)))))));
}

function referring(referrers, repository) {
  return panel('Signatures and other referrers', null, referrers.length
    ? table('Referrers', ['Kind', 'Digest', ['Size', 'number'], 'State'], h('tbody', null, referrers.map((each) => h('tr', null,
      h('td', {class: 'wrap'}, each.artifact_type, each.tag ? h('div', {class: 'quiet break'}, `tag ${each.tag}`) : null),
      h('td', null, each.stored ? h('a', {href: `#/image/${nameOf(repository, each.digest)}`}, h('code', null, short(each.digest))) : h('code', {title: each.digest}, short(each.digest))),
      h('td', {class: 'number'}, bytes(each.size_bytes)), h('td', null, here(each))))))
    : empty('None is known here.', 'Only what clients have asked for is known; upstream is not asked.'));
}
