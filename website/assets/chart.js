// The chart of the speed page: choose operation, layout and library; see website/speed.py.
(() => {
  const chart = document.querySelector(".nbnorm-chart");
  if (!chart) return;
  const beside = document.currentScript.src;
  const plot = chart.querySelector(".nbnorm-plot");
  const selects = ["operation", "layout", "peer"].map(name => chart.querySelector(`[name=${name}]`));

  function load(script) {
    return new Promise((done, failed) => {
      const element = document.createElement("script");
      element.src = new URL(script, beside).href;
      element.onload = done;
      element.onerror = failed;
      document.head.append(element);
    });
  }

  // The choices of each select follow from those before it; a choice that is still there is kept.
  function fill(rows) {
    selects.forEach((select, column) => {
      const wanted = select.value;
      const choices = [...new Set(rows.map(row => row[column]))];
      select.replaceChildren(...choices.map(choice => new Option(choice, choice)));
      select.value = choices.includes(wanted) ? wanted : choices[0];
      rows = rows.filter(row => row[column] === select.value);
    });
    return rows;
  }

  function draw(rows) {
    const ratios = rows.map(row => row[4] / row[5]);
    const style = getComputedStyle(document.body);
    Plotly.react(plot, [{
      type: "bar",
      x: rows.map(row => row[3]),
      y: ratios,
      marker: { color: ratios.map(ratio => ratio >= 1 ? "#00897b" : "#c75b39") },
      customdata: rows.map(row => [row[4], row[5]]),
      hovertemplate: "%{x}<br>%{y:.2f} times nbnorm's time<br>"
        + "%{customdata[0]:.3g} ms, nbnorm %{customdata[1]:.3g} ms<extra></extra>",
    }], {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style.getPropertyValue("--md-default-fg-color").trim() || "black" },
      margin: { t: 20, r: 10 },
      xaxis: { type: "category", automargin: true },
      yaxis: { title: { text: "its time over nbnorm's" }, rangemode: "tozero" },
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { width: 1, dash: "dot" } }],
    }, { responsive: true, displayModeBar: false });
  }

  const figures = fetch(chart.dataset.figures).then(answer => answer.json());
  Promise.all([figures, load("plotly.min.js")]).then(([{ rows }]) => {
    const update = () => draw(fill(rows));
    selects.forEach(select => select.addEventListener("change", update));
    update();
  });
})();
