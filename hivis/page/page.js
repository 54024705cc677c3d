// The page is complete without this script. With it, all marks of a cycle are highlighted together,
// and a click on one of them opens the cycle's tree.
(() => {
  "use strict";
  const parts = new Map();
  for (const part of document.querySelectorAll("[data-c]")) {
    const number = part.dataset.c;
    if (!parts.has(number)) parts.set(number, []);
    parts.get(number).push(part);
  }
  const cycleOf = (event) => event.target.closest?.("[data-c]")?.dataset.c;
  let highlighted;
  const highlight = (number) => {
    if (number === highlighted) return;
    for (const part of parts.get(highlighted) ?? []) part.classList.remove("hot");
    for (const part of parts.get(number) ?? []) part.classList.add("hot");
    highlighted = number;
  };
  for (const kind of ["mouseover", "focusin"]) {
    document.addEventListener(kind, (event) => highlight(cycleOf(event)));
  }

  const open = (number) => {
    const tree = document.getElementById(`cycle-${number}`);
    if (tree) tree.closest("details").open = true;
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("a[data-c]")) open(cycleOf(event));
  });
  const openFromHash = () => {
    const number = /^#cycle-(\d+)$/.exec(location.hash)?.[1];
    if (!number) return;
    open(number);
    document.getElementById(`cycle-${number}`)?.scrollIntoView({ block: "nearest" });
    highlight(number);
  };
  addEventListener("hashchange", openFromHash);
  openFromHash();

  const all = document.getElementById("all");
  if (all) {
    const trees = [...document.querySelectorAll("details")];
    all.hidden = false;
    all.addEventListener("click", () => {
      const closed = trees.some((tree) => !tree.open);
      for (const tree of trees) tree.open = closed;
      all.textContent = closed ? "close all" : "open all";
    });
  }
})();
