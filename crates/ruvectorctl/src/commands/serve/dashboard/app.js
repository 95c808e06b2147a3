// The dashboard: reads /api/status and /api/collection and draws them. No library; text is only ever set as text.
'use strict';

const EVERY_MS = 5000;
const SPANS = [['1 h', 1], ['6 h', 6], ['24 h', 24], ['7 d', 168]];
// Parts that a picture can show; of more, the weakest.
const PARTS_MAX = 80;

const at = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
let chosen = decodeURIComponent(location.hash.slice(1));
let hours = 1;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

function draw(tag, attributes = {}, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const known = (value, digits) => (typeof value === 'number' ? value.toFixed(digits) : '?');
const stateClass = (state) => 's-' + (['normal', 'stress', 'critical'].includes(state) ? state : 'unknown');
const healthClass = (health) => stateClass(typeof health !== 'number' ? 'unknown' : health < 0.4 ? 'critical' : health < 0.7 ? 'stress' : 'normal');

function lasting(seconds) {
  if (typeof seconds !== 'number') return '';
  if (seconds < 60) return Math.round(seconds) + ' s';
  if (seconds < 3600) return Math.round(seconds / 60) + ' min';
  if (seconds < 86400) return (seconds / 3600).toFixed(1) + ' h';
  return (seconds / 86400).toFixed(1) + ' d';
}

async function get(path) {
  const answer = await fetch(path);
  const document = await answer.json();
  if (!answer.ok) throw new Error(document.error ? document.error.message : answer.statusText);
  return document;
}

function curve(points, x, y) {
  return points.map(([time, value], i) => (i ? 'L' : 'M') + x(time).toFixed(1) + ' ' + y(value).toFixed(1)).join('');
}

function spark(points) {
  const svg = draw('svg', { viewBox: '0 0 200 32', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  if (points && points.length > 1) {
    const now = Date.now() / 1000, span = Math.max(now - points[0][0], 300);
    const x = (time) => 200 * (1 - (now - time) / span);
    svg.append(draw('path', { class: 'curve', 'vector-effect': 'non-scaling-stroke', d: curve(points, x, (value) => 30 - 28 * Math.min(value, 1)) }));
  }
  return svg;
}

function showStatus(status) {
  const server = status.server || {};
  at('server').textContent = `${server.database} · PostgreSQL ${server.server_version} · ruvector ${server.version} · healing is ${server.enabled ? 'on' : 'OFF'}, mode ${server.mode} · ${server.total_healings_24h} ${server.total_healings_24h === 1 ? 'healing' : 'healings'} in 24 hours`
    + (server.why_not ? ` · ${server.why_not}` : '');
  const cards = status.collections.map((row) => {
    const action = (row.active_remediations || [])[0];
    const card = make('button', { class: stateClass(row.state), 'aria-current': String(row.collection === chosen) },
      make('span', { class: 'name' }, row.collection),
      make('span', { class: 'value', title: 'λ' }, known(row.lambda_cut, 2)),
      make('span', { class: 'note' }, action ? `${action.strategy} ${action.status}` : `${row.state} for ${lasting(row.since_s)}`),
      spark((status.lambda || {})[row.collection]));
    card.addEventListener('click', () => { location.hash = encodeURIComponent(row.collection); });
    return card;
  });
  const focused = [...at('collections').children].indexOf(document.activeElement);
  at('collections').replaceChildren(...cards);
  if (focused >= 0 && cards[focused]) cards[focused].focus();
  at('empty').hidden = cards.length > 0;
  return status.collections.find((row) => row.collection === chosen);
}

function showLambda(detail) {
  const svg = at('lambda');
  const width = svg.clientWidth || 900, height = 260, left = 34, bottom = 22;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  // No longer than there are samples, so that the first minutes are not a line at the edge.
  const all = detail.lambda || [];
  const end = Date.now() / 1000, begin = Math.max(end - detail.hours * 3600, Math.min(all.length ? all[0][0] : 0, end - 300));
  const x = (time) => left + (width - left - 8) * (time - begin) / (end - begin);
  const y = (value) => 8 + (height - bottom - 8) * (1.05 - value) / 1.05;
  const { stress_lambda: stress = 0.7, critical_lambda: critical = 0.4 } = detail.settings || {};
  const parts = [
    draw('rect', { class: 'band-stress', x: left, width: width - left - 8, y: y(stress), height: y(critical) - y(stress) }),
    draw('rect', { class: 'band-critical', x: left, width: width - left - 8, y: y(critical), height: y(0) - y(critical) }),
  ];
  for (const done of detail.history || []) {
    if (done.ended < begin) continue;
    const from = Math.max(x(done.started), left);
    const band = draw('rect', { class: 'healing' + (done.status === 'succeeded' ? '' : ' bad'), x: from, width: Math.max(x(done.ended) - from, 2), y: 8, height: height - bottom - 8 });
    band.append(draw('title', {}, `action ${done.action_id}: ${done.strategy} ${done.status}`));
    parts.push(band);
  }
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(draw('line', { class: 'axis', x1: left, x2: width - 8, y1: y(value), y2: y(value) }), draw('text', { x: 4, y: y(value) + 4 }, value));
  }
  for (let i = 0; i <= 6; i++) {
    const time = begin + (end - begin) * i / 6, date = new Date(time * 1000);
    const label = end - begin > 86400 ? date.toLocaleDateString([], { month: 'short', day: 'numeric' }) : date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
    parts.push(draw('text', { x: x(time), y: height - 5, 'text-anchor': i === 0 ? 'start' : i === 6 ? 'end' : 'middle' }, label));
  }
  const points = all.filter(([time]) => time >= begin);
  // A gap without samples is a gap in the curve: what nobody measured is not drawn.
  const apart = Math.max((end - begin) / 50, 60);
  let run = [];
  points.forEach((point, i) => {
    if (i && point[0] - points[i - 1][0] > apart) { parts.push(draw('path', { class: 'curve', d: curve(run, x, y) })); run = []; }
    run.push(point);
  });
  parts.push(draw('path', { class: 'curve', d: curve(run, x, y) }));
  const cursor = draw('line', { class: 'cursor', y1: 8, y2: height - bottom, visibility: 'hidden' });
  const label = draw('text', { class: 'label', y: 20, visibility: 'hidden' });
  svg.replaceChildren(...parts, cursor, label);
  svg.onpointermove = (event) => {
    if (!points.length) return;
    const time = begin + (event.offsetX - left) / (width - left - 8) * (end - begin);
    const nearest = points.reduce((best, point) => (Math.abs(point[0] - time) < Math.abs(best[0] - time) ? point : best));
    const px = x(nearest[0]);
    cursor.setAttribute('x1', px); cursor.setAttribute('x2', px);
    label.setAttribute('x', px > width / 2 ? px - 6 : px + 6);
    label.setAttribute('text-anchor', px > width / 2 ? 'end' : 'start');
    label.textContent = `λ ${nearest[1].toFixed(3)}, ${nearest[2]}, ${new Date(nearest[0] * 1000).toLocaleTimeString()}`;
    for (const node of [cursor, label]) node.setAttribute('visibility', 'visible');
  };
  svg.onpointerleave = () => { for (const node of [cursor, label]) node.setAttribute('visibility', 'hidden'); };
}

// A picture has room for few words; the whole name comes with the pointer.
function shortName(node) {
  const name = node.type === 'centroid' ? node.name.replace(/^centroid (group \d+).*/, '$1') : node.name;
  return name.length > 24 ? name.slice(0, 23) + '…' : name;
}

// The parts around the core: what hangs on it directly in the inner ring, what hangs on these beside them.
function showGraph(rows) {
  const svg = at('graph');
  const width = svg.clientWidth || 500, height = 380, cx = width / 2, cy = height / 2;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  let nodes = rows.filter((row) => row.element === 'node');
  const core = nodes.find((node) => node.type === 'core');
  if (!core) { svg.replaceChildren(); return; }
  const all = nodes.length;
  nodes = [core, ...nodes.filter((node) => node !== core).sort((a, b) => (a.health ?? 1) - (b.health ?? 1)).slice(0, PARTS_MAX)];
  const shown = new Map(nodes.map((node) => [node.name, node]));
  const edges = rows.filter((row) => row.element === 'edge' && shown.has(row.name) && shown.has(row.to_name));
  const near = new Map(nodes.map((node) => [node.name, []]));
  for (const edge of edges) { near.get(edge.name).push(edge.to_name); near.get(edge.to_name).push(edge.name); }
  const parent = new Map([[core.name, null]]), order = [core.name];
  for (const name of order) for (const next of near.get(name)) if (!parent.has(next)) { parent.set(next, name); order.push(next); }
  const children = (name) => order.filter((other) => parent.get(other) === name);
  const weight = (name) => Math.max(1, children(name).reduce((sum, child) => sum + weight(child), 0));
  const place = new Map([[core.name, [cx, cy]]]);
  const spread = (name, from, to, depth) => {
    let angle = from;
    const total = children(name).reduce((sum, child) => sum + weight(child), 0);
    for (const child of children(name)) {
      const share = (to - from) * weight(child) / total, middle = angle + share / 2;
      const radius = [0.48, 0.8, 0.95][Math.min(depth, 2)];
      place.set(child, [cx + (cx - 70) * radius * Math.cos(middle), cy + (cy - 26) * radius * Math.sin(middle)]);
      spread(child, angle, angle + share, depth + 1);
      angle += share;
    }
  };
  spread(core.name, -Math.PI / 2, Math.PI * 1.5, 0);
  const parts = [];
  for (const edge of edges) {
    const from = place.get(edge.name), to = place.get(edge.to_name);
    if (!from || !to) continue;
    const line = draw('line', { class: `link ${healthClass(edge.health)}${edge.in_witness ? ' cut' : ''}`, x1: from[0], y1: from[1], x2: to[0], y2: to[1], 'stroke-width': 1 + 3 * Math.min(edge.capacity ?? 0, 1) });
    line.append(draw('title', {}, `${edge.type}: ${edge.name} – ${edge.to_name}, capacity ${known(edge.capacity, 3)}` + (edge.metric ? `, ${edge.metric} = ${known(edge.value, 3)}` : '')));
    parts.push(line);
  }
  const labelled = nodes.length <= 30;
  for (const node of nodes) {
    const spot = place.get(node.name);
    if (!spot) continue;
    const circle = draw('circle', { class: `part ${healthClass(node.health ?? 1)}`, cx: spot[0], cy: spot[1], r: node === core ? 13 : 8 });
    circle.append(draw('title', {}, `${node.type} ${node.name}` + (node.metric ? `: ${node.metric} = ${known(node.value, 3)}` : '')));
    parts.push(circle);
    if (labelled) {
      const inner = node === core;
      const side = spot[0] < cx - 5 ? 'end' : spot[0] > cx + 5 ? 'start' : 'middle';
      const dx = inner || side === 'middle' ? 0 : side === 'end' ? -12 : 12, dy = inner ? 26 : side === 'middle' ? (spot[1] < cy ? -12 : 22) : 4;
      parts.push(draw('text', { class: 'label', x: spot[0] + dx, y: spot[1] + dy, 'text-anchor': inner ? 'middle' : side }, shortName(node)));
    }
  }
  if (all > nodes.length) parts.push(draw('text', { x: 6, y: height - 6 }, `the ${nodes.length - 1} weakest of ${all - 1} parts`));
  svg.replaceChildren(...parts);
}

function showRecall(rows) {
  const lines = rows.map((row) => {
    const bar = make('div', { class: 'bar ' + (row.recall === null ? 's-unknown' : row.recall < row.objective ? 's-stress' : 's-normal') });
    if (row.recall !== null) {
      const filled = make('i'), goal = make('b', { title: `objective ${row.objective}` });
      filled.style.width = `${row.recall * 100}%`;
      goal.style.left = `${row.objective * 100}%`;
      bar.append(filled, goal);
    }
    return make('tr', {}, make('td', {}, row.index_name), make('td', { class: 'number' }, row.recall === null ? '' : known(row.recall, 3)), make('td', {}, bar),
      make('td', { class: 'number' }, row.blocks_per_query === null ? '' : Math.round(row.blocks_per_query)), make('td', { class: 'faint' }, row.missing || ''));
  });
  const k = rows.length ? rows[0].k : 10;
  const head = make('tr', {}, make('th', {}, 'index'), make('th', { class: 'number' }, `recall@${k}`), make('th', {}, ''), make('th', { class: 'number' }, 'blocks a query'), make('th', {}, ''));
  at('recall').replaceChildren(rows.length ? make('table', {}, head, ...lines) : make('p', { class: 'faint' }, 'There is no vector index.'));
}

function showHistory(rows) {
  const open = new Set([...at('history').querySelectorAll('details[open]')].map((node) => node.dataset.id));
  const entries = rows.map((row) => {
    const entry = make('details', {}, make('summary', {}, `${new Date(row.completed_at).toLocaleString()} · ${row.strategy} · ${row.status} · λ ${known(row.initial_lambda, 2)} → ${known(row.final_lambda, 2)}`), make('pre', {}, row.story));
    entry.dataset.id = row.action_id;
    entry.open = open.has(String(row.action_id));
    return entry;
  });
  at('history').replaceChildren(...(entries.length ? entries : [make('p', { class: 'faint' }, 'Nothing was healed in the last 30 days.')]));
}

function showDoing(row, action) {
  const doing = at('doing');
  if (!action || !action.action_id) { doing.textContent = row.why_not || ''; return; }
  const bar = make('progress', { max: action.steps || 1, value: action.done || 0 });
  const left = action.estimated_s > action.elapsed_s ? `, about ${lasting(action.estimated_s - action.elapsed_s)} left` : '';
  doing.replaceChildren(`action ${action.action_id}: ${action.strategy} ${action.status} `, bar, ` ${action.done} of ${action.steps} steps, ${action.progress || ''}, for ${lasting(action.elapsed_s || 0)}${left}`);
}

async function look() {
  let status;
  try {
    status = await get('api/status');
    if (!status.collections.some((row) => row.collection === chosen)) chosen = status.collections.length ? status.collections[0].collection : '';
    const row = showStatus(status);
    at('detail').hidden = !row;
    if (row) {
      const detail = await get(`api/collection?name=${encodeURIComponent(row.collection)}&hours=${hours}`);
      at('name').textContent = row.collection;
      at('state').textContent = row.state;
      at('state').className = 'pill ' + stateClass(row.state);
      at('explanation').textContent = detail.explanation || '';
      showDoing(row, detail.action);
      showLambda(detail);
      showGraph(detail.graph);
      showRecall(detail.recall);
      showHistory(detail.history);
    }
    at('trouble').hidden = true;
  } catch (error) {
    at('trouble').textContent = `Not up to date: ${error.message}`;
    at('trouble').hidden = false;
  }
}

for (const [label, value] of SPANS) {
  const button = make('button', { 'aria-pressed': String(value === hours) }, label);
  button.addEventListener('click', () => {
    hours = value;
    for (const other of at('span').children) other.setAttribute('aria-pressed', String(other === button));
    look();
  });
  at('span').append(button);
}
addEventListener('hashchange', () => { chosen = decodeURIComponent(location.hash.slice(1)); look(); });
look();
setInterval(() => { if (!document.hidden) look(); }, EVERY_MS);
