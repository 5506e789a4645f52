function render({ model, el }) {
  const list = `kale-queue-hosts-${Math.random().toString(36).slice(2)}`;
  const root = frame(model, el, "queue", `<div class="bar"><span class="tabs bar" role="tablist" aria-label="Clusters"></span><form class="bar add"><label>Another host <input class="host" list="${list}" size="10" autocomplete="off" spellcheck="false"></label><datalist id="${list}"></datalist><button>Show</button></form></div>
<div class="bar"><label>Queue <select class="whose"><option value="kale">Kale's jobs</option><option value="user">my batch jobs</option><option value="all">all batch jobs</option></select></label> <label>Filter <input type="search" class="q" placeholder="step, run, state, reason"></label><label><input type="checkbox" class="mine"> this notebook's runs only</label>
<span class="gap"></span><span class="soft when"></span></div><div class="rows"></div><div class="kale-say" role="status" aria-live="polite"></div>`);
  const q = one(root, ".q"), mine = one(root, ".mine"), rows = one(root, ".rows");
  let sureOf = "";
  const key = r => r.run ? `${r.run}/${r.label}` : `${r.executor}/${r.job}`, own = r => r.run || (r.job && model.get("whose") === "user"), name = r => r.run ? r.label : `job ${r.job}`;
  function draw() {
    const t = model.get("table"), focus = document.activeElement?.dataset?.f, words = q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = t.rows.filter(r => (!mine.checked || r.mine) && words.every(w => [r.run, r.label, r.state, ...r.cells, r.reason].join(" ").toLowerCase().includes(w)));
    const button = r => own(r) ? (sureOf === key(r)
      ? `<button data-yes="${esc(key(r))}" data-f="${esc(key(r))}" data-sure="1">Really cancel ${esc(name(r))}</button> <button data-no="1">Keep it</button>`
      : `<button data-ask="${esc(key(r))}" data-f="${esc(key(r))}" aria-label="Cancel ${esc(key(r))}">Cancel</button>`) : "";
    rows.innerHTML = shown.length ? `<table><thead><tr><th scope="col">run</th><th scope="col">step</th><th scope="col">state</th>${t.heads.map(h => `<th scope="col">${esc(h)}</th>`).join("")}<th><span class="sr">action</span></th></tr></thead><tbody>` +
      shown.map(r => `<tr data-job="${esc(key(r))}"><td class="s">${esc(r.run)}</td><td class="s name" title="${esc(r.label)}">${esc(r.label)}</td><td><span class="pill" data-s="${esc(r.look)}">${esc(r.state)}</span></td>${r.cells.map(c => `<td${c.length < 28 ? ' class="s"' : ""}>${esc(c)}</td>`).join("")}<td class="s">${button(r)}</td></tr>` +
        (r.reason ? `<tr class="why" data-why="${esc(key(r))}"><td></td><td colspan="${r.cells.length + 3}" class="soft">${esc(r.reason)}</td></tr>` : "")).join("") + "</tbody></table>"
      : `<div class="soft">${t.rows.length ? "Nothing fits the filter." : "Nothing runs and nothing waits."}</div>`;
    if (focus) one(rows, `[data-f="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }
  const whose = one(root, ".whose"), tabs = one(root, ".tabs"), add = one(root, ".add");
  const choose = b => { b.focus(); model.send({ t: "tab", key: b.dataset.tab }); };
  tabs.addEventListener("click", e => { const b = e.target.closest("button"); if (b) choose(b); });
  tabs.addEventListener("keydown", e => {
    const all = [...tabs.children], to = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!to) return;
    e.preventDefault(); choose(all[(all.indexOf(document.activeElement) + to + all.length) % all.length]);
  });
  add.addEventListener("keydown", e => e.stopPropagation());
  add.addEventListener("submit", e => { e.preventDefault(); model.send({ t: "host", host: one(add, "input").value }); one(add, "input").value = ""; });
  function bar() {
    const shown = model.get("tabs"), now = model.get("tab"), key = JSON.stringify(shown), focus = document.activeElement?.dataset?.tab;
    if (tabs.dataset.key !== key) { tabs.innerHTML = shown.map(([k, label]) => `<button role="tab" data-tab="${esc(k)}">${esc(label)}</button>`).join(""); tabs.dataset.key = key; if (focus) one(tabs, `[data-tab="${CSS.escape(focus)}"]`)?.focus(); }
    for (const b of tabs.children) { const on = b.dataset.tab === now; b.setAttribute("aria-selected", on); b.tabIndex = on ? 0 : -1; }
  }
  whose.addEventListener("change", () => model.send({ t: "whose", whose: whose.value }));
  q.addEventListener("input", draw); mine.addEventListener("change", draw);
  q.addEventListener("keydown", e => e.stopPropagation());
  rows.addEventListener("click", e => {
    const d = e.target.closest("button")?.dataset;
    if (!d) return;
    if (d.ask) sureOf = d.ask; else sureOf = "";
    if (d.yes) { const r = model.get("table").rows.find(r => key(r) === d.yes); if (r) model.send(r.run ? { t: "cancel", run: r.run, step: r.step, point: r.point } : { t: "end", executor: r.executor, job: r.job }); }
    draw();
    if (d.ask) one(rows, "[data-yes]")?.focus();
  });
  const off = [listen(model, "table", draw), listen(model, "tabs", bar), listen(model, "tab", bar), listen(model, "hosts", () => { one(root, "datalist").innerHTML = model.get("hosts").map(h => `<option value="${esc(h)}">`).join(""); }), listen(model, "whose", () => { whose.value = model.get("whose"); }), listen(model, "when", () => { one(root, ".when").textContent = model.get("when"); }), heard(model, { say: m => say(root, m.text, m.bad) })];
  return () => off.forEach(f => f());
}
export default { render };
