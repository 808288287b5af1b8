// What is in the cache: repositories, then the images of one.

import {get} from './api.js';
import {empty, failure, h, panel, put, say, skeleton, table} from './dom.js';
import {ago, bytes, count, counted, nameOf, short} from './format.js';
import {badge} from './badge.js';

const SHOWN = 200;

const link = (image) => `#/image/${nameOf(image.repository, image.tag ?? image.digest)}`;

function imageRow(image, withRepository) {
  const name = image.tag ?? short(image.digest);
  return h('tr', null,
    h('th', {scope: 'row'}, h('a', {href: link(image)}, withRepository ? `${image.repository}:${name}` : name),
      image.pinned ? [' ', badge('Pinned', 'info', 'It is never evicted')] : null),
    h('td', null, h('code', {title: image.digest}, short(image.digest))),
    h('td', {class: 'wrap'}, image.platforms.join(', ') || '–'),
    h('td', {class: 'number'}, bytes(image.size_bytes)),
    h('td', {class: 'number'}, bytes(image.stored_bytes)),
    h('td', null, image.complete ? badge('Whole', 'good', 'Config and layers of at least one platform are here')
      : badge('Not whole', 'warn', 'Something is missing; it is fetched at the next pull')),
    h('td', {class: 'number'}, image.hits === null ? '–' : count(image.hits)),
    h('td', {class: 'number'}, ago(image.used_at)));
}

const nameOfImage = (image) => `${image.repository}:${image.tag ?? image.digest}`;

const IMAGES = [
  {title: 'Tag', by: nameOfImage}, {title: 'Digest', by: (each) => each.digest},
  {title: 'Platforms', by: (each) => each.platforms.join()},
  {title: 'Size', kind: 'number', by: (each) => each.size_bytes ?? -1},
  {title: 'Here', kind: 'number', by: (each) => each.stored_bytes},
  {title: 'State', by: (each) => Number(each.complete)},
  {title: 'Served', kind: 'number', by: (each) => each.hits ?? -1},
  {title: 'Last use', kind: 'number', by: (each) => each.used_at ?? 0},
];

const REPOSITORIES = [
  {title: 'Repository', by: (each) => each.repository},
  {title: 'Objects', kind: 'number', by: (each) => each.objects},
  {title: 'Stored', kind: 'number', by: (each) => each.stored_bytes},
  {title: 'Held by no other', kind: 'number', by: (each) => each.own_bytes},
];

function imageTable(caption, images, withRepository = false) {
  const [first, ...rest] = IMAGES;
  const columns = withRepository ? [{...first, title: 'Image'}, ...rest] : IMAGES;
  return sorted(caption, columns, images, (each) => imageRow(each, withRepository));
}

/** A table that is sorted by the column whose head is pressed, and that shows a long list in parts. */
function sorted(caption, columns, items, row) {
  let shown = SHOWN;
  let order = null;
  const body = h('tbody');
  const heads = columns.map(({title, by, kind}, number) => {
    const head = h('button', {type: 'button', class: 'head', onclick: () => {
      const isAgain = order?.number === number;
      order = {number, by, sign: isAgain ? -order.sign : kind === 'number' ? -1 : 1};
      heads.forEach((each, place) => {
        if (place === number) each.parentNode.setAttribute('aria-sort', order.sign > 0 ? 'ascending' : 'descending');
        else each.parentNode.removeAttribute('aria-sort');
      });
      fill();
    }}, title);
    return head;
  });
  const more = h('button', {type: 'button', class: 'more', onclick: () => {
    shown += SHOWN;
    fill();
  }});

  function fill() {
    const all = order === null ? items : items.toSorted((one, other) => {
      const [left, right] = [order.by(one), order.by(other)];
      return order.sign * (left < right ? -1 : Number(left > right));
    });
    put(body, all.slice(0, shown).map(row));
    more.hidden = all.length <= shown;
    say(more, `Show more (${count(all.length - shown)} are left)`);
  }
  fill();
  return [table(caption, columns.map(({kind}, number) => [heads[number], kind]), body), more];
}

