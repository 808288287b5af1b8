// Elements without markup in strings: text stays text, whoever wrote it.

const SVG = 'http://www.w3.org/2000/svg';

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked') element[name] = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** An element: h('a', {href: '#/'}, 'text', …). */
export const h = (tag, props, ...children) =>
  filled(document.createElement(tag), props, children);

/** An element of a drawing. */
export const s = (tag, props, ...children) =>
  filled(document.createElementNS(SVG, tag), props, children);

/** Put other children into an element. */
export function put(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

/** Set the text of an element, if it is another one. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

const known = new WeakMap();

/**
 * Bring the children of an element into line with a list, and keep those that stay: what is
 * focused or being selected stays so.
 */
export function keyed(parent, items, keyOf, make, update) {
  const old = known.get(parent) ?? new Map();
  const rows = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    const row = old.get(key) ?? make(item);
    rows.set(key, row);
    if (row.element === place) place = place.nextSibling;
    else parent.insertBefore(row.element, place);
    update?.(row, item);
  }
  for (const [key, row] of old) if (rows.get(key) !== row) row.element.remove();
  known.set(parent, rows);
}

/** A text in which `code` stands between back ticks. */
export const prose = (text) =>
  text.split('`').map((part, number) => (number % 2 ? h('code', {class: 'break'}, part) : part));

/** A table with a head; `columns` are texts, or [text, class]. */
export function table(caption, columns, body) {
  const heads = columns.map((column) => {
    const [text, kind] = Array.isArray(column) ? column : [column, null];
    return h('th', {scope: 'col', class: kind}, text);
  });
  return h('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption},
    h('table', null,
      h('caption', {class: 'hidden'}, caption),
      h('thead', null, h('tr', null, heads)), body));
}

/** A part of a page with a heading. */
export const panel = (title, end, ...children) =>
  h('section', {class: 'panel'},
    h('div', {class: 'panel-head'}, h('h2', null, title), end), children);

/** What stands where nothing is, with what to do. */
export const empty = (title, ...more) =>
  h('div', {class: 'empty'}, h('p', {class: 'empty-title'}, title), more.length ? h('p', null, more) : null);

/** Grey bars where something is about to be. */
export const skeleton = (lines = 4) =>
  h('div', {class: 'skeleton', role: 'status', 'aria-label': 'Loading'},
    Array.from({length: lines}, () => h('span')));

/** What went wrong, and a way to try again. */
export const failure = (error, again) =>
  h('div', {class: 'empty failed', role: 'alert'},
    h('p', {class: 'empty-title'}, error.message),
    error.hint ? h('p', null, error.hint) : null,
    again ? h('p', null, h('button', {type: 'button', onclick: again}, 'Try again')) : null);

let toasts = 0;

/** Say something for a few seconds. */
export function toast(text, kind = 'good') {
  const element = h('div', {class: `toast ${kind}`, id: `toast-${++toasts}`}, text);
  document.getElementById('toasts').append(element);
  setTimeout(() => element.remove(), kind === 'bad' ? 12000 : 5000);
}

/** A button that copies a text. */
export function copyButton(text, label = 'Copy') {
  const button = h('button', {type: 'button', class: 'small', onclick: async () => {
    try {
      await copy(text());
      say(button, 'Copied');
    } catch {
      say(button, 'Select it and press Ctrl-C');
    }
    setTimeout(() => say(button, label), 2000);
  }}, label);
  return button;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Over plain HTTP browsers have nothing better.
  const area = h('textarea', {class: 'hidden', value: text});
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  if (!done) throw new Error('not copied');
}

/** Ask before something is done; resolves to whether it may be. */
export function confirmed({title, body, action, danger = false}) {
  return new Promise((resolve) => {
    const dialog = h('dialog', {'aria-labelledby': 'dialog-title'},
      h('h2', {id: 'dialog-title'}, title),
      h('div', {class: 'dialog-body'}, body),
      h('div', {class: 'dialog-end'},
        h('button', {type: 'button', onclick: () => dialog.close('')}, 'Cancel'),
        h('button', {type: 'button', class: danger ? 'danger' : 'primary',
          onclick: () => dialog.close('yes')}, action)));
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue === 'yes');
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Show something until it is closed. */
export function shown(title, ...body) {
  const dialog = h('dialog', {'aria-labelledby': 'dialog-title'},
    h('h2', {id: 'dialog-title'}, title),
    h('div', {class: 'dialog-body'}, body),
    h('div', {class: 'dialog-end'},
      h('button', {type: 'button', class: 'primary', onclick: () => dialog.close()}, 'Close')));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
