// One chat as one file: what was said, all its versions, the pictures, and what it was asked with.
// The browser carries the pictures; the server says how the chat was set, and checks what comes back.
const chatFile = (() => {
	const FORMAT = "qwen-vl chat";
	const VERSION = 1;
	const MOST_MB = 100;
	const MOST_PICTURES = 500;
	const PICTURE = /^data:image\/(png|jpeg|webp|gif|bmp|tiff|avif|heic);base64,/;

	const server = () => (window.gradio_config?.root ?? "").replace(/\/$/, "");
	const dataOf = (blob) =>
		new Promise((done, failed) => {
			const reader = new FileReader();
			reader.onload = () => done(reader.result);
			reader.onerror = failed;
			reader.readAsDataURL(blob);
		});

	// The picture in an upload as a data: address; null where the server has it no more.
	const pictureAt = async (path) => {
		const reply = await fetch(`${server()}/gradio_api/file=${path}`).catch(() => null);
		return reply?.ok ? dataOf(await reply.blob()) : null;
	};

	// A copy of turns or of a tree of them, with `change` applied to the file of each picture.
	const changed = (value, change) => {
		if (typeof value === "string") return value.replaceAll("\ufeff", "");
		if (Array.isArray(value)) return value.map((item) => changed(item, change));
		if (!value || typeof value !== "object") return value;
		const pairs = Object.entries(value);
		return Object.fromEntries(
			pairs.map(([name, item]) =>
				name === "file" && item?.path ? [name, change(item)] : [name, changed(item, change)],
			),
		);
	};

	const nameOf = (title, end) => {
		const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40).replace(/^-|-$/g, "");
		return `${name || "chat"}.${end}`;
	};

	const download = (text, type, name) => {
		const link = document.createElement("a");
		link.href = URL.createObjectURL(new Blob([text], { type }));
		link.download = name;
		link.click();
		setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
	};

	const save = async (about, title, tree, frames) => {
		const keys = new Map(); // path -> its key in the file
		const outward = ({ path }) => {
			if (!keys.has(path)) keys.set(path, `picture ${keys.size + 1}`);
			return { path: keys.get(path) };
		};
		const messages = changed(branches.path(tree), outward);
		const file = { format: FORMAT, version: VERSION, title, ...about, messages };
		if (branches.forks(tree).length) file.versions_of_questions = changed(tree, outward);
		if (frames) file.frames = frames;
		file.pictures = {};
		for (const [path, key] of keys) {
			const data = await pictureAt(path);
			if (data) file.pictures[key] = data;
		}
		download(JSON.stringify(file, null, 1), "application/json", nameOf(title, "qwen-vl.json"));
	};

	const refused = (key, fields) => {
		const error = new Error(say(key, fields));
		error.isTold = true;
		return error;
	};

	const upload = async (data, name) => {
		const blob = await (await fetch(data)).blob();
		const form = new FormData();
		form.append("files", blob, `${name}.${blob.type.split("/")[1]}`);
		const reply = await fetch(`${server()}/gradio_api/upload`, { method: "POST", body: form });
		if (!reply.ok) throw refused("file_upload", { why: await reply.text() });
		return (await reply.json())[0];
	};

	const parsed = (text) => {
		let file = null;
		try {
			file = JSON.parse(text);
		} catch {}
		if (file?.format !== FORMAT || !Array.isArray(file.messages)) throw refused("file_other");
		if (file.version > VERSION) throw refused("file_newer");
		return file;
	};

	const opened = async (file) => {
		const pictures = Object.entries(file.pictures ?? {});
		const frames = Array.isArray(file.frames) ? file.frames : [];
		if (pictures.length + frames.length > MOST_PICTURES) throw refused("file_pictures");
		const all = [...pictures.map(([, data]) => data), ...frames.map(({ picture }) => picture)];
		if (!all.every((data) => PICTURE.test(data))) throw refused("file_no_picture");
		const paths = new Map();
		for (const [key, data] of pictures) paths.set(key, await upload(data, "picture"));
		const inward = ({ path }) => ({ path: paths.get(path) ?? "gone" });
		let tree = branches.empty();
		if (file.versions_of_questions) tree = changed(file.versions_of_questions, inward);
		else branches.take(tree, changed(file.messages, inward));
		const kept = [];
		for (const { time_s, picture } of frames)
			kept.push({ time_s, path: await upload(picture, "frame") });
		// Its values need not be those of a preset.
		const settings = { ...file.sampling, system_prompt: file.system_prompt, style: null, detail: null };
		return { tree, frames: kept, settings };
	};

	const read = async (blob) => {
		if (blob.size > MOST_MB * 1024 * 1024) throw refused("file_large", { mb: MOST_MB });
		const file = parsed(await blob.text());
		let found;
		try {
			found = await opened(file);
			branches.path(found.tree).forEach(branches.textOf); // of the right shape, all through
		} catch (error) {
			throw error.isTold ? error : refused("file_other");
		}
		const title = typeof file.title === "string" ? file.title.slice(0, 200) : "";
		return { ...found, title };
	};

	const open = async (blob) => {
		try {
			const { tree, frames, settings, title } = await read(blob);
			if (frames.length) return videoChat.show({ tree, frames });
			chats.show({ ...chats.newChat(), title, tree, isChanged: true, more: { settings } });
		} catch (error) {
			undo.tell(error.isTold ? error.message : say("file_upload", { why: error.message }));
		}
	};

	const choose = () => {
		const chosen = Object.assign(document.createElement("input"), { type: "file", accept: ".json" });
		chosen.addEventListener("change", () => chosen.files[0] && open(chosen.files[0]));
		chosen.click();
	};

	let wanted = null; // what is to be done with the next description
	return {
		choose,
		pictureAt,
		download,
		nameOf,
		// Asks the server how the chat is set; `described` goes on with what it says.
		ask(what) {
			wanted = what;
			document.querySelector("#describe-chat").click();
		},
		described(text) {
			const about = JSON.parse(text);
			const chat = chats.copy();
			const title = chatList.titleOf(chat);
			if (wanted === "page") report.save(about, title, branches.path(chat.tree));
			else save(about, title, chat.tree);
		},
		save,
	};
})();
window.chatFile = chatFile;
