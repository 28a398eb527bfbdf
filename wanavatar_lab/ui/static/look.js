// A file that is let go beside what takes it: the browser would leave the page for it, and what was written be lost.

function render({ model }) {
  const ending = new AbortController();
  // heard last, so that whoever takes files, Lab's own list of them too, has had its turn
  for (const kind of ["dragover", "drop"]) {
    window.addEventListener(kind, (event) => {
      if (event.defaultPrevented || !event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "none"; // the pointer says that nothing takes it here
    }, { signal: ending.signal });
  }
  // once it is to be seen: what can wait until then is made when this comes
  requestAnimationFrame(() => setTimeout(() => {
    if (ending.signal.aborted || model.get("drawn")) return;
    model.set("drawn", true);
    model.save_changes();
  }));
  return () => ending.abort();
}

export default { render };
