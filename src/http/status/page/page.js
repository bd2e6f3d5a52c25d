// Without this script, the browser reloads the whole page. The script replaces only the elements
// that changed, keeps open elements open, and adds a button to copy each statement. It requests
// only this page from this daemon, and sends no other request.
(() => {
  'use strict';
  const EVERY = 2000;
  const page = () => document.getElementById('page');
  const place = document.getElementById('refresh');
  const said = document.createElement('span');
  const button = document.createElement('button');
  let running = !new URLSearchParams(location.search).has('refresh');
  let asking = false;

  const show = () => {
    button.textContent = running ? 'Stop refreshing' : 'Refresh';
  };

  // Changes `old` into `fresh`, and keeps the elements that are the same. A child is matched by its
  // id, or by its position if it has no id.
  const put = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    const isOpen = old.tagName === 'DETAILS' && old.open;
    if (old.tagName !== fresh.tagName || old.id !== fresh.id || isLeaf(old) || isLeaf(fresh)) {
      const focused = old.contains(document.activeElement) ? document.activeElement.id : '';
      if (isOpen) fresh.open = true;
      old.replaceWith(fresh);
      if (focused) document.getElementById(focused)?.focus();
      return;
    }
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !(name === 'open' && isOpen)) old.removeAttribute(name);
    const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
    const wanted = [...fresh.children];
    wanted.forEach((child, at) => {
      const here = old.children[at];
      const same = child.id ? known.get(child.id) : here && !here.id ? here : undefined;
      if (same !== here || !same) old.insertBefore(same ?? child, here ?? null);
      if (same) put(same, child);
    });
    while (old.children.length > wanted.length) old.lastElementChild.remove();
  };
  const isLeaf = (node) => node.children.length === 0
    || [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim());

  // Adds a copy button to each statement if the browser lets a page write to the clipboard.
  const decorate = (root) => {
    if (!navigator.clipboard) return;
    for (const pre of root.querySelectorAll('pre[id]')) {
      const copy = root.ownerDocument?.createElement('button') ?? root.createElement('button');
      copy.type = 'button';
      copy.className = 'copy';
      copy.id = `${pre.id}-copy`;
      copy.dataset.of = pre.id;
      copy.textContent = 'Copy';
      copy.setAttribute('aria-describedby', `${pre.id}-what`);
      pre.after(copy);
    }
  };
  document.addEventListener('click', async ({ target }) => {
    const pre = target.matches?.('button.copy') && document.getElementById(target.dataset.of);
    if (!pre) return;
    try {
      await navigator.clipboard.writeText(pre.textContent);
      target.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(pre);
      target.textContent = 'Selected';
    }
    setTimeout(() => { target.textContent = 'Copy'; }, 1500);
  });

  const refresh = async () => {
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch(location.pathname, { cache: 'no-store', signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(`the daemon returned ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
      // Another version of the daemon may have another script.
      if (fresh.querySelector('.version')?.textContent !== document.querySelector('.version').textContent) return location.reload();
      const wanted = document.importNode(fresh.getElementById('page'), true);
      decorate(wanted);
      put(page(), wanted);
      document.querySelector('.updated > time').replaceWith(fresh.querySelector('.updated > time'));
      document.title = fresh.title;
      document.body.classList.remove('stale');
      said.textContent = '';
    } catch (error) {
      document.body.classList.add('stale');
      said.textContent = `No response since then (${error.name === 'TypeError' ? 'the daemon is not reachable' : error.message}). `;
    } finally {
      asking = false;
    }
  };

  button.type = 'button';
  button.addEventListener('click', () => {
    running = !running;
    show();
    if (running) refresh();
  });
  said.setAttribute('role', 'status');
  place.replaceChildren(said, button);
  show();
  decorate(document);
  setInterval(() => { if (running && !document.hidden) refresh(); }, EVERY);
  document.addEventListener('visibilitychange', () => { if (running && !document.hidden) refresh(); });
})();
