// The conversation about a clip, with its versions. Cleared, it can come back; and it goes in and out
// as a file.
const videoChat = (() => {
	const listeners = [];
	let tree = branches.empty();
	let last = null; // the one before, for as long as it can come back
	let next = null; // what the page will show as soon as the server has checked it
	let begun = false; // before the page has got back what is kept, its empty chat says nothing

	const store = () => {
		keeping.put("video_versions", tree);
		listeners.forEach((listener) => listener());
	};
	const shown = following(() => tree, store);
	const clone = (value) => JSON.parse(JSON.stringify(value));

	const show = (chat) => {
		shown.hold();
		next = chat;
		document.querySelector("#open-video-chat").click();
		if (chat.frames) document.querySelectorAll('[role="tab"]')[1]?.click();
	};

	return {
		// For the start of the page: the turns that this tab showed.
		begin(kept) {
			if (kept?.next) tree = kept;
			return branches.path(tree);
		},
		begun() {
			begun = true;
			shown.take(); // somebody may have asked already
		},
		put(_, turns) {
			if (!begun && !turns?.length) return;
			const isCleared = !turns?.length && tree.at >= 0 && !shown.isHeld();
			if (!isCleared) return shown.see(turns ?? [], !begun);
			shown.take();
			last = tree;
			tree = branches.empty(); // what is asked next is no other version of what was asked here
			shown.release([], true);
		},
		hold: shown.hold,
		release: shown.release,
		left() {
			const left = tree.at < 0 ? last : tree;
			if (left) undo.offer(say("video_left"), () => show({ tree: left }));
		},
		// A tree, and with it frames that come from a file; without them those of the page stay.
		show,
		handed: () => JSON.stringify({ turns: branches.path(next.tree), frames: next.frames ?? [] }),
		arrived(turns) {
			const chat = next;
			next = null;
			if (!chat || !branches.hasMoved(tree, chat.tree, turns ?? [])) return shown.release(null);
			tree = chat.tree;
			shown.release(turns, true);
		},

		// For the row of buttons under each answer.
		places: () => ({ count: branches.shown(tree).length, forks: branches.forks(tree) }),
		copy() {
			shown.take();
			return { tree: clone(tree) };
		},
		onChange: (listener) => listeners.push(listener),
		described(text) {
			const { frames, ...about } = JSON.parse(text);
			shown.take();
			chatFile.save(about, chatList.titleOf({ tree }), tree, frames);
		},
	};
})();
window.videoChat = videoChat;
