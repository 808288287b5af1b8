// Two lines over time, drawn anew whenever they change.

import {h, put, s, say} from './dom.js';
import {clock, rate} from './format.js';

const HEIGHT = 180;
const LEFT = 74;
const BOTTOM = 22;
const TOP = 8;

/** A step of the axis that is a round number of binary units. */
function step(most) {
  const raw = Math.max(most, 1) / 3;
  const unit = 1024 ** Math.floor(Math.log(raw) / Math.log(1024));
  const factor = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024].find((each) => each * unit >= raw);
  return factor * unit;
}

function path(points, x, y) {
  return points.map(([at, value], number) =>
    `${number ? 'L' : 'M'}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join('');
}

export class Chart {
  /** `lines` are [{name, kind}]; `show` gets for each of them a list of [at, value]. */
  constructor(label, lines) {
    this.label = label;
    this.lines = lines;
    this.svg = s('svg', {class: 'chart', role: 'img', height: HEIGHT, width: '100%'});
    this.values = lines.map(() => h('b'));
    this.element = h('div', {class: 'chart-box'},
      h('div', {class: 'legend'}, lines.map((line, number) =>
        h('span', {class: line.kind}, h('i'), line.name, ' ', this.values[number]))),
      this.svg);
    this.last = null;
    new ResizeObserver(() => this.last && this.show(...this.last)).observe(this.element);
  }

  show(series, from, to) {
    this.last = [series, from, to];
    const width = this.svg.clientWidth;
    if (!width) return;
    const most = Math.max(3072, ...series.flat().map(([, value]) => value));
    const by = step(most);
    const top = Math.ceil(most / by) * by;
    const x = (at) => LEFT + ((at - from) / (to - from)) * (width - LEFT - 4);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    const now = series.map((points) => points.at(-1)?.[1] ?? 0);
    now.forEach((value, number) => say(this.values[number], rate(value)));
    this.svg.setAttribute('aria-label', `${this.label}: ${
      this.lines.map((line, number) => `${line.name} ${rate(now[number])}`).join(', ')}; at most ${rate(most)}`);
    put(this.svg, this.axes(x, y, by, top, from, to, width),
      series.map((points, number) => points.length > 1 && s('g', {class: this.lines[number].kind},
        s('path', {class: 'area', d: `${path(points, x, y)}L${x(points.at(-1)[0]).toFixed(1)} ${y(0)}L${x(points[0][0]).toFixed(1)} ${y(0)}Z`}),
        s('path', {class: 'line', d: path(points, x, y)}))));
  }

  axes(x, y, by, top, from, to, width) {
    const parts = [];
    for (let value = 0; value <= top + by / 2; value += by) {
      parts.push(s('line', {class: 'grid', x1: LEFT, x2: width, y1: y(value), y2: y(value)}),
        s('text', {x: LEFT - 8, y: y(value) + 4, 'text-anchor': 'end'}, value ? rate(value).replace(/\.0+ /, ' ') : '0'));
    }
    for (const share of [0, 0.5, 1]) {
      const at = from + share * (to - from);
      parts.push(s('text', {x: x(at), y: HEIGHT - 5, 'text-anchor': ['start', 'middle', 'end'][share * 2]}, clock(at)));
    }
    return parts;
  }
}

/** Totals over time as rates: [at, per second]. */
export function rates(samples, field) {
  const points = [];
  for (let number = 1; number < samples.length; number += 1) {
    const before = samples[number - 1];
    const after = samples[number];
    const seconds = after.at - before.at;
    if (seconds < 0.2) continue;
    const value = Math.max(0, (after[field] - before[field]) / seconds);
    // As steps: it was so all the time in between.
    if (seconds > 30) points.push([before.at, value]);
    points.push([after.at, value]);
  }
  return points;
}
