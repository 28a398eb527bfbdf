// What a panel does as a whole: it runs at Ctrl+Enter, closes the help of its fields and comes into the window when asked
// to. And a file dropped outside every drop zone, which the browser would open, so that unsaved input would be lost, is not
// taken.

function render({ model, el }) {
  const ending = new AbortController();
  const { signal } = ending;
  const panel = () => el.closest(".wl-panel");

  function run(event) {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
    const start = panel()?.querySelector(".wl-run");
    if (!start || start.disabled) return;
    // Lab would run the notebook's cell, and with it make the panel anew
    event.preventDefault();
    event.stopPropagation();
    const field = document.activeElement;
    field?.blur(); // numbers and paths are sent when they are left
    start.click();
    field?.focus({ preventScroll: true });
  }
  // a view is rendered before it is in the page
  requestAnimationFrame(function attach() {
    if (signal.aborted) return;
    if (!el.isConnected) return requestAnimationFrame(attach);
    panel()?.addEventListener("keydown", run, { capture: true, signal });
  });
  // the help of a field closes at a click elsewhere, and at Escape, which gives the focus back
  const opened = () => panel()?.querySelectorAll(".wl-tip[open]") ?? [];
  document.addEventListener("pointerdown", (event) => {
    for (const tip of opened()) if (!tip.contains(event.target)) tip.open = false;
  }, { capture: true, signal });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const tip of opened()) {
      tip.open = false;
      if (tip.contains(document.activeElement)) tip.firstElementChild.focus();
    }
  }, { signal });
  follow(model, signal, "reveal", () => revealOnce(model, signal, panel, "start"));
  // on the window, so that drop zones, Lab's file browser among them, handle the event first
  for (const kind of ["dragover", "drop"]) {
    window.addEventListener(kind, (event) => {
      if (event.defaultPrevented || !event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "none"; // the pointer shows that nothing takes it here
    }, { signal });
  }
  // after the first paint: the kernel makes the remaining widgets when it receives this
  requestAnimationFrame(() => setTimeout(() => {
    if (ending.signal.aborted || model.get("drawn")) return;
    model.set("drawn", true);
    model.save_changes();
  }));
  return () => ending.abort();
}

export default { render };
