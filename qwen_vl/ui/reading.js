// Reading while an answer is written: the conversation follows its end only as long as the reader is
// there. Gradio's own following would pull a reader back. And Esc leaves the editor of a question.
const reading = (() => {
	const END_PX = 60; // this near to the end counts as there
	const away = new WeakSet(); // conversations whose reader has scrolled up

	const toGo = (log) => log.scrollHeight - log.scrollTop - log.clientHeight;
	const toEnd = (log) => {
		log.scrollTop = log.scrollHeight;
		log.lastTop = log.scrollTop;
	};
	const logOf = (node) => node.closest?.('[role="log"]') ?? node.parentElement?.closest('[role="log"]');

	document.addEventListener(
		"scroll",
		({ target }) => {
			if (!target.matches?.('[role="log"]')) return;
			// Only a reader moves it up, or less text, and that leaves it at its end.
			if (target.scrollTop < (target.lastTop ?? 0) && toGo(target) > 2) away.add(target);
			else if (toGo(target) < END_PX) away.delete(target);
			target.lastTop = target.scrollTop;
		},
		{ capture: true, passive: true },
	);
	// A wheel moves it little by little: the first step counts, before the next word comes.
	document.addEventListener(
		"wheel",
		({ target, deltaY }) => {
			const log = logOf(target);
			if (log && deltaY < 0 && log.scrollTop > 0) away.add(log);
		},
		{ capture: true, passive: true },
	);

	const isQuestion = (node) => node.matches?.(".user-row") && !node.nextElementSibling?.matches(".bot-row");
	const sizes = new ResizeObserver((changed) => {
		for (const { target } of changed) {
			const log = logOf(target);
			if (log && !away.has(log)) toEnd(log);
		}
	});

	new MutationObserver((changes) => {
		const logs = new Set();
		for (const { target, addedNodes } of changes) {
			const log = logOf(target);
			if (!log) continue;
			logs.add(log);
			if ([...addedNodes].some(isQuestion)) away.delete(log); // one's own question is wanted in view
		}
		for (const log of logs) {
			for (const child of log.children) sizes.observe(child);
			if (!away.has(log)) toEnd(log);
		}
	}).observe(document.documentElement, { childList: true, subtree: true, characterData: true });

	document.addEventListener("keydown", (event) => {
		if (event.key !== "Escape" || !event.target.matches?.(".edit-textarea")) return;
		const row = event.target.closest(".message-row");
		const buttons = [...(row.nextElementSibling?.querySelectorAll("button") ?? [])];
		buttons.filter((button) => !button.matches(".tool")).at(-1)?.click(); // Cancel stands last
		document.querySelector("#chat-box textarea")?.focus();
	});
})();
