// The list of chats: new, open, rename, delete, search. A drawer at the left, over the page.
const chatList = (() => {
	const TITLE_CHARS = 60;
	const textIn = (turns) => turns.map(branches.textOf).join(" ").replaceAll("\ufeff", "");
	let drawer = null;
	let wanted = "";
	let dropped = 0; // chats that have made room since the page was opened

	const titleOf = ({ title, tree }) => {
		const turns = tree.at < 0 ? tree.next.at(-1)?.turns : branches.path(tree);
		const asked = (turns ?? []).filter((turn) => turn.role === "user");
		const words = asked.map((turn) => textIn([turn]).trim()).find(Boolean) ?? "";
		return title || words.split("\n")[0].slice(0, TITLE_CHARS) || say("chats_picture");
	};

	const made = (tag, options = {}, ...inside) => {
		const element = Object.assign(document.createElement(tag), options);
		element.append(...inside);
		return element;
	};

	const button = (inside, label, onclick) => {
		const element = made("button", { type: "button", onclick }, inside);
		if (label) element.setAttribute("aria-label", (element.title = label));
		return element;
	};

	const rename = (row, chat) => {
		const field = made("input", { value: titleOf(chat), maxLength: 200 });
		field.setAttribute("aria-label", say("chats_rename", { title: titleOf(chat) }));
		let isOver = false;
		const end = (isKept) => {
			if (isOver) return;
			isOver = true;
			field.remove();
			if (isKept) chats.rename(chat.id, field.value.trim());
			draw();
		};
		field.addEventListener("keydown", (event) => {
			if (event.key === "Enter") end(true);
			if (event.key === "Escape") end(false);
			if (event.key === "Escape" || event.key === "Enter") event.stopPropagation();
		});
		field.addEventListener("blur", () => end(true));
		row.replaceChildren(field);
		field.select();
	};

	const rowOf = (chat) => {
		const title = titleOf(chat);
		const row = made("li", { className: chats.isShown(chat.id) ? "shown" : "" });
		const open = button(title, "", () => {
			if (!chats.isShown(chat.id)) chats.open(chat.id);
			close();
		});
		open.className = "chat-title";
		open.dir = "auto";
		open.append(made("small", { textContent: new Date(chat.saved).toLocaleString() }));
		if (chats.isShown(chat.id)) open.setAttribute("aria-current", "true");
		row.append(
			open,
			button(icons.edit(), say("chats_rename", { title }), () => rename(row, chat)),
			button(icons.delete(), say("chats_delete", { title }), () => chats.remove(chat.id)),
		);
		return row;
	};

	const has = (chat) => {
		const text = `${titleOf(chat)} ${textIn(branches.path(chat.tree))}`.toLowerCase();
		return wanted.split(/\s+/).every((word) => text.includes(word));
	};

	const draw = () => {
		if (!drawer || drawer.querySelector("li input")) return; // not under a name being written
		const all = chats.list();
		const found = all.filter(has);
		drawer.querySelector("ul").replaceChildren(...found.map(rowOf));
		const nothing = all.length ? say("chats_not_found") : say("chats_none");
		const gone = dropped ? say("chats_dropped", { n: dropped }) : "";
		drawer.querySelector(".chats-none").textContent = found.length ? "" : nothing;
		drawer.querySelector(".chats-note").textContent = `${gone} ${say("chats_bound")}`.trim();
	};

	const close = () => {
		undo.leave();
		drawer?.close();
		drawer?.remove();
		drawer = null;
	};

	const build = () => {
		const search = made("input", { type: "search", placeholder: say("chats_search") });
		search.setAttribute("aria-label", say("chats_search"));
		search.addEventListener("input", () => {
			wanted = search.value.trim().toLowerCase();
			draw();
		});
		const fresh = button(say("chats_new"), "", () => {
			close();
			document.querySelector("#new-chat").click();
		});
		const head = made("header", {}, made("h2", { textContent: say("chats") }));
		head.append(button(icons.close(), say("close"), close));
		const out = (label, what) =>
			button(say(label), "", () => {
				close();
				chatFile.ask(what);
			});
		const other = button(say("chats_file"), "", () => {
			close();
			chatFile.choose();
		});
		const tools = made("div", { className: "chats-tools" }, fresh, other);
		const save = made("div", { className: "chats-tools" }, out("chats_save", "file"));
		save.append(out("chats_share", "page"));
		for (const saver of save.children) saver.disabled = !chats.places().count;
		const list = made("ul");
		const none = made("p", { className: "chats-none" });
		const note = made("p", { className: "chats-note" });
		drawer = made("dialog", { id: "chats" }, head, tools, save, search, none, list, note);
		drawer.setAttribute("aria-label", say("chats"));
		drawer.addEventListener("close", close); // Esc
		drawer.addEventListener("click", ({ target }) => target === drawer && close());
	};

	chats.onChange((gone) => {
		dropped += gone;
		if (gone) undo.tell(say("chats_dropped", { n: gone }));
		draw();
	});

	return {
		titleOf,
		open() {
			wanted = "";
			build();
			document.body.append(drawer);
			drawer.showModal();
			draw();
		},
	};
})();
window.chatList = chatList;
