// Opens the status page of a running daemon in a real browser, and checks what a user sees.
//
//   node status-page.mjs PAGE PRIMARY STANDBY FOLDER
//
// PAGE is the URL of the status page. PRIMARY and STANDBY are connection strings for psql. The
// script saves screenshots in FOLDER.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import puppeteer from 'puppeteer-core';

const [base, primary, standby, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SOON = 60_000;
const long = 'app/release-2026.11:orders_total_cents.a_name_as_long_as_they_come';

const sql = (url, text) => execFileSync('psql', ['-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1', url, '-c', text], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).trim();
const ask = (text) => sql(primary, text);
const pass = (text) => console.log(`passed   ${text}`);
const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });
const until = async (what, is) => {
  for (const end = Date.now() + SOON; Date.now() < end; await pause(100)) if (await is()) return;
  assert.fail(`not within ${SOON / 1000} s: ${what}`);
};

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  // The browser's sandbox does not work as root. The test opens only the daemon's own page.
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
const seen = { complaints: [], elsewhere: [] };
const open = async ({ width = 1280, height = 900, scheme = 'light', script = true, path = '/' } = {}) => {
  const page = await browser.newPage();
  page.on('console', (said) => { if (['error', 'warn'].includes(said.type())) seen.complaints.push(said.text()); });
  page.on('pageerror', (error) => seen.complaints.push(error.message));
  page.on('dialog', async (dialog) => { seen.complaints.push(`a dialog: ${dialog.message()}`); await dialog.dismiss(); });
  page.on('request', (request) => { if (!request.url().startsWith(base) && !request.url().startsWith('data:')) seen.elsewhere.push(request.url()); });
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.setJavaScriptEnabled(script);
  await page.goto(base + path);
  return page;
};
const text = (page) => page.$eval('body', (body) => body.innerText);
const says = (page, what) => until(`the page says "${what}"`, async () => (await text(page)).includes(what));
const card = (page, name) => page.evaluateHandle((wanted) => [...document.querySelectorAll('article')].find((job) => job.querySelector('h4').textContent === wanted), name);
const inCard = async (page, name, look, ...more) => (await card(page, name)).evaluate(look, ...more);
// Returns the statement below the given caption in a job's card.
const offered = (page, name, what) => inCard(page, name, (job, words) => [...job.querySelectorAll('.offer')]
  .find((offer) => offer.querySelector('p').textContent === words).querySelector('pre').textContent, what);

