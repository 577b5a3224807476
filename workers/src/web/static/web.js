"use strict";
// All of it is an addition: each page works without. What comes from the server replaces parts of the page that
// the same server made; no text is ever taken for markup here.
(() => {
  const main = document.getElementById("main");
  const link = document.getElementById("link");
  const $ = (query, from = document) => from.querySelectorAll(query);
  const say = (text, lost) => { link.textContent = text; link.classList.toggle("lost", !!lost); };
  const parse = (html) => new DOMParser().parseFromString(html, "text/html");

  // Times: the page has UTC; hovering shows the reader's own, and what is under way counts up.
  const two = (n) => String(n).padStart(2, "0");
  const lasting = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min " + two(s % 60) + " s";
    return Math.floor(s / 3600) + " h " + two(Math.floor(s % 3600 / 60)) + " min";
  };
  const tick = () => { for (const e of $("[data-since]")) e.textContent = lasting(Date.now() - Number(e.dataset.since)); };
  const enhance = (from) => {
    for (const e of $("time[datetime]", from)) e.title = new Date(e.dateTime).toLocaleString();
    for (const e of $(".copy", from)) {
      e.hidden = !navigator.clipboard;
      e.onclick = () => navigator.clipboard.writeText(e.parentNode.querySelector("code").textContent)
        .then(() => { e.textContent = "Copied"; setTimeout(() => { e.textContent = "Copy"; }, 1500); });
    }
    tick();
  };

  // Parts of a page are replaced when the server's text of them is another than the last one.
  const shown = new Map();
  const remember = (from) => { for (const e of $("[data-part]", from)) shown.set(e.id, e.innerHTML); };
  const renew = (html) => {
    const fresh = parse(html);
    const known = new Set();
    for (const part of $("[data-part]", fresh)) {
      known.add(part.id);
      if (shown.get(part.id) === part.innerHTML) continue;
      shown.set(part.id, part.innerHTML);
      let here = document.getElementById(part.id);
      if (!here) {
        here = document.createElement("section");
        here.id = part.id;
        here.dataset.part = "";
        main.insertBefore(here, main.querySelector(".shell"));
      }
      // Whoever stands on a link with the keyboard stays there.
      const focus = here.contains(document.activeElement) && document.activeElement.getAttribute("href");
      here.replaceChildren(...part.childNodes);
      enhance(here);
      if (focus) for (const a of $("a", here)) if (a.getAttribute("href") === focus) { a.focus({ preventScroll: true }); break; }
    }
    for (const here of [...$("[data-part]")]) if (!known.has(here.id)) { here.remove(); shown.delete(here.id); }
    const title = fresh.querySelector("h1");
    const old = main.querySelector("h1");
    if (title && old && !old.closest("[data-part]")) old.replaceChildren(...title.childNodes);
  };

  // One stream for a page. The browser asks again by itself and says what it had last; where it gives up, the address
  // says that.
  let stream, retry;
  const listen = (address, events) => {
    if (stream) stream.close();
    clearTimeout(retry);
    stream = new EventSource(address());
    stream.onopen = () => say("live");
    stream.onerror = () => {
      say("not connected; trying again", true);
      // A refusal (503, or a proxy's 502) ends the stream for the browser, not for us.
      if (stream.readyState === EventSource.CLOSED) retry = setTimeout(() => listen(address, events), 3000);
    };
    for (const [name, act] of Object.entries(events)) stream.addEventListener(name, act);
    const over = (text, lost) => () => { stream.close(); say(text, lost); };
    stream.addEventListener("gone", over("this is gone", true));
    stream.addEventListener("back", () => say("live"));
    stream.addEventListener("away", (e) => say(e.data, true));
  };
  const pageEvents = { page: (e) => { say("live"); renew(e.data); } };

  // Search as you type: the server does it, the last question wins.
  const find = document.querySelector("form.find input[type=search]");
  const list = document.getElementById("s-list");
  if (find && list) {
    let wait, turn = 0;
    find.addEventListener("input", () => {
      clearTimeout(wait);
      wait = setTimeout(async () => {
        const mine = ++turn;
        const address = new URL(find.form.action);
        for (const [name, value] of new FormData(find.form)) if (value) address.searchParams.set(name, value);
        const answer = await fetch(address, { headers: { Accept: "text/html" } }).catch(() => null);
        if (!answer || !answer.ok || mine !== turn) return;
        renew(await answer.text());
        history.replaceState(null, "", address);
        listen(() => address, pageEvents);
      }, 120);
    });
  }

  // Keys, as in less: / searches, g and G go to the ends, n and p follow the pages. Who speaks to the machine, or types
  // beside a key, switches them off.
  const keysButton = document.getElementById("keys");
  let keys = true;
  try { keys = localStorage.getItem("keys") !== "off"; } catch { /* It keeps nothing. */ }
  const sayKeys = () => { keysButton.textContent = keys ? "Switch the keys off" : "Switch the keys on"; };
  keysButton.onclick = () => {
    keys = !keys;
    try { localStorage.setItem("keys", keys ? "on" : "off"); } catch { /* It keeps nothing. */ }
    sayKeys();
  };
  sayKeys();
  addEventListener("keydown", (e) => {
    if (!keys || e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName)) return;
    const go = (query) => { const a = document.querySelector(query); if (a) { e.preventDefault(); a.click(); } };
    if (e.key === "/" && find) { e.preventDefault(); find.focus(); find.select(); }
    else if (e.key === "n") go("a[rel=next]");
    else if (e.key === "p") go("a[rel=prev]");
    else if (e.key === "G" && log) { follow(true); }
    else if (e.key === "g" && log) { follow(false); scrollTo(0, 0); }
  });

  // Consoles.
  const KEPT = 3000;
  const log = document.getElementById("console");
  const button = document.querySelector("#follow button");
  let following = false, moving = false;
  const toEnd = () => { moving = true; scrollTo(0, document.documentElement.scrollHeight); };
  const follow = (on) => {
    following = on;
    if (button) { button.setAttribute("aria-pressed", String(on)); button.textContent = on ? "Following the end" : "Follow the end"; }
    if (on) toEnd();
  };
  // Groups fold on a click or Enter; what is inside is counted by the lines that begin and end them.
  const fold = (row) => {
    const shut = row.classList.toggle("shut");
    row.querySelector("button").setAttribute("aria-expanded", String(!shut));
    let depth = 1;
    for (let e = row.nextElementSibling; e && depth; e = e.nextElementSibling) {
      if (e.classList.contains("gb")) depth++;
      if (e.classList.contains("ge")) depth--;
      if (depth) e.hidden = shut;
    }
  };
  // The links of all lines are one stop for the tab key; arrows go from one to the next.
  const linked = (row) => row.firstElementChild.hasAttribute("href") && !row.hidden && !row.classList.contains("ge");
  const stop = (row) => {
    for (const a of $('.l>a[tabindex="0"]', log)) a.tabIndex = -1;
    row.firstElementChild.tabIndex = 0;
  };
  const dress = (rows) => {
    for (const row of rows) {
      row.firstElementChild.tabIndex = -1;
      if (!row.classList.contains("gb") || row.querySelector("button")) continue;
      const title = document.createElement("button");
      title.type = "button";
      title.setAttribute("aria-expanded", "true");
      title.append(...row.lastElementChild.childNodes);
      row.lastElementChild.append(title);
      title.onclick = () => fold(row);
    }
    const first = log.querySelector('.l>a[tabindex="0"]') ? null : [...log.children].find(linked);
    if (first) stop(first);
  };
  const number = (row, n) => {
    const a = row.firstElementChild;
    row.id = "L" + n;
    a.textContent = n;
    a.setAttribute("href", "#L" + n);
  };
  // A link to a line leads to the page that has it.
  const toLine = () => {
    for (const e of $(".at")) e.classList.remove("at");
    const n = /^#L(\d+)$/.exec(location.hash);
    if (!n || !log) return;
    const row = document.getElementById("L" + n[1]);
    if (row) { row.classList.add("at"); stop(row); follow(false); row.scrollIntoView({ block: "center" }); }
    else {
      // Some lines before it are shown too; where it is not there either, it is not asked for again.
      const query = "?line=" + Math.max(1, Number(n[1]) - 50);
      if (location.search !== query) location.replace(location.pathname + query + location.hash);
    }
  };
  if (log) {
    dress(log.children);
    log.addEventListener("keydown", (e) => {
      const here = e.target.parentNode;
      const way = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[e.key];
      if (!way || e.target !== here.firstElementChild || here.parentNode !== log) return;
      e.preventDefault();
      let to = here[way];
      while (to && !linked(to)) to = to[way];
      if (to) { stop(to); to.firstElementChild.focus(); }
    });
    let after = log.dataset.after;
    const lines = (e) => {
      say("live");
      after = e.lastEventId;
      const none = document.getElementById("nothing");
      if (none) none.remove();
      for (const old of $(".part", log)) old.remove();
      const rows = [...parse(e.data).body.children];
      log.append(...rows);
      // A page left open for a day does not grow.
      while (log.children.length > KEPT) log.firstElementChild.remove();
      dress(rows);
      if (following) toEnd();
    };
    // The number of the line that comes next: so lines have theirs that were counted from the end.
    const at = (e) => {
      if (Number(log.dataset.first) > 0) return;
      const rows = [...$(".l:not(.part):not(.skip)", log)];
      const next = Number(e.data);
      rows.forEach((row, place) => number(row, next - rows.length + place));
      for (const row of $(".part", log)) number(row, next);
      toLine();
    };
    const end = async () => {
      stream.close();
      say("ended");
      if (button) button.parentNode.hidden = true;
      const answer = await fetch(location.pathname, { headers: { Accept: "text/html" } }).catch(() => null);
      if (!answer || !answer.ok) return;
      const fresh = parse(await answer.text());
      for (const query of ["#state", ".why"]) {
        const here = document.querySelector(query), now = fresh.querySelector(query);
        if (here && now) here.replaceWith(now);
      }
    };
    const live = log.dataset.follows === "true";
    if (live || Number(log.dataset.first) < 0) {
      const stop = live ? {} : { lines: () => stream.close() };
      listen(() => location.pathname + "?after=" + after, { lines, at, end, ...stop });
    }
    if (button) {
      button.parentNode.hidden = !live;
      button.onclick = () => follow(!following);
      addEventListener("scroll", () => {
        const low = innerHeight + scrollY >= document.documentElement.scrollHeight - 60;
        if (moving) moving = false;
        else if (following && !low) follow(false);
        else if (live && !following && low) follow(true);
      }, { passive: true });
    }
    if (live && !location.hash) follow(true);
    addEventListener("hashchange", toLine);
    toLine();
  } else if (main.dataset.live === "page") {
    remember(main);
    listen(() => location.href.split("#")[0], pageEvents);
  } else if (document.querySelector("meta[http-equiv=refresh]")) {
    say("waiting for it", true);
  }
  for (const e of $(".js-only")) if (e.id !== "follow") e.hidden = false;
  enhance(document);
  setInterval(tick, 1000);
})();
