// A word in a coloured field; never the colour alone.

import {h} from './dom.js';

export const badge = (text, kind, title) => h('span', {class: `badge ${kind}`, title}, text);
