// A button that opens a card: it closes at a click elsewhere and at Escape, which gives the focus back.
function menu(signal, opened = () => {}) {
  const summary = element("summary", { className: "wl-link" });
  const card = element("div", { className: "wl-card wl-menu-card" });
  const root = element("details", { className: "wl-menu" }, summary, card);
  root.addEventListener("toggle", () => root.open && opened());
  document.addEventListener("pointerdown", (event) => {
    if (root.open && !root.contains(event.target)) root.open = false;
  }, { capture: true, signal });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !root.open || !(event.target === document.body || root.contains(event.target))) return;
    root.open = false;
    summary.focus();
  }, { signal });
  return { root, summary, card };
}
