// One row of buttons under each answer: copy, retry, edit, undo, delete, and arrows where a question
// has several versions. Retry and Undo are Gradio's own, under the last answer; they join the row.
// `keeper` has the tree of what the chat at `home` shows; `writing` is there while it is answered.
const exchangeTools = (home, keeper, writing) => {
	const PENCIL = '[d^="M17 3a2.828"]'; // Gradio names its buttons in the visitor's language
	const rowsOf = () => {
		const found = [];
		let before = null;
		for (const row of document.querySelectorAll(`${home} .message-row`)) {
			const isUser = row.classList.contains("user-row");
			if (!before || (isUser && !before.classList.contains("user-row"))) found.push([]);
			found.at(-1).push(row);
			before = row;
		}
		return found;
	};

	const button = (name, label, onclick) => {
		const made = Object.assign(document.createElement("button"), { type: "button", onclick });
		made.className = `tool ${name}`;
		made.append(icons[name]());
		made.title = label;
		made.setAttribute("aria-label", label);
		return made;
	};

	const copy = (place) => {
		const [turns] = branches.shown(keeper.copy().tree).slice(place, place + 1);
		const said = turns.turns.filter(({ role, metadata }) => role !== "user" && !metadata?.title);
		navigator.clipboard?.writeText(said.map(branches.textOf).join("\n\n"));
	};

	const remove = (place) => {
		const before = keeper.copy();
		const after = keeper.copy();
		branches.remove(after.tree, place);
		keeper.show(after);
		undo.offer(say("exchange_deleted"), () => keeper.show(before));
	};

	const choose = (place, at) => {
		const changed = keeper.copy();
		branches.choose(changed.tree, place, at);
		keeper.show(changed);
	};

	const versions = ({ place, count, at }) => {
		const made = document.createElement("span");
		made.className = "tool versions";
		if (at < 0) {
			made.append(button("back", say("tool_back"), () => choose(place, count - 1)));
			return made;
		}
		const earlier = button("earlier", say("tool_earlier"), () => choose(place, at - 1));
		const later = button("later", say("tool_later"), () => choose(place, at + 1));
		earlier.disabled = at === 0;
		later.disabled = at === count - 1;
		made.append(earlier, `${at + 1}/${count}`, later);
		return made;
	};

	const pencilOf = (rows) =>
		rows
			.map((row) => row.nextElementSibling?.querySelector(`button:has(${PENCIL})`))
			.findLast(Boolean);

	const toolsFor = (rows, place, forks, count) => {
		const edit = () => pencilOf(rowsOf()[place])?.click();
		const made = [button("copy", say("tool_copy"), () => copy(place))];
		if (pencilOf(rows)) made.push(button("edit", say("tool_edit"), edit));
		made.push(button("delete", say("tool_delete"), () => remove(place)));
		const here = forks.filter((fork) => fork.place === place || fork.place === count);
		const own = here.filter((fork) => fork.place === place || place === count - 1);
		return [...made, ...own.map(versions)];
	};

	const draw = () => {
		const exchanges = rowsOf();
		const isAnswering = Boolean(document.querySelector(writing));
		const { forks, count } = keeper.places();
		const wrappers = new Set();
		exchanges.forEach((rows, place) => {
			const isBusy = isAnswering && place === exchanges.length - 1;
			const isWhole = place < count && !isBusy && rows.at(-1).classList.contains("bot-row");
			const wrapper = rows.at(-1).nextElementSibling?.querySelector(".icon-button-wrapper");
			if (!wrapper || !isWhole) return;
			wrappers.add(wrapper);
			const state = JSON.stringify([place, count, forks]);
			if (wrapper.dataset.tools === state) return;
			strip(wrapper);
			wrapper.dataset.tools = state;
			wrapper.append(...toolsFor(rows, place, forks, count));
		});
		for (const other of document.querySelectorAll(`${home} .icon-button-wrapper[data-tools]`))
			if (!wrappers.has(other)) strip(other);
	};

	const strip = (wrapper) => {
		wrapper.querySelectorAll(":scope > .tool").forEach((tool) => tool.remove());
		delete wrapper.dataset.tools;
	};

	let waiting = 0;
	const drawSoon = () => {
		waiting ||= setTimeout(() => {
			waiting = 0;
			draw();
		}, 50);
	};

	keeper.onChange(drawSoon);
	const watch = new MutationObserver(drawSoon);
	watch.observe(document.documentElement, { childList: true, subtree: true });
};
exchangeTools("#chat", chats, "#chat-box .stop-button");
exchangeTools("#video-chat", videoChat, "#video-stop:not([disabled])");
