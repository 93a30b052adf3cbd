// The conversation about a clip: cleared, it can come back; and it goes in and out as a file.
const videoChat = (() => {
	let now = [];
	let last = []; // the last one that had turns
	let next = null;

	const show = (turns, frames = []) => {
		next = { turns, frames };
		document.querySelector("#open-video-chat").click();
		if (frames.length) document.querySelectorAll('[role="tab"]')[1]?.click();
	};

	return {
		put(name, turns) {
			now = turns ?? [];
			if (now.length) last = now;
			keeping.put(name, turns);
		},
		left() {
			const turns = last;
			if (turns.length) undo.offer(say("video_left"), () => show(turns));
		},
		show,
		handed: () => JSON.stringify(next),
		described(text) {
			const { frames, ...about } = JSON.parse(text);
			const tree = branches.empty();
			branches.take(tree, now);
			chatFile.save(about, chatList.titleOf({ tree }), tree, frames);
		},
	};
})();
window.videoChat = videoChat;
