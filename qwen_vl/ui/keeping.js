// What a visitor made stays in this browser, and nowhere else: what is being written, and the
// settings; chats.js and video_chat.js have the chats. A tab finds its own again; a new tab goes on with the newest.
const keeping = (() => {
	const KEY = "qwen-vl";
	const WRITE_AFTER_MS = 300; // an answer changes many times a second
	let kept = {};
	let begun = false; // before the page has got back what is kept, its empty boxes say nothing
	let waiting = 0;

	const isBlocked = (blocked) =>
		document.documentElement.classList.toggle("keeps-nothing", blocked);

	const write = () => {
		clearTimeout(waiting);
		waiting = 0;
		if (!begun) return;
		try {
			const text = JSON.stringify(kept);
			sessionStorage.setItem(KEY, text);
			localStorage.setItem(KEY, text);
			isBlocked(false);
		} catch {
			isBlocked(true); // not allowed here, as in some frames, or full
		}
	};

	addEventListener("pagehide", () => waiting && write());
	document.addEventListener("box-seen", ({ detail }) => {
		keeping.put(detail.name.replaceAll("-", "_"), detail.box);
	});

	return {
		read() {
			try {
				const text = sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "{}";
				kept = JSON.parse(text) ?? {};
				const shown = {
					chat: chats.begin(kept.chat_id),
					video_chat: videoChat.begin(kept.video_versions),
				};
				return JSON.stringify({ ...kept, ...shown });
			} catch {
				isBlocked(true);
				return "{}";
			}
		},
		// As it is now: a visitor may have changed something since the page was opened.
		kept() {
			return JSON.stringify(kept);
		},
		begin() {
			begun = true;
			document.documentElement.classList.add("begun"); // now the page is whole
			chats.begun();
			videoChat.begun();
			write();
		},
		put(name, value) {
			if (!begun) return;
			kept[name] = value;
			waiting ||= setTimeout(write, WRITE_AFTER_MS);
		},
		forget(names) {
			for (const name of names) delete kept[name];
			waiting ||= setTimeout(write, WRITE_AFTER_MS);
		},
	};
})();
window.keeping = keeping;
