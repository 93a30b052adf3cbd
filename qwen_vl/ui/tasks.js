// A task's words go into the question box. What a visitor wrote there already takes the place of the
// words in braces, or follows; else those are selected, ready to be written over. Ctrl+Z undoes it.
const tasks = (() => {
	let own = ""; // a visitor's words within what was written last
	let written = "";

	return {
		write(prompts) {
			const box = document.querySelector("#chat-box textarea");
			const prompt = prompts[document.documentElement.lang.startsWith("zh") ? "zh" : "en"];
			if (box.value !== written) own = box.value.trim();
			const [before, rest] = prompt.split("{");
			const [part, after] = rest?.split("}") ?? ["", ""];
			written = rest && own ? before + own + after : before + part + after;
			if (own && !rest) written += `\n${own}`;
			box.focus();
			box.select();
			document.execCommand("insertText", false, written);
			if (part && !own) box.setSelectionRange(before.length, before.length + part.length);
		},
	};
})();
window.tasks = tasks;
