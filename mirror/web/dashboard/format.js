// Numbers as people read them, always with their unit.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
const COUNT = new Intl.NumberFormat('en');
const NONE = '–';

export function bytes(size) {
  if (size === null || size === undefined) return NONE;
  let unit = 0;
  while (Math.abs(size) >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const digits = unit === 0 ? 0 : size < 9.95 ? 2 : size < 99.5 ? 1 : 0;
  return `${size.toFixed(digits)} ${UNITS[unit]}`;
}

export const rate = (perSecond) => `${bytes(perSecond)}/s`;

export const count = (number) =>
  (number === null || number === undefined ? NONE : COUNT.format(number));

export const counted = (number, one, many = `${one}s`) =>
  `${count(number)} ${number === 1 ? one : many}`;

export function percent(share) {
  if (share === null || share === undefined) return NONE;
  const value = share * 100;
  if (value > 0 && value < 0.05) return '< 0.1 %';
  if (value > 99 && value < 100) return `${(Math.floor(value * 10) / 10).toFixed(1)} %`;
  return `${value.toFixed(value > 0 && value < 10 ? 1 : 0)} %`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 0.001) return '< 1 ms';
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  if (seconds < 86400 * 700) return `${Math.round(seconds / 86400)} d`;
  return `${Math.round(seconds / 31557600)} y`;
}

export const ago = (at) =>
  (at === null || at === undefined ? 'never' : before(Date.now() / 1000 - at));

export const before = (seconds) => (seconds < 5 ? 'just now' : `${span(seconds)} ago`);

export const clock = (at) => new Date(at * 1000).toLocaleTimeString('en-GB');

export const day = (at) =>
  new Date(at * 1000).toLocaleString('en-GB', {dateStyle: 'medium', timeStyle: 'short'});

export const short = (digest) => {
  const [algorithm, hex] = digest.split(':');
  return hex ? `${algorithm}:${hex.slice(0, 12)}` : digest;
};

/** The name of an image in two parts: repository, and what is behind it. */
export function split(reference) {
  const at = reference.indexOf('@');
  if (at >= 0) return [reference.slice(0, at), reference.slice(at)];
  const colon = reference.lastIndexOf(':');
  return colon > reference.lastIndexOf('/')
    ? [reference.slice(0, colon), reference.slice(colon)] : [reference, ''];
}

export const nameOf = (repository, reference) =>
  `${repository}${reference.includes(':') ? '@' : ':'}${reference}`;
