"""Whether what a page shows can be read: WCAG's contrast of what is seen and what it stands on."""

from __future__ import annotations

import re

AA = 4.5  # of text
SHAPES = 3.0  # of what is drawn

# Every element with text of its own that is seen: its text, its colour, and what is behind it.
COLOURS = """
const seen = (e) => e.checkVisibility() && [...e.childNodes].some(
  (n) => n.nodeType === Node.TEXT_NODE && n.data.trim())
const back = (e) => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor
    if (colour !== 'rgba(0, 0, 0, 0)') return colour
  }
}
return [...document.body.querySelectorAll('*')].filter(seen).filter(
  (e) => !['SCRIPT', 'NOSCRIPT'].includes(e.tagName)).map(
  (e) => [e.innerText, getComputedStyle(e).color, back(e)])
"""


def contrast(one, other):
    """Return WCAG's ratio of two colours, from 1 to 21."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    """Return WCAG's relative luminance of rgb(r, g, b)."""
    parts = [int(n) / 255 for n in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour).groups()]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
