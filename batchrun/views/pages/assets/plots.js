(function () {
  "use strict";
  var block = document.getElementById("data");
  if (!block || typeof uPlot === "undefined") return;
  var charts = JSON.parse(block.textContent).charts;
  var root = getComputedStyle(document.documentElement);
  function colour(name) { return root.getPropertyValue("--" + name).trim(); }
  function clock(s) {
    if (s < 60) return Math.round(s) + "s";
    if (s < 3600) return Math.floor(s / 60) + "m" + String(Math.round(s % 60)).padStart(2, "0") + "s";
    return Math.floor(s / 3600) + "h" + String(Math.floor((s % 3600) / 60)).padStart(2, "0") + "m";
  }
  function draw(figure, chart) {
    var svg = figure.querySelector("svg");
    var axis = { stroke: colour("dim"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
    var plot = new uPlot({
      width: Math.max(200, figure.clientWidth), height: 190,
      scales: { x: { time: false }, y: { range: function (u, low, high) { return [0, high > 0 ? high * 1.05 : 1]; } } },
      axes: [
        Object.assign({ incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 604800], values: function (u, ticks) { return ticks.map(clock); } }, axis),
        Object.assign({ size: 56 }, axis)
      ],
      series: [{ label: "time", value: function (u, s) { return s == null ? "" : clock(s); } }].concat(
        chart.lines.map(function (line, n) {
          return { label: line[0], stroke: colour("s" + n), width: 1.6, points: { show: chart.x.length < 3 } };
        })),
      cursor: { sync: { key: "run" } }
    }, [chart.x].concat(chart.lines.map(function (line) { return line[1]; })), figure);
    svg.remove();
    figure.querySelectorAll("figcaption").forEach(function (caption, n) { if (n) caption.remove(); });
    new ResizeObserver(function () {
      var width = Math.max(200, figure.clientWidth);
      if (Math.abs(width - plot.width) > 1) plot.setSize({ width: width, height: 190 });
    }).observe(figure);
    return plot;
  }
  document.querySelectorAll("figure[data-chart]").forEach(function (figure) {
    var chart = charts[figure.dataset.chart];
    if (chart) draw(figure, chart);
  });
})();
