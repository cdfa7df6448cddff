// Keeps the page current and filters while typing. Without it the page reloads itself and the search is a form.
"use strict";
(() => {
  const interval = 2000;
  const patience = 10000;
  const pause = document.getElementById("pause");
  const told = document.getElementById("told");
  const search = document.getElementById("search");
  let paused = sessionStorage.getItem("paused") === "yes";
  let timer;
  let asking;

  // Makes `old` what `fresh` is and leaves alone what is the same: scroll, focus, selection and open details stay.
  function sync(old, fresh) {
    if (old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const has = [...old.childNodes];
    const wanted = [...fresh.childNodes];
    wanted.forEach((node, at) => {
      if (at < has.length) sync(has[at], node);
      else old.append(document.importNode(node, true));
    });
    has.slice(wanted.length).forEach((node) => node.remove());
  }

  // A live region speaks each time it is written to: only news is written.
  function tell(text) {
    if (told.textContent !== text) told.textContent = text;
    document.body.classList.toggle("stale", text !== "" && !paused);
  }

  async function refresh() {
    clearTimeout(timer);
    asking?.abort();
    const mine = new AbortController();
    asking = mine;
    const late = setTimeout(() => mine.abort("late"), patience);
    try {
      const answer = await fetch(location.href, { signal: mine.signal });
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (mine !== asking) return;
      for (const part of document.querySelectorAll("[data-live]")) {
        const other = fresh.getElementById(part.id);
        if (other) sync(part, other);
      }
      tell(paused ? "Paused" : "");
    } catch {
      if (mine !== asking) return;
      tell("No answer: what you see is old. Trying again.");
    } finally {
      clearTimeout(late);
    }
    if (!paused && !document.hidden) timer = setTimeout(refresh, interval);
  }

  function show() {
    pause.textContent = paused ? "Resume" : "Pause";
    sessionStorage.setItem("paused", paused ? "yes" : "no");
    tell(paused ? "Paused" : "");
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    show();
    if (paused) {
      clearTimeout(timer);
      asking?.abort();
      asking = undefined;
    } else refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !paused) refresh();
  });
  show();

  if (search) {
    let typing;
    const filter = () => {
      clearTimeout(typing);
      const address = new URL(location.href);
      address.search = "";
      if (search.value) address.searchParams.set("q", search.value);
      history.replaceState(null, "", address);
      refresh();
    };
    search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(filter, 120);
    });
    search.form.addEventListener("submit", (event) => {
      event.preventDefault();
      filter();
    });
    document.addEventListener("keydown", (event) => {
      const writing = event.target.matches("input, textarea, select");
      if (event.key !== "/" || writing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      search.focus();
      search.select();
    });
  }
  if (!paused) timer = setTimeout(refresh, interval);
})();
