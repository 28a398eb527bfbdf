// Favourites and tags of the gallery's cards, the filters by them, and several cards that are selected at once.

function marking(model, el) {
  const favourites = button("wl-gallery-favourites");
  const tag = element("select");
  const tagText = element("span");
  const choice = element("label", { className: "wl-row" }, tagText, tag);
  const select = button();
  const load = element("button", { type: "button", className: "wl-link" });
  const known = element("datalist", { id: `wl-tags-${Math.random().toString(36).slice(2)}` });

  const chosen = new Set();
  let selecting = false;
  const count = element("span", { role: "status" });
  const all = button();
  const star = button();
  const added = element("input", { type: "text" });
  const add = button();
  const remove = button();
  const done = button();
  const bar = element("div", { className: "wl-row wl-gallery-bar wl-gallery-selected", hidden: true }, count, all, star, added, add, remove, done, known);

  const runs = () => [...chosen];
  const each = (act, values = {}) => model.send({ kind: "each", act, runs: runs(), ...values });
  star.addEventListener("click", () => each("star", { on: star.dataset.on === "true" }));
  const addTags = () => {
    if (!added.value.trim()) return added.focus();
    each("tag", { tags: added.value });
    added.value = "";
  };
  onEnter(added, addTags);
  add.addEventListener("click", addTags);
  remove.addEventListener("click", () => each("delete"));
  all.addEventListener("click", () => {
    for (const tick of el.querySelectorAll(".wl-gallery-tick input")) chosen.add(tick.closest("[data-run]").dataset.run);
    mark();
  });
  const choose = (on) => {
    selecting = on;
    chosen.clear();
    mark();
  };
  select.addEventListener("click", () => choose(!selecting));
  done.addEventListener("click", () => {
    choose(false);
    select.focus();
  });
  load.addEventListener("click", () => el.closest(".wl-results")?.querySelector(".wl-upload-around input[type='file']")?.click());

  // while cards are selected, their pictures are a part of the tick
  el.addEventListener("click", (event) => {
    if (!selecting || !event.target.closest(".wl-listing-picture")) return;
    event.preventDefault();
    event.stopPropagation();
    event.target.closest("[data-run]").querySelector(".wl-gallery-tick input")?.click();
  }, { capture: true });

  // called whenever the cards are in place
  function mark() {
    const here = new Map(model.get("entries").map((entry) => [entry.id, entry]));
    for (const id of chosen) if (!here.has(id)) chosen.delete(id);
    el.classList.toggle("wl-selecting", selecting);
    for (const tick of el.querySelectorAll(".wl-gallery-tick input")) {
      const card = tick.closest("[data-run]");
      tick.checked = chosen.has(card.dataset.run);
      card.classList.toggle("wl-selected", tick.checked);
    }
    bar.hidden = !selecting;
    select.setAttribute("aria-pressed", String(selecting));
    const starred = chosen.size > 0 && runs().every((id) => here.get(id).favourite);
    star.dataset.on = String(!starred);
    star.textContent = `${starred ? "★" : "☆"} ${say(model, "favourite")}`;
    star.setAttribute("aria-pressed", String(starred));
    count.textContent = say(model, "selected", { count: chosen.size });
    for (const made of [star, add, remove, added]) made.disabled = !chosen.size;
  }

  function followAll(signal, narrow) {
    favourites.addEventListener("click", () => narrow({ favourites: !model.get("favourites") }));
    tag.addEventListener("change", () => narrow({ tag: tag.value }));
    follow(model, signal, "words favourites tag tags", () => {
      const tags = model.get("tag") && !model.get("tags").includes(model.get("tag")) ? [...model.get("tags"), model.get("tag")] : model.get("tags");
      favourites.textContent = `${model.get("favourites") ? "★" : "☆"} ${say(model, "favourites")}`;
      favourites.setAttribute("aria-pressed", String(model.get("favourites")));
      tagText.textContent = say(model, "tag");
      choice.hidden = !tags.length;
      tag.replaceChildren(...["", ...tags].map((value) => element("option", { value, textContent: value || say(model, "any_tag") })));
      tag.value = model.get("tag");
      known.replaceChildren(...model.get("tags").map((value) => element("option", { value })));
      select.textContent = say(model, "select");
      load.textContent = say(model, "load");
      added.placeholder = say(model, "tags_hint");
      added.setAttribute("aria-label", say(model, "tags_hint"));
      added.setAttribute("list", known.id);
      for (const [made, word] of [[all, "select_all"], [add, "add_tags"], [remove, "delete"], [done, "done"]]) made.textContent = say(model, word);
      mark();
    });
    // a gallery that stands alone has no zone that reads files
    requestAnimationFrame(() => (load.hidden = !el.closest(".wl-results")));
  }

  return {
    head: [choice, favourites, select, load],
    bar,
    mark,
    follow: followAll,

    star(entry) {
      const made = element("button", { type: "button", className: "wl-gallery-star", textContent: entry.favourite ? "★" : "☆", title: say(model, "favourite") });
      made.setAttribute("aria-pressed", String(entry.favourite));
      made.setAttribute("aria-label", `${entry.title}: ${say(model, "favourite")}`); // every card has one
      made.addEventListener("click", () => model.send({ kind: "star", run: entry.id, on: !entry.favourite }));
      return made;
    },

    tick(entry) {
      const box = element("input", { type: "checkbox", checked: chosen.has(entry.id) });
      box.setAttribute("aria-label", say(model, "select_one", { title: entry.title || entry.id }));
      box.addEventListener("change", () => {
        if (box.checked) chosen.add(entry.id);
        else chosen.delete(entry.id);
        mark();
      });
      return element("label", { className: "wl-gallery-tick" }, box);
    },

    // the tags of a card as buttons that filter, and a line in which they are changed; null for what is no run
    tags(entry, narrow) {
      if (entry.id.startsWith("lora:")) return null;
      const row = element("div", { className: "wl-gallery-tags" });
      const show = () => {
        row.hidden = !entry.tags.length;
        row.replaceChildren(...entry.tags.map((text) => {
          const made = element("button", { type: "button", className: "wl-gallery-tag", textContent: text, title: say(model, "only_tag", { tag: text }) });
          made.addEventListener("click", () => narrow({ tag: text }));
          return made;
        }));
      };
      const edit = () => {
        const line = element("input", { type: "text", value: entry.tags.join(", "), placeholder: say(model, "tags_hint") });
        line.setAttribute("aria-label", say(model, "tags_hint"));
        line.setAttribute("list", known.id);
        onEnter(line, () => {
          model.send({ kind: "tag", run: entry.id, tags: line.value });
          show(); // and the card is made anew where they have changed
        });
        line.addEventListener("keydown", (event) => event.key === "Escape" && show());
        row.hidden = false;
        row.replaceChildren(line);
        line.focus();
      };
      show();
      return { row, edit };
    },
  };
}
