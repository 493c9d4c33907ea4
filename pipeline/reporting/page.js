"use strict";
// The chart, the table of rows, and the hint where a table scrolls. Reads the two data blocks of the page.
(() => {
  const byId = (id) => document.getElementById(id);
  const KINDS = { created: "good", updated: "good", unchanged: "good", rejected: "fix", refused: "fix", in_doubt: "person" };

  const ready = (part) => {
    part.hidden = false;
    for (const each of part.parentElement.querySelectorAll(".nojs")) each.hidden = true;
  };

  // A table that is wider than its frame says so.
  const hints = new ResizeObserver((changed) => {
    for (const { target } of changed) {
      const frame = target.closest(".scroll, .dt-layout-table");
      frame.classList.toggle("is-wide", frame.scrollWidth > frame.clientWidth + 1);
    }
  });
  const hint = (frame) => {
    for (const each of [frame, frame.querySelector("table")]) hints.observe(each);
  };

  // The chart ---------------------------------------------------------------------------------------

  const chart = () => {
    const block = byId("chart-data");
    if (!block || typeof uPlot === "undefined") return;
    const measured = JSON.parse(block.textContent);
    const part = byId("chart");
    ready(part);
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    const ratio = () => uPlot.pxRatio;

    const pauses = (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.fillStyle = colour("pause");
      for (const [from, to] of measured.pauses) {
        const left = Math.max(plot.valToPos(from, "x", true), bbox.left);
        const right = Math.min(plot.valToPos(to, "x", true), bbox.left + bbox.width);
        ctx.fillRect(left, bbox.top, Math.max(right - left, 1), bbox.height);
      }
      ctx.restore();
    };
    // Writes sent again as triangles, lost answers as crosses, at the upper edge.
    const marks = (plot) => {
      const { ctx, bbox } = plot;
      const size = 4 * ratio();
      ctx.save();
      ctx.lineWidth = 2 * ratio();
      measured.at.forEach((at, number) => {
        const x = plot.valToPos(at, "x", true);
        if (measured.retried[number]) {
          const y = bbox.top + 7 * ratio();
          ctx.strokeStyle = colour("fix");
          ctx.beginPath();
          ctx.moveTo(x, y - size);
          ctx.lineTo(x + size, y + size);
          ctx.lineTo(x - size, y + size);
          ctx.closePath();
          ctx.stroke();
        }
        if (measured.lost[number]) {
          const y = bbox.top + 20 * ratio();
          ctx.strokeStyle = colour("bad");
          ctx.beginPath();
          ctx.moveTo(x - size, y - size);
          ctx.lineTo(x + size, y + size);
          ctx.moveTo(x + size, y - size);
          ctx.lineTo(x - size, y + size);
          ctx.stroke();
        }
      });
      ctx.restore();
    };

    const axis = (extra) => ({
      stroke: () => colour("soft"),
      grid: { stroke: () => colour("line"), width: 1 },
      ticks: { stroke: () => colour("line"), width: 1 },
      font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif",
      ...extra,
    });
    const line = (name, extra) => ({
      stroke: () => colour(name),
      width: 2,
      spanGaps: false,
      points: { show: measured.at.length < 40, size: 5, stroke: () => colour(name), fill: () => colour("paper") },
      ...extra,
    });
    const draw = (into, label, headroom, series, data, hooks) => new uPlot({
      width: into.clientWidth,
      height: 190,
      padding: [8, 30, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      scales: { y: { range: (_, low, high) => [0, (high || 1) * headroom] } },
      axes: [axis({ values: (_, splits) => splits.map(clock), space: 90 }), axis({ label, size: 62, labelSize: 18 })],
      series: [{}, ...series],
      hooks,
    }, [measured.at, ...data], into);
    const clock = (seconds) => new Date(Math.round(seconds * 1000)).toISOString().slice(11, 19);

    const [above, below] = part.querySelectorAll(".plot");
    const plots = [
      draw(above, "requests a second", 1.45, [line("good", { paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } })], [measured.rate], { drawClear: [pauses], draw: [marks] }),
      draw(below, "milliseconds", 1.15, [line("good"), line("person", { dash: [6, 4] })], [measured.p50, measured.p95], { drawClear: [pauses] }),
    ];
    const fit = (width) => plots.forEach((plot, number) => plot.setSize({ width: width || [above, below][number].clientWidth, height: 190 }));
    new ResizeObserver(() => fit()).observe(part);
    const again = () => plots.forEach((plot) => plot.redraw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    matchMedia("print").addEventListener("change", again);
    addEventListener("beforeprint", () => fit(640));
    addEventListener("afterprint", () => fit());
  };

  // The table of rows -------------------------------------------------------------------------------

  const unpacked = async (block) => {
    const bytes = Uint8Array.from(atob(JSON.parse(block.textContent)), (each) => each.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };

  const COLUMNS = [
    ["feed", "Feed"], ["file", "File"], ["row", "Row", "number"], ["disposition", "Ending"], ["rule", "Rule"],
    ["source_id", "Source id", "id"], ["key", "Key", "id"], ["resource_type", "Resource"], ["resource_id", "Resource id", "id"],
    ["http_status", "HTTP", "number"], ["attempts", "Sends", "number"], ["correlation_id", "Correlation id", "id"], ["sent_at", "Sent at"],
  ];
  const escaped = (text) => (/[&<>"]/.test(text) ? DataTable.util.escapeHtml(text) : text);

  const reader = (name, column) => {
    const value = Array.isArray(column) ? (row) => column[row] : (row) => column.values[column.codes[row]];
    return ({ row }, type) => {
      const found = value(row);
      if (found === null || found === undefined) return type === "sort" || type === "type" ? -1 : "";
      if (typeof found === "number") return type === "display" || type === "filter" ? String(found) : found;
      if (name === "disposition") {
        const text = found.replaceAll("_", " ");
        return type === "display" ? `<span class="tag ${KINDS[found] || "plain"}">${escaped(text)}</span>` : text;
      }
      return type === "sort" || type === "type" ? found : escaped(found);
    };
  };

  const options = (select, values, text = (value) => value) => {
    for (const value of values) select.add(new Option(text(value), value));
  };

  const table = async () => {
    const block = byId("rows-data");
    if (!block || typeof DataTable === "undefined" || typeof DecompressionStream === "undefined") return;
    const packed = await unpacked(block);
    block.remove(); // the packed text is not needed any more
    const rules = packed.rule.values.map((rule) => new Set(rule.split("; ").filter(Boolean)));
    const [byFeed, byDisposition, byRule] = ["by-feed", "by-disposition", "by-rule"].map(byId);
    options(byFeed, packed.feed.values);
    options(byDisposition, packed.disposition.values, (value) => value.replaceAll("_", " "));
    options(byRule, [...new Set(rules.flatMap((each) => [...each]))].sort());
    ready(byId("rows-part"));

    const rows = new DataTable("#rows-table", {
      data: Array.from({ length: packed.count }, (_, row) => ({ row })),
      columns: COLUMNS.map(([name, title, kind]) => ({
        title, name, className: kind || "", type: kind === "number" ? "num" : "string", data: reader(name, packed[name]),
      })),
      order: [],
      orderClasses: false,
      autoWidth: false,
      pageLength: 25,
      lengthMenu: [25, 100, 500],
      layout: { topStart: "search", topEnd: "pageLength", bottomStart: "info", bottomEnd: "paging" },
      language: {
        search: "Search all columns:", lengthMenu: "_MENU_ rows a page", info: "Rows _START_ to _END_ of _TOTAL_",
        infoEmpty: "No row", infoFiltered: "(filtered from _MAX_)", zeroRecords: "No row is like that.", emptyTable: "No row.",
      },
    });
    for (const header of document.querySelectorAll("#rows-packed thead th")) header.scope = "col";
    const frame = byId("rows-table").closest(".dt-layout-table");
    frame.tabIndex = 0;
    frame.setAttribute("role", "region");
    frame.setAttribute("aria-label", "Rows, to be scrolled sideways");
    hint(frame);

    const form = byId("filters");
    const attention = new Set(form.dataset.attention.split(" "));
    const dispositions = packed.disposition.values;
    rows.search.fixed("chosen", (_, { row }) => {
      const feed = packed.feed.values[packed.feed.codes[row]];
      const disposition = dispositions[packed.disposition.codes[row]];
      return (!byFeed.value || feed === byFeed.value)
        && (!byDisposition.value || disposition === byDisposition.value || (byDisposition.value === "attention" && attention.has(disposition)))
        && (!byRule.value || rules[packed.rule.codes[row]].has(byRule.value));
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => rows.draw());
    form.addEventListener("reset", () => setTimeout(() => rows.search("").order([]).draw()));
    if (dispositions.some((each) => attention.has(each))) {
      byDisposition.value = "attention"; // opens on these
      rows.draw();
    }
    const choose = (select, value) => { select.value = [...select.options].some((each) => each.value === value) ? value : ""; };
    for (const button of document.querySelectorAll("button.show")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        choose(byFeed, button.dataset.feed);
        choose(byDisposition, button.dataset.disposition);
        choose(byRule, button.dataset.rule);
        rows.search("").draw();
        byId("table").scrollIntoView();
        byId("table").focus();
      });
    }
  };

  for (const frame of document.querySelectorAll(".scroll")) hint(frame);
  chart();
  table();
})();
