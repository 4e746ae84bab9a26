// Text filter and sort for every table of the page; without this script the tables stand as they are.
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

  function addFilter(table, number) {
    const box = document.createElement("p"), input = document.createElement("input"), label = document.createElement("label"), count = document.createElement("span");
    box.className = "filter";
    input.type = "search";
    input.id = label.htmlFor = `filter-${number}`;
    label.textContent = "Filter rows";
    count.setAttribute("role", "status");
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean), rows = [...table.tBodies[0].rows];
      rows.forEach(row => { row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)); });
      count.textContent = words.length ? `${rows.filter(row => !row.hidden).length} of ${rows.length} rows` : "";
    });
    box.append(label, input, count);
    table.parentElement.before(box);
  }

  document.querySelectorAll("table.lab").forEach((table, number) => {
    if (table.tBodies[0].rows.length < 2) return;
    table.querySelectorAll("thead th").forEach((th, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = th.textContent;
      button.addEventListener("click", () => sort(table, column, th));
      th.replaceChildren(button);
    });
    if (table.tBodies[0].rows.length > 4) addFilter(table, number);
  });
})();
