// Files that are dropped or pasted anywhere on the page go where files are added on the tab in view.
// Those that cannot be taken are told by name, and the others go their way; what belongs on another
// tab is offered there.
const adding = (() => {
	const PANELS = "#chat-tab, #video-tab, #compare-tab";
	const WAIT_MS = 5_000; // for a part of the page that Gradio builds late
	const TAKES = {
		"chat-tab": ["picture", "document"],
		"video-tab": ["clip"],
		"compare-tab": ["picture"],
	};
	const HOMES = { clip: "video", picture: "chat", document: "chat" };
	const TABS = { chat: 0, video: 1 };
	const CLIP = /\.(mp4|m4v|mov|webm|mkv|avi|mpe?g|ts|m2?ts|flv|og[gv]|vob|3gp|wmv)$/i;
	const PICTURE = /\.(avif|hei[cf]|tiff?|bmp|jfif)$/i;

	// By name where the system knows no type for it; the server looks into the file.
	const kindOf = ({ name, type }) => {
		if (type === "application/pdf" || /\.pdf$/i.test(name)) return "document";
		if (type.startsWith("image/") || PICTURE.test(name)) return "picture";
		return type.startsWith("video/") || CLIP.test(name) ? "clip" : "other";
	};
	const panel = () => [...document.querySelectorAll(PANELS)].find((one) => one.checkVisibility());
	const hasFiles = (data) => [...(data?.types ?? [])].includes("Files");
	const nextFrame = () => new Promise(requestAnimationFrame);
	const until = async (find) => {
		for (const end = performance.now() + WAIT_MS; performance.now() < end; await nextFrame()) {
			const found = find();
			if (found) return found;
		}
		return null;
	};

	// The files that the tab `place` takes; of the others it is told why not.
	const sorted = (files, place) => {
		const told = [];
		const taken = [];
		const elsewhere = [];
		for (const file of files) {
			const { name, size } = file;
			const kind = kindOf(file);
			const mb = window.fileLimitsMb[kind];
			if (kind === "other") told.push(say("file_kind", { name }));
			else if (size > mb * 1024 * 1024) told.push(say("file_large", { name, mb }));
			else if (TAKES[place.id].includes(kind)) taken.push(file);
			else elsewhere.push(file);
		}
		if (place.id === "video-tab" && taken.length > 1)
			told.push(say("file_only_one", { name: taken.splice(1)[0] && taken[0].name }));
		const home = elsewhere.length && HOMES[kindOf(elsewhere[0])];
		const moved = elsewhere.filter((file) => HOMES[kindOf(file)] === home);
		for (const { name } of moved) told.push(say(`for_${home}`, { name }));
		if (home) undo.offer(told.join(" "), () => open(home, moved), say(`open_${home}`));
		else if (told.length) undo.tell(told.join(" "));
		return taken;
	};

	const put = (input, files) => {
		const data = new DataTransfer();
		for (const file of files) data.items.add(file);
		input.files = data.files;
		input.dispatchEvent(new Event("change", { bubbles: true }));
	};

	const give = async (files, place) => {
		const taken = place ? sorted(files, place) : [];
		if (!taken.length) return;
		// The input itself is never visible. It is gone while the player shows another clip.
		const clear = [...place.querySelectorAll("#clip .icon-button-wrapper button")].at(-1);
		clear?.click(); // its name is in the visitor's language
		const input = await until(() => place.querySelector("input[type=file]"));
		if (!input) return undo.tell(say("file_nowhere"));
		put(input, taken);
		place.querySelector("#chat-box textarea, #compare-box textarea")?.focus();
	};

	const open = async (home, files) => {
		document.querySelectorAll('[role="tab"]')[TABS[home]].click();
		give(files, await until(() => panel()?.id === `${home}-tab` && panel()));
	};

	const mark = (place) => {
		for (const one of document.querySelectorAll(PANELS))
			one.classList.toggle("takes-drop", one === place);
	};

	// Before Gradio's parts see them, so that there is one way for all.
	const first = { capture: true };
	const dragged = {
		dragenter: mark,
		dragover: () => {},
		dragleave: (place, event) => event.relatedTarget || mark(null),
		drop(place, event) {
			mark(null);
			give([...event.dataTransfer.files], place);
		},
	};
	for (const [name, act] of Object.entries(dragged))
		addEventListener(
			name,
			(event) => {
				if (!hasFiles(event.dataTransfer)) return;
				event.preventDefault(); // else the browser leaves the page and opens the file
				event.stopPropagation();
				act(panel(), event);
			},
			first,
		);
	addEventListener(
		"paste",
		(event) => {
			const files = [...(event.clipboardData?.files ?? [])];
			const isText = event.clipboardData?.types.includes("text/plain"); // spreadsheets send both
			const isField = event.target.closest?.("input, textarea, [contenteditable]");
			if (!files.length || (isText && isField)) return;
			event.preventDefault();
			event.stopPropagation();
			give(files, panel());
		},
		first,
	);
	addEventListener(
		"change",
		(event) => {
			const input = event.target;
			const place = input.matches?.("input[type=file]") && input.closest(PANELS);
			const files = place ? [...input.files] : [];
			const taken = files.length ? sorted(files, place) : files;
			if (taken.length === files.length) return;
			event.stopPropagation();
			if (taken.length) put(input, taken);
			else input.value = "";
		},
		first,
	);

	// What is in a box now, also where the server has put it there, which Gradio tells nobody. Files that
	// the server has not looked into yet are shown to it, and which pages stand there now.
	const PAGE = /-page-\d+-of-\d+\.jpg$/;
	const known = new Set();
	const pages = {}; // by the name of the box
	const seen = (box, name) => {
		document.dispatchEvent(new CustomEvent("box-seen", { detail: { name, box } }));
		const paths = (box?.files ?? []).map(({ path }) => path);
		const fresh = paths.filter((path) => !known.has(path));
		for (const path of fresh) known.add(path);
		if (fresh.length) document.querySelector(`#look-${name}`).click();
		const now = paths.filter((path) => PAGE.test(path)).join();
		if (now === (pages[name] ?? "")) return;
		pages[name] = now;
		document.querySelector(`#pages-of-${name}`)?.click();
	};

	// Gradio does not always tell of a file that was removed. First, as the button goes with it.
	const AFTER_MS = 100;
	addEventListener(
		"click",
		({ target }) => {
			const box = target.closest?.(".delete-button")?.closest("#chat-box, #compare-box");
			if (box) setTimeout(() => document.querySelector(`#see-${box.id}`)?.click(), AFTER_MS);
		},
		first,
	);

	// The box with what the server found in its files: a path's beginning -> what takes their place.
	const merged = (text, box) => {
		const changes = Object.entries(JSON.parse(text || "{}"));
		if (!changes.length) return { __type__: "update" }; // nothing: it may have changed meanwhile
		const done = new Set();
		const files = (box?.files ?? []).flatMap((file) => {
			const change = changes.find(([start]) => file.path.startsWith(start));
			if (!change) return [file];
			const paths = done.has(change) ? [] : change[1];
			done.add(change);
			for (const path of paths) known.add(path);
			if (!paths.length) known.delete(file.path); // it may be added again
			return paths.map((path) => ({
				...{ path, url: fileUrl(path), orig_name: path.split("/").at(-1) },
				...{ mime_type: "image/jpeg", meta: { _type: "gradio.FileData" } },
			}));
		});
		return { text: box?.text ?? "", files };
	};

	return { seen, merged };
})();
window.adding = adding;
