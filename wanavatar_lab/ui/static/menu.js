// A button that opens a card: it closes at a click elsewhere and at Escape, which gives the focus back.
function menu(signal, opened = () => {}) {
  const summary = element("summary", { className: "wl-link" });
  const card = element("div", { className: "wl-card wl-menu-card" });
  const root = element("details", { className: "wl-menu" }, summary, card);
  root.addEventListener("toggle", () => {
    if (!root.open) return;
    card.style.translate = "";
    const { left, right } = card.getBoundingClientRect();
    // into the window, whose width it would otherwise change
    card.style.translate = `${Math.max(8 - left, 0) - Math.max(right - document.documentElement.clientWidth + 8, 0)}px 0`;
    opened();
  });
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
