// Text filter, sort, copy and save; without this script the tables stand as they are.
(() => {
  const cells = row => [...row.children];
  const key = cell => {
    const value = cell.dataset.value ?? cell.textContent.trim();
    return value === "–" || value === "" ? null : value;
  };
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? String(a).localeCompare(String(b), "en", { numeric: true }) : x - y;
  };

  function sort(table, column, heading) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("thead th").forEach(th => th.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map(row => [key(cells(row)[column]), row]);
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : (down ? -1 : 1) * compare(a, b));
    body.append(...rows.map(([, row]) => row));
  }

  const tables = [...document.querySelectorAll("table.lab")].filter(table => table.tBodies[0].rows.length > 1);
  tables.forEach(table => table.querySelectorAll("thead th").forEach((th, column) => {
    if (!th.textContent.trim() || th.querySelector("svg")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...th.childNodes);
    button.addEventListener("click", () => sort(table, column, th));
    th.replaceChildren(button);
  }));

  // one box filters the rows of every table of the page
  function addFilter() {
    const box = document.createElement("p"), input = document.createElement("input"), label = document.createElement("label"), count = document.createElement("span");
    box.className = "filter";
    input.type = "search";
    input.id = label.htmlFor = "filter";
    label.textContent = "Filter rows of all tables";
    count.setAttribute("role", "status");
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean), rows = tables.flatMap(table => [...table.tBodies[0].rows]);
      rows.forEach(row => { row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)); });
      count.textContent = words.length ? `${rows.filter(row => !row.hidden).length} of ${rows.length} rows` : "";
    });
    box.append(label, input, count);
    const contents = document.querySelector("nav.toc");
    if (contents) contents.append(box);
    else tables[0].parentElement.before(box);
  }
  if (tables.some(table => table.tBodies[0].rows.length > 4)) addFilter();

  // clipboards may be closed to pages from a file: then the text is selected for the reader's own copying
  async function copy(button) {
    try { await navigator.clipboard.writeText(button.dataset.copy); }
    catch {
      const area = document.createElement("textarea");
      area.value = button.dataset.copy;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "copied";
  }
  document.querySelectorAll("button.copy").forEach(button => {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  });

  function svgOf(figure) {
    const image = figure.querySelector("img");
    return image ? image.src : "data:image/svg+xml," + encodeURIComponent(new XMLSerializer().serializeToString(figure.querySelector("svg")));
  }
  document.querySelectorAll("button.save-svg").forEach(button => {
    button.hidden = false;
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.download = button.dataset.name;
      link.href = svgOf(button.closest("figure"));
      link.click();
    });
  });
})();
