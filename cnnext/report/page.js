"use strict";
(function () {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  function follow() {
    if (!chosen) root.dataset.theme = dark.matches ? "dark" : "light";
  }
  dark.addEventListener("change", follow);
  follow();
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", function () {
    chosen = true;
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });

  for (const filters of document.querySelectorAll(".filters")) {
    const rows = Array.from(document.getElementById(filters.dataset.for).tBodies[0].rows);
    const selects = Array.from(filters.querySelectorAll("select"));
    const count = filters.querySelector("output");
    const show = function () {
      let shown = 0;
      for (const row of rows) {
        row.hidden = selects.some((select) => select.value && row.dataset[select.name] !== select.value);
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = shown + " of " + rows.length + " rows";
    };
    for (const select of selects) {
      for (const value of new Set(rows.map((row) => row.dataset[select.name]))) {
        select.append(new Option(value, value));
      }
      select.addEventListener("change", show);
    }
    filters.hidden = false;
    show();
  }

  function valueIn(row, label) {
    const cell = row.querySelector('td[data-label="' + label + '"]');
    const value = cell ? parseFloat(cell.dataset.value) : NaN;
    return Number.isNaN(value) ? Infinity : value;
  }
  for (const title of document.querySelectorAll("th[data-sort]")) {
    title.addEventListener("click", function () {
      const body = title.closest("table").tBodies[0];
      const sign = title.dataset.sort === "up" ? -1 : 1;
      const label = title.textContent;
      title.dataset.sort = sign === 1 ? "up" : "down";
      body.append(...Array.from(body.rows).sort((a, b) => sign * (valueIn(a, label) - valueIn(b, label) || 0)));
    });
  }
})();
