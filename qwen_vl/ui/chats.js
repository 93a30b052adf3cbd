// The chats of this browser: each a record of its own in its storage, and nowhere else. The oldest
// make room for new ones. A tab shows one of them; the server is asked to show another, and checks it.
// Knows storage and the moment when the page shows what; the list is drawn by chat_list.js.
const chats = (() => {
	const PREFIX = "qwen-vl chat ";
	const MOST = 200;
	const MOST_CHARS = 4_000_000; // of the five million that a browser gives a site

	const sizes = new Map(); // id -> how many characters, and when it was written
	const listeners = [];
	const newChat = () => ({ id: crypto.randomUUID?.() ?? `${Math.random()}`, mark: null });
	// `mark` is how the record began when this tab read or wrote it: when, and by whom.
	let now = { ...newChat(), title: "", tree: branches.empty() };
	let next = null; // what the page will show as soon as the server has checked it
	let early = null; // what is to be shown as soon as the page has begun
	let begun = false; // before the page has got back what is kept, its empty chat says nothing

	const tell = (dropped = 0) => listeners.forEach((listener) => listener(dropped));
	const clone = (value) => JSON.parse(JSON.stringify(value));

	const look = (key, text) => {
		if (!key?.startsWith(PREFIX)) return;
		const id = key.slice(PREFIX.length);
		if (text === null) sizes.delete(id);
		else sizes.set(id, { chars: key.length + text.length, saved: parseInt(text, 10) || 0 });
	};

	const read = (id) => {
		try {
			const text = localStorage.getItem(PREFIX + id);
			const end = text.indexOf("\n");
			const { title, tree } = JSON.parse(text.slice(end + 1));
			return { id, mark: text.slice(0, end), title, tree, saved: parseInt(text, 10) };
		} catch {
			return null; // gone, not allowed, or of another version
		}
	};

	const forget = (id) => {
		localStorage.removeItem(PREFIX + id);
		sizes.delete(id);
	};

	const dropOldest = () => {
		const others = [...sizes].filter(([id]) => id !== now.id);
		if (!others.length) return false;
		forget(others.reduce((a, b) => (a[1].saved <= b[1].saved ? a : b))[0]);
		return true;
	};

	const isFull = () => {
		let chars = 0;
		for (const size of sizes.values()) chars += size.chars;
		return sizes.size > MOST || chars > MOST_CHARS;
	};

	const store = () => {
		// Another tab went on with this chat: what this tab shows becomes a chat of its own.
		const text = localStorage.getItem(PREFIX + now.id);
		if (text !== null && !text.startsWith(`${now.mark}\n`)) {
			now = { ...now, ...newChat() };
			keeping.put("chat_id", now.id);
		}
		now.mark = `${Date.now()} ${Math.random().toString(36).slice(2)}`;
		const written = `${now.mark}\n${JSON.stringify({ title: now.title, tree: now.tree })}`;
		look(PREFIX + now.id, written);
		let dropped = 0;
		while (isFull() && dropOldest()) dropped++;
		for (;;) {
			try {
				localStorage.setItem(PREFIX + now.id, written);
				break;
			} catch (error) {
				if (!dropOldest()) throw error;
				dropped++;
			}
		}
		tell(dropped);
	};

	const write = () => {
		try {
			if (now.tree.next.length) store();
			else forget(now.id);
		} catch {
			document.documentElement.classList.add("keeps-nothing"); // not allowed here, or full
		}
	};
	const shown = following(() => now.tree, write);

	addEventListener("storage", ({ key, newValue }) => {
		look(key, newValue);
		tell();
	});

	const move = (chat) => {
		shown.hold();
		next = chat.id === now.id ? { ...chat, mark: now.mark } : chat;
	};

	const show = (chat) => {
		if (!begun) {
			early = chat; // Gradio may not hear the click yet
			return;
		}
		move(chat);
		document.querySelector("#open-chat").click();
	};

	return {
		// For the start of the page: the turns of the chat that this tab showed.
		begin(id) {
			try {
				for (const key of Object.keys(localStorage)) look(key, localStorage.getItem(key));
			} catch {} // keeping.js says so
			now = (id && read(id)) || now;
			return branches.path(now.tree);
		},
		begun() {
			begun = true;
			keeping.put("chat_id", now.id);
			shown.take(); // somebody may have asked already
			tell();
			if (early) show(early);
		},
		put(_, turns) {
			if (begun || turns?.length) shown.see(turns, !begun);
		},
		hold: shown.hold,
		release: shown.release,

		// A new chat begins; this one stays in the list.
		leave() {
			const left = now;
			move({ ...newChat(), title: "", tree: branches.empty() });
			if (left.tree.next.length) undo.offer(say("chats_left"), () => chats.open(left.id));
		},
		open(id) {
			const chat = read(id);
			if (!chat) return;
			if (chat.tree.at < 0) chat.tree.at = chat.tree.next.length - 1; // its question was taken back
			show(chat);
		},
		// For a changed copy of the chat that is shown, or one from a file.
		show,
		handed: () => JSON.stringify({ turns: branches.path(next.tree), ...next.more }),
		arrived(turns) {
			const chat = next;
			next = null;
			// The server may not have answered: then the page shows what it showed.
			if (!chat || !branches.hasMoved(now.tree, chat.tree, turns ?? [])) return shown.release(null);
			now = { id: chat.id, mark: chat.mark, title: chat.title, tree: chat.tree };
			keeping.put("chat_id", now.id);
			for (const setting of Object.entries(chat.more?.settings ?? {})) keeping.put(...setting);
			shown.release(turns, chat.isChanged);
			tell();
		},

		// How many exchanges are shown, and which places have several versions.
		places: () => ({ count: branches.shown(now.tree).length, forks: branches.forks(now.tree) }),
		// What is shown, to be changed and then given to `show`.
		copy() {
			shown.take();
			return { ...clone(now), isChanged: true };
		},
		newChat,
		onChange: (listener) => listeners.push(listener),
		isShown: (id) => id === now.id,
		list() {
			shown.take();
			const found = [...sizes.keys()].map(read).filter(Boolean);
			return found.sort((a, b) => b.saved - a.saved);
		},
		rename(id, title) {
			const chat = id === now.id ? now : read(id);
			chat.title = title;
			if (chat === now) return shown.take(true);
			const text = `${chat.mark}\n${JSON.stringify({ title, tree: chat.tree })}`;
			localStorage.setItem(PREFIX + id, text);
			tell();
		},
		remove(id) {
			const wasShown = id === now.id;
			shown.take();
			const text = localStorage.getItem(PREFIX + id);
			const back = () => {
				localStorage.setItem(PREFIX + id, text);
				look(PREFIX + id, text);
				if (wasShown) chats.open(id);
				else tell();
			};
			forget(id);
			if (wasShown) {
				now = { ...newChat(), title: "", tree: branches.empty() };
				show({ ...newChat(), title: "", tree: branches.empty() });
			}
			tell();
			undo.offer(say("chats_deleted"), back);
		},
	};
})();
window.chats = chats;
