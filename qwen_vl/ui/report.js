// A conversation as one web page to share: its pictures inside, no script, nothing loaded from
// anywhere. What the page shows is built anew from a list of what is allowed.
const report = (() => {
	const PLAIN =
		"p br hr h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code em strong del a table thead tbody tr th td sup sub";
	const FORMULAS =
		"math mrow mi mo mn ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr mtd mstyle mpadded mphantom menclose";
	const MATHML = "http://www.w3.org/1998/Math/MathML";
	const plain = new Set(PLAIN.split(" "));
	const formulas = new Set(FORMULAS.split(" "));
	const written = (text) => text.replaceAll("\ufeff", "");
	const POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
	const STYLE = `
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.6 system-ui, sans-serif; color: #1e293b; background: #fff; }
header p, .note, footer { color: #64748b; font-size: 13px; }
.asked { margin: 2rem 0 0 20%; padding: .6rem 1rem; border-radius: 12px; background: #eef2ff; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
.said { overflow-wrap: anywhere; unicode-bidi: plaintext; }
img { display: block; max-width: 100%; max-height: 480px; margin: .5rem 0 .5rem auto; border-radius: 8px; }
.said img { margin-left: 0; }
pre { padding: .8rem; border-radius: 8px; background: #f1f5f9; overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .3rem .7rem; border: 1px solid #cbd5e1; }
details { color: #64748b; white-space: pre-wrap; }`;

	const made = (name, className = "", ...inside) => {
		const element = document.createElement(name);
		if (className) element.className = className;
		element.append(...inside);
		return element;
	};

	const inside = (node) => [...node.childNodes].flatMap(allowed);

	// What stands in the report for a node of the page: nothing, or nodes made anew.
	const allowed = (node) => {
		if (node.nodeType === Node.TEXT_NODE) return [written(node.data)];
		if (node.nodeType !== Node.ELEMENT_NODE) return [];
		const name = node.localName;
		if (node.matches(".katex-html, annotation, button, script, style, svg")) return [];
		if (name === "input") return [node.checked ? "☑ " : "☐ "];
		if (formulas.has(name)) {
			const formula = document.createElementNS(MATHML, name);
			if (name === "math" && node.getAttribute("display") === "block")
				formula.setAttribute("display", "block");
			formula.append(...inside(node));
			return [formula];
		}
		if (!plain.has(name)) return inside(node);
		const element = made(name, "", ...inside(node));
		const address = node.getAttribute("href") ?? "";
		if (name === "a" && /^(https?:|mailto:)/i.test(address)) {
			element.href = address;
			element.rel = "noopener noreferrer";
		}
		if (/^(left|center|right)$/.test(node.getAttribute("align")))
			element.style.textAlign = node.getAttribute("align");
		return [element];
	};

	const pictures = async (turn) => {
		const found = [];
		for (const { file } of turn.content.filter((block) => block.file)) {
			const data = await chatFile.pictureAt(file.path);
			if (data?.startsWith("data:image/") && !data.startsWith("data:image/svg")) {
				const image = made("img");
				image.src = data;
				image.alt = "";
				found.push(image);
			} else found.push(made("p", "note", say("report_gone")));
		}
		return found;
	};

	const partOf = async (turn, row) => {
		const text = written(branches.textOf(turn));
		const title = written(turn.metadata?.title ?? "");
		const seen = await pictures(turn);
		if (turn.role === "user") return [...seen, ...(text ? [made("div", "asked", text)] : [])];
		if (title && text) return [made("details", "", made("summary", "", title), text), ...seen];
		if (title) return [made("p", "note", row ? row.innerText.trim() : title), ...seen];
		const shown = row?.querySelector(".md");
		return [made("div", "said", ...(shown ? inside(shown) : [text]), ...seen)];
	};

	const settingsOf = (about) => {
		const all = { system_prompt: about.system_prompt, ...about.sampling };
		const told = Object.entries(all).filter(([, value]) => value !== "" && value !== null);
		const lines = told.map(([name, value]) => `${name}: ${value}`).join("\n");
		const versions = Object.entries(about.versions).map((pair) => pair.join(" ")).join(" · ");
		const what = made("summary", "", say("report_settings"));
		return made("details", "", what, `${lines}\n${versions}`);
	};

	return {
		async save(about, title, turns) {
			const rows = [...document.querySelectorAll("#chat .message-row")];
			const parts = [];
			for (const [i, turn] of turns.entries())
				parts.push(...(await partOf(turn, rows.length === turns.length ? rows[i] : null)));
			const facts = [about.model.id, new Date(about.saved_at).toLocaleString()].join(" · ");
			const head = made("header", "", made("h1", "", title), made("p", "", facts));
			const body = made("body", "", head, settingsOf(about), ...parts);
			const name = made("title", "", title);
			const policy = `<meta http-equiv="Content-Security-Policy" content="${POLICY}">`;
			const meta = `<meta charset="utf-8">${policy}<meta name="viewport" content="width=device-width">`;
			const page = `<!doctype html><html lang="${document.documentElement.lang || "en"}"><head>${meta}${name.outerHTML}<style>${STYLE}</style></head>${body.outerHTML}</html>`;
			chatFile.download(page, "text/html", chatFile.nameOf(title, "html"));
		},
	};
})();
window.report = report;