try {
  // A running job shows its progress, its rate and the charts.
  ask(`create table steady (id int primary key, n int not null default 0); insert into steady select generate_series(1, 200000);
       create table many (id int primary key, n int); insert into many select generate_series(1, 200000);
       create table bad (id int primary key, t text, n int); insert into bad select i, case when i in (7, 8) then 'secret' else i::text end from generate_series(1, 1000) i;
       select backfill.enqueue('steady', 'steady', 'n = n + 1', options => '{"max_rows_per_second": 1000, "max_batch_rows": 50}');
       select backfill.enqueue('${long}', 'many', 'n = 1', options => '{"slices": 8, "max_rows_per_second": 500, "max_batch_rows": 50}');
       select backfill.enqueue('waits', 'steady', 'n = n', needs_approval => true);`);
  const page = await open();
  await says(page, 'jobs active');
  await says(page, 'of at most 1,000');
  await page.evaluate(() => { window.same = true; });
  const percent = () => inCard(page, 'steady', (job) => Number(job.querySelector('progress').value));
  const before = await percent();
  await until('the bar moves', async () => (await percent()) > before);
  assert.equal(await page.evaluate(() => window.same), true, 'the page was reloaded');
  const lines = await page.$$eval('svg.chart .line', (all) => all.length);
  assert.ok(lines >= 2, `${lines} lines in the charts of rate and lag`);
  // The card shows the estimate only while nothing holds or slows the job, so the estimate may take
  // a while to appear.
  await until('the card shows the remaining time', async () => /about .* remaining/.test(await inCard(page, 'steady', (job) => job.innerText)));
  await page.screenshot({ path: `${folder}/running.png`, fullPage: true });
  pass('running job: the bar moves, rate and lag are drawn, and the page is not reloaded');

  // Keyboard: the first press of Tab moves the focus to the skip link, opened elements stay open,
  // and statements can be copied.
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
  await (await card(page, 'steady')).evaluate((job) => job.querySelector('summary').focus());
  await page.keyboard.press('Enter');
  const updated = () => page.$eval('.updated > time', (time) => time.dateTime);
  let at = await updated();
  await until('the page is refreshed', async () => (await updated()) !== at);
  assert.equal(await inCard(page, 'steady', (job) => job.querySelector('details').open), true, 'a refresh closed an open element');
  assert.equal(await page.evaluate(() => document.activeElement.tagName), 'SUMMARY', 'a refresh moved the focus');
  await browser.defaultBrowserContext().overridePermissions(base, ['clipboard-read', 'clipboard-write', 'clipboard-sanitized-write']);
  await page.bringToFront();
  await (await card(page, 'steady')).evaluate((job) => job.querySelector('button.copy').focus());
  await page.keyboard.press('Enter');
  await until('the statement is copied', () => page.evaluate(async () => (await navigator.clipboard.readText()).startsWith("select backfill.pause('steady'")));
  // The page does not change while refreshing is stopped.
  await page.$eval('#refresh button', (button) => button.click());
  at = await updated();
  await pause(4500);
  assert.equal(await updated(), at);
  await page.$eval('#refresh button', (button) => button.click());
  await until('refreshing resumes', async () => (await updated()) !== at);
  pass('keyboard: skip link, elements that stay open, copying, stopping the refresh');

  // The page shows why a job is held.
  sql(standby, 'select pg_wal_replay_pause()');
  await says(page, 'a replica is lagging');
  await says(page, 'held: replica_lag');
  await page.screenshot({ path: `${folder}/held.png`, fullPage: true });
  assert.doesNotMatch(await inCard(page, 'steady', (job) => job.innerText), /about .* remaining/);
  sql(standby, 'select pg_wal_replay_resume()');
  await until('the job resumes', async () => !(await text(page)).includes('a replica is lagging'));
  pass('held job: the page shows the reason, the replica and the band in the chart, and the job resumes');

  // Runs the statements that the page shows, with a reason that contains markup.
  const hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>";
  ask((await offered(page, 'steady', 'Pause')).replace("'why'", `'${hostile}'`));
  await says(page, `Reason: ${hostile}`);
  await says(page, '1 paused');
  assert.equal(await page.$$eval('img, article script', (all) => all.length), 0);
  await page.screenshot({ path: `${folder}/paused.png`, fullPage: true });
  ask(await offered(page, 'steady', 'Resume'));
  await until('the job runs', async () => !(await text(page)).includes('1 paused'));
  ask(await offered(page, 'waits', 'Approve'));
  await until('the job is approved', async () => !(await text(page)).includes('needs approval by an operator'));
  pass('the statements of the page pause a job with a hostile reason, resume it and approve a job');

  // The daemon has only two workers, so the test cancels two jobs before it enqueues the next one.
  for (const name of ['waits', long]) ask(await offered(page, name, 'Cancel'));
  ask(`select backfill.enqueue('bad', 'bad', 'n = t::int')`);
  await says(page, "2 rows could not be changed");
  await says(page, '2 rows quarantined (2 × SQLSTATE 22P02)');
  assert.match(await page.title(), /1 failed/);
  assert.doesNotMatch(await page.content(), /secret/);
  assert.match(ask(await offered(page, 'bad', 'Show the rows that could not be changed')), /secret/);
  await page.screenshot({ path: `${folder}/failed.png`, fullPage: true });
  pass('failed job: the page shows the number of rows and the error, but no data of the rows');

  // On each screen, the page is not too wide. After all elements are opened, axe finds no
  // violation.
  for (const [name, width, height] of [['phone', 390, 844], ['narrow', 320, 640], ['desktop', 1280, 900]]) {
    for (const scheme of ['light', 'dark']) {
      const other = await open({ width, height, scheme });
      await other.$eval('#refresh button', (button) => button.click());
      await other.$$eval('details', (all) => all.forEach((details) => { details.open = true; }));
      const wide = await other.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(wide <= 0, `${name}: the page is ${wide} pixels wider than the screen`);
      await other.screenshot({ path: `${folder}/${name}-${scheme}.png`, fullPage: true });
      // Evaluates axe through the debugger, because the page's policy blocks other scripts.
      const found = await other.evaluate(`${axe}; axe.run(document, { resultTypes: ['violations'] })`);
      assert.deepEqual(found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.html).join(' ')}`), []);
      assert.ok(found.passes.length > 15, `axe checked only ${found.passes.length} rules`);
      await other.close();
    }
  }
  pass('phone, narrow phone and desktop, light and dark: the page fits, and axe finds no violation');

  // Without JavaScript, the browser reloads the page.
  const plain = await open({ script: false });
  assert.match(await text(plain), /Refreshes every 5 s/);
  assert.match(await text(plain), /steady/);
  await plain.waitForNavigation({ timeout: SOON });
  await Promise.all([plain.waitForNavigation(), plain.click('a[href="?refresh=off"]')]);
  assert.match(await text(plain), /Automatic refresh is off/);
  await plain.screenshot({ path: `${folder}/plain.png`, fullPage: true });
  await plain.close();
  pass('without JavaScript: the page reloads, and reloading can be switched off');

  assert.deepEqual(seen, { complaints: [], elsewhere: [] });
  pass('the page sent no request to another server, and the browser reported no error');

  // The daemon is not reachable.
  const { databases: [{ workers: [{ pid }] }] } = await (await fetch(`${base}/status.json`)).json();
  process.kill(pid, 'SIGKILL');
  await says(page, "No response since then (the daemon is not reachable)");
  await says(page, 'steady');
  await page.screenshot({ path: `${folder}/gone.png`, fullPage: true });
  pass('unreachable daemon: the page shows the failure and keeps the last data');
} finally {
  await browser.close();
}
