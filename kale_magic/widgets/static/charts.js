function render({ model, el }) {
  const part = model.get("part"), root = frame(model, el, part, `<div class="bar"><label>Job <select class="job"></select></label><span class="doing"></span>
<span class="from"><label>Of <select class="file"></select></label> <label>as <select class="kind"></select></label> <span class="axes"></span></span></div><div class="charts"></div><div class="kale-say" role="status"></div>`);
  const box = one(root, ".charts"), file = one(root, ".file"), kind = one(root, ".kind"), axes = one(root, ".axes");
  const fill = (select, names, now) => {
    const key = JSON.stringify(names);
    if (select.dataset.key !== key) { select.innerHTML = names.map(([n, words]) => `<option value="${esc(n)}">${esc(words)}</option>`).join(""); select.dataset.key = key; }
    select.value = now;
  };
  const same = list => list.map(n => [n, n]);
  file.addEventListener("change", () => model.send({ t: "file", name: file.value }));
  kind.addEventListener("change", () => model.send({ t: "kind", name: kind.value }));
  axes.addEventListener("change", e => model.send({ t: "axis", axis: e.target.dataset.axis, name: e.target.value }));
  const off = [
    chooser(model, root),
    listen(model, "html", () => { box.innerHTML = model.get("html"); }),
    listen(model, "choice", () => {
      const c = model.get("choice");
      one(root, ".from").hidden = !c.files;
      if (!c.files) return;
      fill(file, same(c.files), c.file); fill(kind, Object.entries(c.kinds), c.kind);
      const names = Object.keys(c.axes), flat = names.join() === "x";
      if (axes.dataset.key !== names.join()) { axes.innerHTML = names.map(a => `<label>${flat ? "over" : a} <select data-axis="${a}" class="${a}"></select></label> `).join(""); axes.dataset.key = names.join(); }
      for (const a of names) fill(one(axes, `[data-axis="${a}"]`), same(c.columns), c.axes[a]);
    }),
    ...(typeof space === "function" ? [space(model, root)] : []),
    heard(model, { say: m => say(root, m.text, m.bad) }),
  ];
  return () => off.forEach(f => f());
}
export default { render };
