// Comparing two results: one is selected on its card, then the other, and both are shown above the list.

function comparing({ model, el, host }, signal) {
  const text = element("span", { role: "status" });
  const stop = button();
  const place = element("div");
  const bar = element("section", { className: "wl-gallery-compared", tabIndex: -1 },
    element("div", { className: "wl-row wl-gallery-bar" }, text, stop), place);
  let pressed = null; // gets the focus back
  const end = () => model.send({ kind: "stop" });
  stop.addEventListener("click", end);

  // each card has such a button; its text and action depend on the selection
  function act(entry) {
    const made = element("button", { type: "button", className: "wl-button", "data-does": "compare", "data-kind": entry.compares });
    made.addEventListener("click", () => {
      pressed = made;
      model.send({ kind: "compare", run: entry.id });
    });
    return made;
  }

  function mark() {
    const chosen = model.get("compared");
    for (const made of el.querySelectorAll("[data-does='compare']")) {
      const card = made.closest("[data-run]");
      const isChosen = chosen.some(({ id }) => id === card.dataset.run);
      const word = isChosen ? "stop" : chosen.length ? "compare_with" : "compare";
      made.textContent = say(model, word);
      // every card has the same text
      made.setAttribute("aria-label", `${card.dataset.title}: ${made.textContent}`);
      made.hidden = chosen.length > 0 && chosen[0].kind !== made.dataset.kind;
      card.classList.toggle("wl-chosen", isChosen);
      card.classList.toggle("wl-comparable", chosen.length > 0 && !made.hidden);
    }
  }

  follow(model, signal, "compared words", () => {
    const chosen = model.get("compared");
    const [first, second] = chosen.map(({ title }) => title);
    bar.hidden = chosen.length === 0;
    bar.setAttribute("aria-label", say(model, "comparison"));
    stop.textContent = say(model, "stop");
    text.textContent = second ? say(model, "both", { first, second }) : first ? say(model, `other_${chosen[0].kind}`, { first }) : "";
    mark();
    if (!chosen.length && pressed?.isConnected && !el.contains(document.activeElement)) pressed.focus();
  });

  let shown = null;
  signal.addEventListener("abort", () => shown?.abort());
  follow(model, signal, "comparison", async () => {
    shown?.abort();
    const had = place.contains(document.activeElement) || bar === document.activeElement;
    place.replaceChildren();
    const reference = model.get("comparison");
    if (!reference) {
      if (had) pressed?.focus();
      return;
    }
    const mine = (shown = new AbortController());
    const widget = await host.getWidget(reference);
    if (mine.signal.aborted) return;
    const root = element("div");
    place.append(root);
    await widget.render({ el: root, signal: mine.signal });
    bar.focus({ preventScroll: true });
    bar.scrollIntoView({ block: "start" });
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !model.get("compared").length || !el.getClientRects().length) return;
    const at = event.target;
    if (at !== document.body && !el.contains(at)) return;
    if (at.type === "search" && at.value) return; // the key clears the field first
    event.preventDefault();
    event.stopPropagation();
    end();
  }, { capture: true, signal });
  return { bar, act, mark };
}
