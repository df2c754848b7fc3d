"""Colors and letters of the app: system fonts only, nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

_HERE = Path(__file__).parent
STYLE = _HERE / "style.css"
BOARD_SCRIPT = _HERE / "board.js"
MARKER_SCRIPT = _HERE / "marker.js"
OUTDATED_SCRIPT = _HERE / "outdated.js"
HISTORY_SCRIPT = _HERE / "history.js"
LINK_SCRIPT = _HERE / "link.js"
ADDRESS_SCRIPT = _HERE / "address.js"


def theme() -> gr.themes.Base:
    """Gradio's plain theme with this app's hue."""
    letters = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")
    plain = gr.themes.Default(
        primary_hue="violet", secondary_hue="violet", neutral_hue="zinc", font=letters, font_mono=mono
    )
    return plain.set(  # contrast of at least 4.5 to 1, light and dark
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        color_accent="*primary_600",
    )
