// Dragging a result, from a strip or a gallery, into a form: what is carried is its run and its file, which every kernel
// of these runs finds. The form may be another one of the page, of another notebook or in another window.

const RESULT = "application/x-wanavatar-result";
const SPRING = 500; // milliseconds over a tab until it opens

// `facts` returns the run, the file, and its kind and path where the page serves it.
function draggable(node, facts) {
  node.draggable = true;
  let leave = null;
  node.addEventListener("dragstart", (event) => {
    const { run, file, kind, path } = facts();
    const clip = node.querySelector("video[controls], audio[controls]");
    const box = clip?.getBoundingClientRect();
    // the lowest part of a player is its slider
    if (!file || (box && event.clientY > box.bottom - 40)) return event.preventDefault();
    event.dataTransfer.setData(RESULT, JSON.stringify({ run, file }));
    if (path) {
      const url = new URL(fileUrl(path), location.href).href;
      event.dataTransfer.setData("text/uri-list", url); // for another program
      event.dataTransfer.setData("DownloadURL", `application/octet-stream:${run}-${file.split("/").at(-1)}:${url}`); // for the desktop
    }
    event.dataTransfer.effectAllowed = "copy";
    leave = new AbortController();
    document.body.dataset.wlDrags = kind; // fields that take it are marked
    openTabs(leave.signal);
    waitForZones(leave.signal, { run, file });
    event.stopPropagation();
  });
  node.addEventListener("dragend", () => {
    delete document.body.dataset.wlDrags;
    leave?.abort();
  });
  for (const inside of node.querySelectorAll("img, a")) inside.draggable = false;
}

// A tab of our page opens while a result is held over it.
function openTabs(signal) {
  let over = null;
  let timer = 0;
  document.addEventListener("dragover", (event) => {
    const tab = event.target.closest?.(".wl-page .lm-TabBar-tab");
    if (tab === over) return;
    clearTimeout(timer);
    over = tab;
    if (!tab) return;
    timer = setTimeout(() => {
      const { left, top, width, height } = tab.getBoundingClientRect();
      const at = { bubbles: true, cancelable: true, button: 0, clientX: left + width / 2, clientY: top + height / 2 };
      tab.dispatchEvent(new PointerEvent("pointerdown", at));
      tab.dispatchEvent(new PointerEvent("pointerup", at));
    }, SPRING);
  }, { capture: true, signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
}

// The field at a place of a panel, by its name; "" where there is none.
function fieldAt(target) {
  const classes = [...(target.closest(".wl-file")?.classList ?? [])];
  return classes.find((name) => name.startsWith("wl-of-"))?.slice("wl-of-".length) ?? "";
}

// A panel of a tab that has just opened gets its drop zone a moment later: what is let go there before is kept for it.
function waitForZones(signal, result) {
  const early = (event) => {
    const panel = event.target.closest?.(".wl-panel");
    return panel && !panel.querySelector(".wl-upload-around") ? panel : null;
  };
  document.addEventListener("dragover", (event) => early(event) && event.preventDefault(), { signal });
  document.addEventListener("drop", (event) => {
    const panel = early(event);
    if (!panel) return;
    event.preventDefault();
    const field = fieldAt(event.target);
    requestAnimationFrame(function give() {
      if (!panel.isConnected) return;
      const zone = panel.querySelector(".wl-upload-around");
      if (!zone) return setTimeout(give, 50);
      zone.dispatchEvent(new CustomEvent("wl-result", { detail: { ...result, field } }));
    });
  }, { signal });
}
