// A question that was changed, or answered once more, has several ways to go on. They are kept as a
// tree: each node is an exchange, which is a question with all that follows it. `at` says which one
// of `next` is shown; -1 ends the conversation. Knows the shape of turns; nothing of the page.
const branches = (() => {
	const MOST = 20; // ways to go on at one place: the oldest go first

	const isAsked = (turn) => turn.role === "user";
	const isWaiting = (turn) => turn.metadata?.title && turn.metadata.status === "pending";
	const isAnswered = (turns) => turns.some((turn) => !isAsked(turn) && !isWaiting(turn));
	const textOf = (turn) => turn.content.map((block) => block.text ?? "").join("");
	const written = (turn) => textOf(turn).replaceAll("\ufeff", ""); // files have no such letters
	const question = (turns) => turns.filter(isAsked).map(written).join("");
	const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

	const exchanges = (turns) => {
		const found = [];
		turns.forEach((turn, i) => {
			const begins = i === 0 || (isAsked(turn) && !isAsked(turns[i - 1]));
			// A note before the first question belongs to it.
			if (begins && !(found.length === 1 && !found[0].some(isAsked))) found.push([]);
			found.at(-1).push(turn);
		});
		return found;
	};

	const shown = (root) => {
		const nodes = [];
		for (let node = root; (node = node.next[node.at]); ) nodes.push(node);
		return nodes;
	};

	// The editor shows a new question at once, above the old answer: that is no state to keep.
	const isBeingEdited = (node, part) => {
		const said = (turns) => turns.filter((turn) => !isAsked(turn));
		const isOther = node && question(node.turns) !== question(part);
		return isOther && isAnswered(part) && same(said(node.turns), said(part));
	};

	const grow = (node, turns) => {
		node.next.push({ turns, next: [], at: -1 });
		if (node.next.length > MOST) node.next.shift();
		node.at = node.next.length - 1;
	};

	const path = (root) => shown(root).flatMap((node) => node.turns);
	const asked = (turns) => JSON.stringify(turns.filter(isAsked).map(written));

	return {
		exchanges,
		shown,
		textOf,
		path,
		empty: () => ({ next: [], at: -1 }),
		// Whether a page that was to go from one tree to the other, and shows these turns, has done so.
		hasMoved(from, to, turns) {
			const seen = asked(turns);
			return seen === asked(path(to)) || seen !== asked(path(from));
		},

		// Takes in what the page shows now; says whether anything is new. With `again` the last
		// question was asked once more: its other answers stay.
		take(root, turns, again = false) {
			let node = root;
			let isNew = false;
			const parts = exchanges(turns);
			const known = shown(root);
			if (parts.some((part, i) => isBeingEdited(known[i], part))) return false;
			parts.forEach((part, i) => {
				const now = node.next[node.at];
				const isAgain = again && i === parts.length - 1 && !isAnswered(part);
				if (!now || isAgain || question(now.turns) !== question(part)) {
					grow(node, part);
					isNew = true;
				} else if (!same(now.turns, part)) {
					now.turns = part;
					isNew = true;
				}
				node = node.next[node.at];
			});
			if (node.at >= 0) {
				node.next = node.next.filter(({ turns }) => isAnswered(turns)); // others were refused
				node.at = -1;
				isNew = true;
			}
			return isNew;
		},

		// The places with more than one way to go on: at which exchange, how many, which is shown.
		// A conversation that was cut back, by Undo, has a last place where none of them is.
		forks(root) {
			return [root, ...shown(root)]
				.map(({ next, at }, place) => ({ place, count: next.length, at }))
				.filter(({ count, at }) => count > 1 || (count && at < 0));
		},

		choose(root, place, at) {
			const node = [root, ...shown(root)][place];
			if (node.next[at]) node.at = at;
		},

		// Takes one exchange out; what followed it follows the one before.
		remove(root, place) {
			const before = [root, ...shown(root)][place];
			const [gone] = before.next.splice(before.at, 1, ...before.next[before.at].next);
			before.at = gone.at < 0 ? -1 : before.at + gone.at;
		},
	};
})();
window.branches = branches;
