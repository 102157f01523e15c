// A line over time, as a picture with its meaning in words.

import { h, s } from "./dom.js";

export function lineChart(values, meaning) {
  const most = Math.max(...values, 1);
  const width = values.length - 1;
  const points = values.map((value, at) => `${at},${(100 - (value / most) * 96).toFixed(2)}`);
  return h("div", { class: "chart" },
    s("svg", { viewBox: `0 0 ${width} 100`, preserveAspectRatio: "none", role: "img", "aria-label": meaning },
      s("polygon", { class: "area", points: `0,100 ${points.join(" ")} ${width},100` }),
      s("polyline", { class: "line", points: points.join(" ") })));
}