/** All repositories, with a search. */
export function catalogue(main, app) {
  const results = h('div', {'aria-live': 'polite'}, skeleton(6));
  const note = h('span', {class: 'quiet'});
  const search = h('input', {type: 'search', id: 'search', placeholder: 'alpine, ghcr.io/org/*, alpine:3.*',
    autocomplete: 'off', spellcheck: 'false', value: app.query ?? '', oninput: () => later()});
  put(main, h('h1', null, 'Catalogue'),
    h('form', {class: 'search', role: 'search', onsubmit: (event) => event.preventDefault()},
      h('label', {for: 'search'}, 'Search repositories, or images with a tag or a digest'), search),
    panel('Repositories', note, results));
  let usage = null;
  let timer = null;
  let newest = 0;

  function later() {
    app.query = search.value;
    clearTimeout(timer);
    timer = setTimeout(show, 200);
  }

  async function load() {
    try {
      usage = await get('cache', {repositories: 1});
      await show();
    } catch (error) {
      if (!app.denied(error)) put(results, failure(error, load));
    }
  }

  async function show() {
    const query = search.value.trim();
    const mine = ++newest;
    if (/[:@]/.test(query.replace(/:\d+\//, '/'))) {
      try {
        const {images} = await get('cache/images', {match: query.endsWith('*') ? query : `${query}*`, untagged: query.includes('@') ? 1 : 0});
        if (mine !== newest) return;
        say(note, counted(images.length, 'image'));
        put(results, images.length ? imageTable('Images', images, true)
          : empty('No image here has such a name.', 'A glob may stand for a part: alpine:3.*, ghcr.io/org/**:v1'));
      } catch (error) {
        if (mine === newest && !app.denied(error)) put(results, failure(error, show));
      }
      return;
    }
    if (!usage) return;
    const found = usage.repositories.filter((each) => fits(each.repository, query));
    say(note, `${counted(found.length, 'repository', 'repositories')}; ${bytes(usage.shared_bytes)} shared by several`);
    if (!usage.repositories.length) {
      put(results, empty('The cache is empty.', 'Point a client at this mirror and pull something: ',
        h('a', {href: '#/clients'}, 'how to use me')));
    } else if (!found.length) {
      put(results, empty('No repository here has such a name.', 'Only what clients have pulled is here. With a colon, tags are searched, too: alpine:3'));
    } else {
      put(results, sorted('Repositories', REPOSITORIES, found, row));
    }
  }

  const row = (each) => h('tr', null,
    h('th', {scope: 'row'}, h('a', {href: `#/catalogue/${each.repository}`}, each.repository)),
    h('td', {class: 'number'}, count(each.objects)),
    h('td', {class: 'number'}, bytes(each.stored_bytes)),
    h('td', {class: 'number'}, bytes(each.own_bytes)));

  load();
  return () => clearTimeout(timer);
}

function fits(repository, query) {
  if (!query) return true;
  if (!/[*?]/.test(query)) return repository.toLowerCase().includes(query.toLowerCase());
  const pattern = query.replace(/[.+^${}()|[\]\\]/g, '\\$&').replaceAll('**', '\0')
    .replaceAll('*', '[^/]*').replaceAll('?', '[^/]').replaceAll('\0', '.*');
  return new RegExp(`(^|/)${pattern}$`, 'i').test(repository);
}

/** The images of one repository. */
export function repository(main, app, name) {
  const results = h('div', null, skeleton(5));
  const all = h('input', {type: 'checkbox', onchange: () => load()});
  put(main, h('nav', {class: 'crumbs', 'aria-label': 'Where you are'}, h('a', {href: '#/catalogue'}, 'Catalogue')),
    h('h1', null, name),
    panel('Images', h('label', {class: 'check'}, all, ' also without a tag'), results),
    h('p', null, h('a', {href: `#/requests?${encodeURIComponent(name)}`}, 'Recent requests of this repository')));

  async function load() {
    try {
      const {images} = await get('cache/images', {match: name, untagged: all.checked ? 1 : 0});
      put(results, images.length ? imageTable('Images', images)
        : empty(all.checked ? 'Nothing of this repository is here.' : 'No tag of this repository is here.',
          all.checked ? 'It may have been evicted or removed.' : 'Clients that pull by digest leave none: look also without a tag.'));
    } catch (error) {
      if (!app.denied(error)) put(results, failure(error, load));
    }
  }
  load();
  return () => {};
}
