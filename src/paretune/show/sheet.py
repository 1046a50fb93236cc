"""Pictures in rows and columns on a light ground: titles above, a caption below each, a legend at the foot."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP, TITLE, CAPTION, LINE = 12, 16, 14, 20
INK, SOFT, GROUND = (28, 30, 33), (92, 97, 104), (252, 252, 251)

Legend = Sequence[tuple[Image.Image | None, str]]


def sheet(
    titles: Sequence[str],
    rows: Sequence[Sequence[Image.Image]],
    captions: Sequence[Sequence[str]] | None = None,
    legend: Legend = (),
) -> Image.Image:
    """Pictures of one size; titles per column, captions per picture, their lines cut to the width of a picture.

    legend: (a small picture, what it means) side by side where they fit; without a picture on lines of their own.
    """
    width, height = rows[0][0].size
    below = GAP + LINE * max((text.count("\n") + 1 for row in captions or () for text in row), default=0)
    inside = len(titles) * (width + GAP) - GAP
    key = _key(legend, inside)
    canvas = Image.new("RGB", (inside + 2 * GAP, GAP + LINE + len(rows) * (height + below) + key.height), GROUND)
    pen = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        left = GAP + column * (width + GAP)
        pen.text((left, GAP // 2), cut(title, width, TITLE), fill=INK, font=font(TITLE))
        for row, pictures in enumerate(rows):
            top = GAP + LINE + row * (height + below)
            canvas.paste(pictures[column], (left, top))
            if captions:
                for i, words in enumerate(captions[row][column].split("\n")):
                    place = (left, top + height + 3 + i * LINE)
                    pen.text(place, cut(words, width, CAPTION), fill=SOFT, font=font(CAPTION))
    canvas.paste(key, (GAP, canvas.height - key.height))
    return canvas


def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    found = ImageFont.load_default(size=size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow has one of any size"
    return found


def cut(text: str, width: int, size: int) -> str:
    """The text, shortened in its middle until it is at most `width` pixels wide."""
    letters, short = font(size), text
    for kept in range(len(text), 1, -1):
        if letters.getlength(short) <= width:
            break
        short = text[: kept // 2] + "..." + text[-(kept // 2) :]
    return short


def _key(legend: Legend, width: int) -> Image.Image:
    """The legend, `width` pixels wide; no pixel high if there is none."""
    placed, left, line = [], 0, 0
    for swatch, words in legend:
        indent = swatch.width + 6 if swatch else 0
        for part in _lines(words, width - indent):
            needs = indent + int(font(CAPTION).getlength(part)) + 2 * GAP
            if left and (swatch is None or left + needs > width + 2 * GAP):
                left, line = 0, line + 1
            placed.append((left, line, swatch, indent, part))
            left, swatch, indent = left + needs, None, 0
    canvas = Image.new("RGB", (width, (line + 1) * LINE + GAP if legend else 0), GROUND)
    pen = ImageDraw.Draw(canvas)
    for left, line, swatch, indent, part in placed:
        if swatch:
            canvas.paste(swatch, (left, line * LINE + 2))
        pen.text((left + indent, line * LINE), part, fill=SOFT, font=font(CAPTION))
    return canvas


def _lines(words: str, width: int) -> list[str]:
    """The words in lines of at most `width` pixels."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(CAPTION).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
