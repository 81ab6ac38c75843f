"""The text of an HTML page."""

from html.parser import HTMLParser

HIDDEN = {"script", "style", "head", "template"}
INLINE = {"a", "abbr", "b", "cite", "code", "em", "i", "kbd", "q", "s", "small", "span", "strong"}
INLINE |= {"sub", "sup", "tt", "u", "var"}


class TextOfPage(HTMLParser):
    """Collects the text between tags; a tag that is not inline markup ends the line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in HIDDEN:
            self.hidden.append(tag)
        self.break_line(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.hidden:
            del self.hidden[self.hidden.index(tag) :]
        self.break_line(tag)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)

    def break_line(self, tag: str) -> None:
        if tag not in INLINE:
            self.parts.append("\n")


def html_to_text(page: str) -> str:
    """Return what a reader of the page sees, one line per block, no consecutive empty lines."""
    parser = TextOfPage()
    parser.feed(page)
    parser.close()
    lines = [line.rstrip() for line in "".join(parser.parts).splitlines()]
    kept = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return "\n".join(kept).strip("\n") + "\n"
