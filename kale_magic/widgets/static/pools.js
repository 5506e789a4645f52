function render({ model, el }) {
  const list = `kale-pool-hosts-${Math.random().toString(36).slice(2)}`, field = (name, label, more = "") => `<label>${label} <input name="${name}" autocomplete="off" spellcheck="false" ${more}></label>`;
  const root = frame(model, el, "pools", `<form class="bar open" aria-label="Open a pool">${field("name", "Name", 'size="10"')}<label>Executor <select name="executor"></select></label>${field("host", "Host", `list="${list}" size="10" placeholder="this machine"`)}<datalist id="${list}"></datalist>
${field("nodes", "Nodes", 'size="3" inputmode="numeric" placeholder="1"')}${field("cores", "Cores", 'size="3" inputmode="numeric" placeholder="1"')}${field("walltime", "Walltime", 'size="9" placeholder="01:00:00"')}${field("queue", "Queue", 'size="8"')}${field("account", "Account", 'size="8"')}<button>Open</button><button type="button" class="look">Show host's pools</button></form>
<div class="kale-say" role="status" aria-live="polite"></div><div class="rows"></div><div class="soft when"></div>`);
  const form = one(root, "form"), rows = one(root, ".rows"), at = name => form.elements[name];
  let sureOf = "";
  root.addEventListener("keydown", e => e.stopPropagation());
  form.addEventListener("submit", e => {
    e.preventDefault(); say(root, "Is being asked for ...");
    model.send({ t: "open", host: at("host").value, fields: Object.fromEntries([...new FormData(form)].filter(([, v]) => v)) });
  });
  one(root, ".look").addEventListener("click", () => { say(root, "Is being asked for ..."); model.send({ t: "look", host: at("host").value }); });
  function draw() {
    const list = model.get("rows"), focus = document.activeElement?.dataset?.f;
    const acts = r => sureOf === r.key
      ? `<button data-yes="${esc(r.key)}" data-f="n${esc(r.key)}" data-sure="1">Really close ${esc(r.name)}${r.busy ? ` and cancel ${r.busy} ${r.busy > 1 ? "jobs" : "job"}` : ""}</button> <button data-no="1">Keep it</button>`
      : (r.closing ? "" : `<button data-drain="${esc(r.key)}" data-f="d${esc(r.key)}" aria-label="Close ${esc(r.name)} when it is idle" title="take no more steps; end when what was submitted to it has ended">Close when idle</button> `) +
        `<button data-now="${esc(r.key)}" data-f="n${esc(r.key)}" aria-label="Close ${esc(r.name)} now">Close now</button>`;
    rows.innerHTML = list.length ? `<table><thead><tr>${model.get("heads").map(h => `<th scope="col">${esc(h)}</th>`).join("")}<th><span class="sr">action</span></th></tr></thead><tbody>` +
      list.map(r => `<tr data-pool="${esc(r.name)}" data-state="${esc(r.state)}"><th scope="row">${esc(r.name)}</th><td><span class="pill" data-s="${esc(r.look)}">${esc(r.state)}</span></td>${r.cells.map(c => `<td${c.length < 28 ? ' class="s"' : ""}>${esc(c)}</td>`).join("")}<td>${acts(r)}</td></tr>` +
        (r.reason ? `<tr class="why" data-why="${esc(r.name)}"><td></td><td colspan="${r.cells.length + 2}" class="soft">${esc(r.reason)}</td></tr>` : "")).join("") + "</tbody></table>"
      : `<div class="soft">No pool is open.</div>`;
    if (focus) one(rows, `[data-f="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }
  rows.addEventListener("click", e => {
    const d = e.target.closest("button")?.dataset, key = d && (d.yes || d.drain), r = key && model.get("rows").find(r => r.key === key);
    if (!d) return;
    sureOf = d.now || "";
    if (r) model.send({ t: "close", host: r.host, name: r.name, now: !!d.yes });
    draw();
    if (d.now) one(rows, "[data-yes]")?.focus();
  });
  const off = [
    listen(model, "rows", draw), listen(model, "when", () => { one(root, ".when").textContent = model.get("when"); }),
    listen(model, "offer", () => {
      const o = model.get("offer");
      at("executor").innerHTML = o.executors.map(n => `<option>${esc(n)}</option>`).join("");
      one(root, "datalist").innerHTML = o.hosts.map(h => `<option value="${esc(h)}">`).join("");
      if (!at("host").value) at("host").value = o.host;
    }),
    heard(model, { say: m => say(root, m.text, m.bad) }),
  ];
  return () => off.forEach(f => f());
}
export default { render };
