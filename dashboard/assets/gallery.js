// A grid of examples. Strings of the run are set as text, never as HTML.
// A click picks one example; the corner, Ctrl, Cmd or Shift add to what is picked.

function element(kind, name, text) {
  const made = document.createElement(kind);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function line(key, name, end) {
  const made = element("span", "line");
  made.append(element("span", "key", key), element("span", "name verdict", name));
  if (end) made.append(element("span", "end", end));
  return made;
}

function tile(item) {
  const made = element("button", "tile" + (item.wrong ? " wrong" : "") + (item.tone ? " " + item.tone : ""));
  made.type = "button";
  made.title = item.title;
  made.setAttribute("aria-label", item.title);
  if (item.src) {
    const picture = element("img", "");
    picture.src = item.src;
    picture.alt = "";
    made.append(picture);
  } else {
    made.append(element("span", "words", item.text));
  }
  made.append(...item.lines.map(([key, name, end]) => line(key, name, end)));
  made.append(element("span", "add", item.picked ? "✓" : "+"));
  return made;
}

// The tile of this item, if there is one already: its picture need not be decoded again.
function kept(drawn, item) {
  const words = JSON.stringify(item);
  const made = drawn.get(words) ?? tile(item);
  drawn.delete(words);
  made.item = words;
  made.setAttribute("aria-pressed", String(Boolean(item.picked)));
  return made;
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const grid = parentElement.querySelector(".grid");
  grid.setAttribute("aria-label", data.label);
  const drawn = new Map([...grid.children].map((made) => [made.item, made]));
  const tiles = data.items.map((item) => kept(drawn, item));
  if (tiles.length !== grid.children.length || tiles.some((made, i) => made !== grid.children[i])) grid.replaceChildren(...tiles);
  const focused = tiles[data.items.findIndex((item) => item.id === grid.lastPicked)];
  if (focused && grid.hadFocus) focused.focus({ preventScroll: true });
  grid.hadFocus = false;
  tiles.forEach((made, place) => {
    made.onclick = (event) => {
      const item = data.items[place];
      const add = data.adding || event.ctrlKey || event.metaKey || event.target.classList.contains("add");
      const from = data.items.findIndex((other) => other.id === grid.lastPicked);
      const [low, high] = event.shiftKey && from >= 0 ? [Math.min(from, place), Math.max(from, place)] : [place, place];
      if (!add && !event.shiftKey) tiles.forEach((other) => other.setAttribute("aria-pressed", "false"));
      const on = add ? !item.picked : event.shiftKey || !item.picked || data.picked > 1;
      for (let i = low; i <= high; i++) tiles[i].setAttribute("aria-pressed", String(on));
      grid.lastPicked = item.id;
      grid.hadFocus = true;
      setTriggerValue("picked", { ids: data.items.slice(low, high + 1).map((other) => other.id), add: add || event.shiftKey, on });
    };
  });
}
