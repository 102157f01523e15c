// One look for each state, everywhere: a sign, a word and a colour, never the colour alone.

export const TONES = { well: "●", warn: "▲", bad: "✖" };
const STATES = {
  serving: "well", loading: "well", draining: "warn", moving: "warn", paused: "warn",
  silent: "warn", full: "warn", slow: "warn", unreachable: "bad", quarantined: "bad",
};

export function toneOf(state) {
  return STATES[state] ?? "warn";
}

/** Rows under shared columns as objects. */
export function unpacked({ columns, rows }) {
  return rows.map((row) => Object.fromEntries(columns.map((name, at) => [name, row[at]])));
}

export function blocks(start, stop) {
  return stop - start === 1 ? `block ${start}` : `blocks ${start} to ${stop - 1}`;
}

export function spelled(runs) {
  return runs.map(([start, stop]) => (stop - start === 1 ? `${start}` : `${start}–${stop - 1}`)).join(", ");
}
