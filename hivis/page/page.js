// Without this script the page says the same. With it, a cycle lights up everywhere at once, and a
// click on it opens its tree.
(() => {
  "use strict";
  const parts = new Map();
  for (const part of document.querySelectorAll("[data-c]")) {
    const number = part.dataset.c;
    if (!parts.has(number)) parts.set(number, []);
    parts.get(number).push(part);
  }
  const cycleOf = (event) => event.target.closest?.("[data-c]")?.dataset.c;
  let hot;
  const light = (number) => {
    if (number === hot) return;
    for (const part of parts.get(hot) ?? []) part.classList.remove("hot");
    for (const part of parts.get(number) ?? []) part.classList.add("hot");
    hot = number;
  };
  for (const kind of ["mouseover", "focusin"]) {
    document.addEventListener(kind, (event) => light(cycleOf(event)));
  }

  const open = (number) => {
    const tree = document.getElementById(`cycle-${number}`);
    if (tree) tree.closest("details").open = true;
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("a[data-c]")) open(cycleOf(event));
  });
  const asked = () => {
    const number = /^#cycle-(\d+)$/.exec(location.hash)?.[1];
    if (!number) return;
    open(number);
    document.getElementById(`cycle-${number}`)?.scrollIntoView({ block: "nearest" });
    light(number);
  };
  addEventListener("hashchange", asked);
  asked();

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
