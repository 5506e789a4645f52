function render({ model, el }) {
  const part = model.get("part"), root = frame(model, el, part, `<div class="bar"><label>Job <select class="job"></select></label><span class="doing"></span>
<span class="from"><label>Of <select class="file"></select></label> <label>over <select class="x"></select></label></span></div><div class="charts"></div><div class="kale-say" role="status"></div>`);
  const box = one(root, ".charts"), file = one(root, ".file"), x = one(root, ".x");
  const fill = (select, names, now) => {
    if (select.dataset.key !== names.join("\n")) { select.innerHTML = names.map(n => `<option>${esc(n)}</option>`).join(""); select.dataset.key = names.join("\n"); }
    select.value = now;
  };
  file.addEventListener("change", () => model.send({ t: "file", file: file.value }));
  x.addEventListener("change", () => model.send({ t: "x", x: x.value }));
  const off = [
    chooser(model, root),
    listen(model, "html", () => { box.innerHTML = model.get("html"); }),
    listen(model, "choice", () => {
      const c = model.get("choice");
      one(root, ".from").hidden = !c.files;
      if (!c.files) return;
      fill(file, c.files, c.file); fill(x, c.columns, c.x); x.parentElement.hidden = !c.columns.length;
    }),
    heard(model, { say: m => say(root, m.text, m.bad) }),
  ];
  return () => off.forEach(f => f());
}
export default { render };
