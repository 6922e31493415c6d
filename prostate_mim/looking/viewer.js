// Shows the study that is embedded in this page: three planes and a rendering by NiiVue, outlines and markers drawn
// over them. Reads nothing but this page.
(async () => {
  "use strict";
  const AXIAL = 0, CORONAL = 1, SAGITTAL = 2, RENDER = 4;
  const DEPTH_AXIS = [2, 1, 0]; // axis that runs through the plane, by slice type
  const ACROSS = [[0, 1], [0, 2], [1, 2]]; // axes to the right and up, by slice type
  const MARKER = "#4dd2ff", CHOSEN = "#ff6ad5", LETTER = "#e8eaed", RING_MM = 8, GAP_MM = 10;
  const LAYOUTS = [
    [[AXIAL, 0, 0, .62, 1], [SAGITTAL, .62, 0, .38, .34], [CORONAL, .62, .34, .38, .3], [RENDER, .62, .64, .38, .36]],
    [[AXIAL, 0, 0, 1, 1]], [[SAGITTAL, 0, 0, 1, 1]], [[CORONAL, 0, 0, 1, 1]], [[RENDER, 0, 0, 1, 1]],
  ];
  const find = (id) => document.getElementById(id);
  const study = JSON.parse(find("study").textContent);
  const state = { outlines: true, markers: true, shown: study.masks.map(() => true), layout: 0, nearest: false,
    heat: true };

  // ------------------------------------------------------------------------------------------------- reading

  async function unpack(id) {
    const letters = atob(find(id).textContent);
    const packed = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  function lookUpTable(colours) {
    const parts = colours.map((colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16)));
    const channel = (index) => [0, ...parts.map((part) => part[index])];
    return { R: channel(0), G: channel(1), B: channel(2), A: [0, ...colours.map(() => 255)] };
  }

  async function load() {
    const Image = niivue.NVImage;
    const [low, high] = study.window;
    nv.addVolume(await Image.new(await unpack("volume"), "study.nii", "gray", 1, null, low, high));
    for (const [number, mask] of study.masks.entries()) {
      const buffer = await unpack(`mask-${number}`);
      mask.voxels = new Uint8Array(buffer, buffer.byteLength - study.size.reduce((a, b) => a * b, 1));
      const overlay = await Image.new(buffer, "mask.nii", "gray", study.fill);
      overlay.setColormapLabel(lookUpTable(mask.labels.map((label) => label.colour)));
      nv.addVolume(overlay);
    }
    if (study.saliency) await loadSaliency();
  }

  // Over all masks. Colours fade out towards 0, so that the image stays visible where nothing counts.
  async function loadSaliency() {
    for (const [name, nodes] of Object.entries(study.saliency.colours)) nv.addColormap(`saliency-${name}`, nodes);
    const { opacity, low } = study.saliency, first = `saliency-${Object.keys(study.saliency.colours)[0]}`;
    const map = await niivue.NVImage.new(await unpack("saliency"), "saliency.nii", first, opacity, null, low, 1);
    [map.cal_min, map.cal_max] = [low, 1];
    nv.addVolume(map);
  }

  const heat = () => nv.volumes[study.masks.length + 1];

  // ---------------------------------------------------------------------------------- where things are on screen

  const toMm = (index) => study.affine.map((row) => row[3] + row[0] * index[0] + row[1] * index[1] + row[2] * index[2]);

  // Voxel index (x, y, z) <-> fraction of NiiVue's texture: linear, and each axis runs along one of the texture's.
  function indexToFraction() {
    const fraction = (index) => Array.from(nv.mm2frac(toMm(index), 0, true));
    const start = fraction([0, 0, 0]);
    const step = [0, 1, 2].map((axis) => {
      const unit = [0, 0, 0];
      unit[axis] = study.size[axis];
      return (fraction(unit)[axis] - start[axis]) / study.size[axis];
    });
    return { start, step };
  }

  // Fraction -> pixels of the canvas, in one tile.
  function projection(tile) {
    const [right, up] = ACROSS[tile.axCorSag];
    let [left, top, width, height] = tile.leftTopWidthHeight;
    const mirrored = width < 0;
    if (mirrored) { left += width; width = -width; }
    return (fraction) => {
      const mm = nv.frac2mm(fraction);
      const u = (mm[right] - tile.leftTopMM[0]) / tile.fovMM[0];
      const v = (mm[up] - tile.leftTopMM[1]) / tile.fovMM[1];
      return [left + (mirrored ? 1 - u : u) * width, top + (1 - v) * height];
    };
  }

  function planes() {
    return nv.screenSlices.filter((tile) => tile.axCorSag <= SAGITTAL && Number.isFinite(tile.sliceFrac));
  }

  // -------------------------------------------------------------------------------------------------- drawing

  function draw() {
    const canvas = find("drawn"), scene = find("scene");
    if (canvas.width !== scene.width || canvas.height !== scene.height) {
      [canvas.width, canvas.height] = [scene.width, scene.height];
    }
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const grid = indexToFraction();
    const ratio = scene.width / Math.max(1, scene.clientWidth);
    for (const tile of planes()) {
      const project = projection(tile);
      let [left, top, width, height] = tile.leftTopWidthHeight;
      pen.save();
      pen.beginPath();
      pen.rect(Math.min(left, left + width), top, Math.abs(width), height);
      pen.clip();
      if (state.outlines) drawOutlines(pen, tile, project, grid, ratio);
      drawCrosshair(pen, tile, project, ratio);
      drawLetters(pen, tile, project, ratio);
      if (state.markers) drawMarkers(pen, tile, project, ratio);
      pen.restore();
    }
  }

  // A cross with a gap, so that it never hides what it points at.
  function drawCrosshair(pen, tile, project, ratio) {
    const [x, y] = project(nv.scene.crosshairPos);
    const gap = GAP_MM * Math.abs(tile.leftTopWidthHeight[2] / tile.fovMM[0]);
    const far = 2 * Math.max(pen.canvas.width, pen.canvas.height);
    pen.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + gap * dx, y + gap * dy);
      pen.lineTo(x + far * dx, y + far * dy);
    }
    pen.strokeStyle = "#7fd17fb0";
    pen.lineWidth = ratio;
    pen.stroke();
  }

  // R, L, A, P, S, I at the edges of a tile, found from where the positions themselves are drawn.
  function drawLetters(pen, tile, project, ratio) {
    const [right, up] = ACROSS[tile.axCorSag];
    const low = [.5, .5, .5], high = [.5, .5, .5];
    [low[right], high[right]] = [0, 1];
    const names = [["L", "R"], ["P", "A"], ["I", "S"]]; // of the low and the high end of the axes of RAS
    const flipped = project(low)[0] > project(high)[0];
    const [atLeft, atRight] = flipped ? [...names[right]].reverse() : names[right];
    let [left, top, width, height] = tile.leftTopWidthHeight;
    if (width < 0) { left += width; width = -width; }
    const inset = 12 * ratio;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    write(pen, atLeft, left + inset, top + height / 2, LETTER, ratio);
    write(pen, atRight, left + width - inset, top + height / 2, LETTER, ratio);
    write(pen, names[up][1], left + width / 2, top + inset, LETTER, ratio);
    write(pen, names[up][0], left + width / 2, top + height - inset, LETTER, ratio);
    pen.textAlign = "left";
    pen.textBaseline = "alphabetic";
  }

  // The edges between voxels of different labels, in colours of the legend.
  function drawOutlines(pen, tile, project, grid, ratio) {
    const depth = DEPTH_AXIS[tile.axCorSag], [right, up] = ACROSS[tile.axCorSag];
    const at = Math.round((nv.scene.crosshairPos[depth] - grid.start[depth]) / grid.step[depth]);
    const slice = Math.max(0, Math.min(study.size[depth] - 1, at));
    const place = (u, v) => {
      const fraction = Array.from(nv.scene.crosshairPos);
      fraction[right] = grid.start[right] + grid.step[right] * u;
      fraction[up] = grid.start[up] + grid.step[up] * v;
      return project(fraction);
    };
    const [x0, y0] = place(-.5, -.5);
    const dx = place(.5, -.5)[0] - x0, dy = place(-.5, .5)[1] - y0;
    const strides = [1, study.size[0], study.size[0] * study.size[1]];
    pen.lineWidth = 1.5 * ratio;
    pen.lineCap = "square";
    for (const [number, mask] of study.masks.entries()) {
      if (!state.shown[number]) continue;
      const look = (u, v) => u < 0 || v < 0 || u >= study.size[right] || v >= study.size[up] ? 0
        : mask.voxels[slice * strides[depth] + u * strides[right] + v * strides[up]];
      const paths = mask.labels.map(() => new Path2D());
      const [low, high] = mask.box;
      for (let v = low[up]; v <= high[up] + 1; v++) {
        for (let u = low[right]; u <= high[right] + 1; u++) {
          const here = look(u, v), before = look(u - 1, v), below = look(u, v - 1);
          const x = x0 + u * dx, y = y0 + v * dy;
          if (here !== before) edge(paths[(here || before) - 1], x, y, x, y + dy);
          if (here !== below) edge(paths[(here || below) - 1], x, y, x + dx, y);
        }
      }
      mask.labels.forEach((label, index) => { pen.strokeStyle = label.colour; pen.stroke(paths[index]); });
    }
  }

  function edge(path, x0, y0, x1, y1) {
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  }

  // A marker is a ball: its circle shrinks with the distance from the slice, and is dashed off the slice itself.
  function drawMarkers(pen, tile, project, ratio) {
    const depth = DEPTH_AXIS[tile.axCorSag];
    const pixels = Math.abs(tile.leftTopWidthHeight[2]) / Math.abs(tile.fovMM[0]);
    const here = nv.frac2mm(nv.scene.crosshairPos)[depth];
    for (const marker of study.markers) {
      const fraction = nv.mm2frac(marker.mm, 0, true);
      const away = Math.abs(nv.frac2mm(fraction)[depth] - here);
      if (away >= RING_MM) continue;
      const [x, y] = project(fraction);
      const radius = Math.sqrt(RING_MM ** 2 - away ** 2) * pixels;
      const inSlice = away <= study.spacing[depth] / 2 + 1e-3;
      pen.setLineDash(inSlice ? [] : [4 * ratio, 4 * ratio]);
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
      const colour = marker.chosen ? CHOSEN : MARKER;
      outlined(pen, colour, ratio);
      pen.setLineDash([]);
      writeBeside(pen, marker.label, x, y, radius, tile, colour, ratio);
    }
  }

  // To the right of a circle, or to its left where the tile ends.
  function writeBeside(pen, text, x, y, radius, tile, colour, ratio) {
    const [left, , width] = tile.leftTopWidthHeight;
    const off = radius * .72 + 4 * ratio;
    pen.font = font(ratio);
    const fits = x + off + pen.measureText(text).width < Math.max(left, left + width);
    pen.textAlign = fits ? "left" : "right";
    write(pen, text, fits ? x + off : x - off, y - off, colour, ratio);
    pen.textAlign = "left";
  }

  const font = (ratio) => `600 ${13 * ratio}px system-ui, sans-serif`;

  function outlined(pen, colour, ratio) {
    pen.strokeStyle = "#000c";
    pen.lineWidth = 4 * ratio;
    pen.stroke();
    pen.strokeStyle = colour;
    pen.lineWidth = 2 * ratio;
    pen.stroke();
  }

  function write(pen, text, x, y, colour, ratio) {
    pen.font = font(ratio);
    pen.lineJoin = "round";
    pen.strokeStyle = "#000c";
    pen.lineWidth = 3.5 * ratio;
    pen.strokeText(text, x, y);
    pen.fillStyle = colour;
    pen.fillText(text, x, y);
  }

  // ------------------------------------------------------------------------------------------------ moving

  function goTo(mm) {
    move(nv.mm2frac(mm, 0, true));
  }

  function move(fraction) {
    nv.scene.crosshairPos = fraction;
    nv.drawScene();
    nv.createOnLocationChange();
  }

  function step(slices) {
    const { start, step: unit } = indexToFraction();
    const fraction = Float32Array.from(nv.scene.crosshairPos);
    const at = Math.round((fraction[2] - start[2]) / unit[2]) + slices;
    fraction[2] = start[2] + unit[2] * Math.max(0, Math.min(study.size[2] - 1, at));
    move(fraction);
  }

  // Zooms in on the crosshair, which comes to the middle of every plane.
  function zoom(factor) {
    const pan = nv.scene.pan2Dxyzmm;
    const zoomed = factor === 0 ? 1 : Math.max(1, Math.min(20, pan[3] * factor));
    const middle = nv.frac2mm([.5, .5, .5]), here = nv.frac2mm(nv.scene.crosshairPos);
    for (let axis = 0; axis < 3; axis++) pan[axis] = zoomed === 1 ? 0 : middle[axis] - here[axis] * zoomed;
    pan[3] = zoomed;
    nv.drawScene();
  }

  function resetWindow() {
    [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = study.window;
    nv.updateGLVolume();
  }

  function setFill(value) {
    study.masks.forEach((_, number) => {
      nv.volumes[number + 1].opacity = state.shown[number] ? value : 0;
    });
    nv.updateGLVolume();
  }

  function layOut(number) {
    state.layout = number % LAYOUTS.length;
    nv.setCustomLayout(LAYOUTS[state.layout].map(([sliceType, ...position]) => ({ sliceType, position })));
  }

  function tell(location) {
    const [x, y, z] = location.mm; // RAS; the rest of the package speaks LPS
    const value = location.values.length ? `, value ${Number(location.values[0].value.toPrecision(6))}` : "";
    const map = location.values[study.masks.length + 1];
    const heated = study.saliency && map ? `, saliency ${map.value.toFixed(2)}` : "";
    find("where").textContent = `LPS ${(-x).toFixed(1)}, ${(-y).toFixed(1)}, ${z.toFixed(1)} mm${value}${heated}`;
  }

  // ---------------------------------------------------------------------------------------- the panel, the keys

  function element(parent, name, properties, text) {
    const made = Object.assign(document.createElement(name), properties);
    if (text !== undefined) made.textContent = text;
    return parent.appendChild(made);
  }

  function buildPanel() {
    study.masks.forEach((mask, number) => mask.labels.forEach((label, index) => {
      const line = element(element(find("masks"), "li", {}), "label", {});
      if (index === 0) {
        const box = element(line, "input", { type: "checkbox", checked: true });
        box.onchange = () => { state.shown[number] = box.checked; setFill(Number(find("fill").value)); };
      } else {
        element(line, "input", { type: "checkbox" }).style.visibility = "hidden";
      }
      const chip = element(line, "span", { className: "chip" });
      chip.style.borderColor = label.colour;
      element(line, "span", {}, label.name);
      element(line, "span", { className: "amount" }, `${label.ml.toFixed(label.ml < 10 ? 2 : 1)} ml`);
    }));
    study.markers.forEach((marker, number) => {
      const button = element(element(find("markers"), "li", {}), "button", { type: "button" });
      element(button, "span", { className: "chip ring" }).style.borderColor = marker.chosen ? CHOSEN : MARKER;
      element(button, "span", {}, marker.label);
      if (number < 9) element(button, "span", { className: "amount" }, String(number + 1));
      button.onclick = () => goTo(marker.mm);
    });
    find("fill").value = study.fill;
    find("fill").oninput = () => setFill(Number(find("fill").value));
    if (study.saliency) buildSaliency();
    for (const [id, things] of [["masks-part", study.masks], ["markers-part", study.markers]]) {
      find(id).hidden = things.length === 0;
    }
  }

  function buildSaliency() {
    find("saliency-words").textContent = study.saliency.words;
    find("saliency-words").hidden = study.saliency.words === "";
    for (const name of Object.keys(study.saliency.colours)) element(find("colours"), "option", { value: name }, name);
    find("opacity").value = study.saliency.opacity;
    find("low").value = study.saliency.low;
    for (const id of ["opacity", "low", "colours"]) find(id).oninput = showSaliency;
    drawRamp();
  }

  function showSaliency() {
    const map = heat();
    map.opacity = state.heat ? Number(find("opacity").value) : 0;
    map.cal_min = Number(find("low").value);
    map.colormap = `saliency-${find("colours").value}`;
    nv.updateGLVolume();
    drawRamp();
  }

  // The colours as they lie over mid-grey: values from 0 on the left to 1 on the right.
  function drawRamp() {
    const canvas = find("ramp"), pen = canvas.getContext("2d"), low = Number(find("low").value);
    const { R, G, B, A } = study.saliency.colours[find("colours").value];
    const gradient = pen.createLinearGradient(low * canvas.width, 0, canvas.width, 0);
    R.forEach((red, node) => {
      gradient.addColorStop(node / (R.length - 1), `rgba(${red}, ${G[node]}, ${B[node]}, ${A[node] / 255})`);
    });
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = gradient;
    pen.fillRect(low * canvas.width, 0, canvas.width, canvas.height);
  }

  const KEYS = {
    ArrowUp: () => step(1), ArrowDown: () => step(-1), PageUp: () => step(1), PageDown: () => step(-1),
    "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), "0": () => zoom(0),
    o: () => { state.outlines = !state.outlines; nv.drawScene(); },
    m: () => { state.markers = !state.markers; nv.drawScene(); },
    i: () => { state.nearest = !state.nearest; nv.setInterpolation(state.nearest); },
    v: () => layOut(state.layout + 1),
    w: resetWindow,
    s: () => { if (study.saliency) { state.heat = !state.heat; showSaliency(); } },
  };

  function listen() {
    const onKey = (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
      event.stopPropagation(); // NiiVue has keys of its own, for things that are not offered here
      if (event.type !== "keydown") return;
      const marker = study.markers[Number(event.key) - 1];
      const action = marker ? () => goTo(marker.mm) : KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!action) return;
      event.preventDefault();
      action();
    };
    for (const kind of ["keydown", "keyup"]) window.addEventListener(kind, onKey, true);
  }

  // ------------------------------------------------------------------------------------------------- beginning

  const nv = new niivue.Niivue({
    logLevel: "error", loadingText: "", dragAndDropEnabled: false, isRadiologicalConvention: true,
    isOrientationTextVisible: false, // the page's own crosshair and letters are readable on bright tissue too
    crosshairWidth: 0, sagittalNoseLeft: true, isOrientCube: true, backColor: [0, 0, 0, 1], isAntiAlias: true,
  });

  async function begin() {
    buildPanel();
    await nv.attachToCanvas(find("scene"), true);
    nv.setMouseEventConfig({
      leftButton: { primary: 8, withShift: 3, withCtrl: 2 }, rightButton: 9, centerButton: 3,
    });
    nv.onLocationChange = tell;
    await load();
    nv.updateGLVolume();
    const drawScene = nv.drawScene.bind(nv);
    nv.drawScene = (...given) => { const result = drawScene(...given); draw(); return result; };
    await nv.setVolumeRenderIllumination(-1); // three planes in space: a block of pelvis would hide all that matters
    nv.setRenderAzimuthElevation(210, 25);
    nv.setScale(1.5);
    layOut(0);
    goTo(study.focus);
    listen();
    find("notice").hidden = true;
    document.body.dataset.state = "drawn";
  }

  try {
    await begin();
  } catch (error) {
    const lacks = document.createElement("canvas").getContext("webgl2") === null;
    find("notice").textContent = lacks
      ? "This browser offers no WebGL 2, which the viewer needs; try another browser or switch on hardware acceleration."
      : `The viewer stopped: ${error.message}`;
    document.body.dataset.state = "failed";
  }
})();
