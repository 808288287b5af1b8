// How to use me: the files that point clients at this mirror.

import {get} from './api.js';
import {copyButton, failure, h, panel, prose, put, skeleton} from './dom.js';

const EVERYWHERE = new Set(['', '0.0.0.0', '::']);

/** Where clients reach the registry: beside the address that this page was opened at. */
function guess({host, port}) {
  const name = EVERYWHERE.has(host) ? location.hostname : host;
  return `${name.includes(':') && !name.startsWith('[') ? `[${name}]` : name}:${port}`;
}

export function clients(main, app) {
  const list = h('div', null, skeleton(8));
  const address = h('input', {id: 'address', autocomplete: 'off', spellcheck: 'false', required: true, onchange: () => load()});
  const https = h('input', {type: 'checkbox', onchange: () => load()});
  let open = new Set(['containerd']);
  put(main, h('h1', null, 'How to use me'),
    h('p', {class: 'lead'}, 'Each client is told by a file of its own to ask this mirror first. All but the last go on to the registry itself when the mirror does not help.'),
    h('form', {class: 'address', onsubmit: (event) => { event.preventDefault(); load(); }},
      h('label', {for: 'address'}, 'Address by which clients reach this mirror'), address,
      h('label', {class: 'check'}, https, ' HTTPS')),
    list, check());

  function check() {
    const line = () => `curl -sI ${https.checked ? 'https' : 'http'}://${address.value}/v2/library/alpine/manifests/latest | grep -i cache-status`;
    const code = h('code');
    const element = panel('Does it work?', copyButton(line),
      h('p', null, 'Pull something, and watch it in ', h('a', {href: '#/requests'}, 'the requests'), '. Or ask by hand; the answer says how it came about:'),
      h('pre', {tabindex: 0}, code));
    element.show = () => put(code, line());
    return element;
  }

  async function load() {
    try {
      if (!address.value) {
        const {registry} = app.overview ?? await get('overview');
        address.value = guess(registry);
        https.checked = registry.is_https;
      }
      main.lastChild.show();
      const given = await get('clients', {address: address.value, https: https.checked ? 1 : 0});
      put(list, given.clients.map(one));
    } catch (error) {
      if (!app.denied(error)) put(list, failure(error, load));
    }
  }

  function one(client) {
    const element = h('details', {class: 'panel client', open: open.has(client.name), id: `client-${client.name}`, ontoggle: () => {
      if (element.open) open.add(client.name);
      else open.delete(client.name);
    }},
      h('summary', null, h('h2', null, client.title)),
      client.files.map(file),
      client.then ? h('p', null, h('b', null, 'Then: '), prose(client.then)) : null,
      client.notes.map((note) => h('p', {class: 'quiet'}, prose(note))));
    return element;
  }

  load();
  return () => {};
}

const file = ({path, content}) => h('figure', {class: 'file'},
  h('figcaption', null, path ? h('code', null, path) : 'In a shell', copyButton(() => content)),
  h('pre', {tabindex: 0}, h('code', null, content)));
