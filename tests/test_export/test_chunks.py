"""Which rows travel together."""

from hypothesis import given
from hypothesis import strategies as st

from relevancy.data.items import Item, PictureSource
from relevancy.export import chunks as planning


def item(row: int, picture: int) -> Item:
    return Item(row, str(row), PictureSource(f"{picture}.png", f"/{picture}.png"), "?")


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(1, 9))
def test_chunks_hold_every_row_once_and_no_more_than_asked(pictures, rows):
    window = [item(row, picture) for row, picture in enumerate(pictures)]
    chunks = list(planning.chunks(window, rows))
    assert sorted(one.row for chunk in chunks for one in chunk.items) == list(range(len(pictures)))
    assert all(1 <= len(chunk.items) <= rows for chunk in chunks)


@given(st.lists(st.integers(0, 6), max_size=60))
def test_a_pictures_rows_travel_together_where_they_fit(pictures):
    rows = max((pictures.count(picture) for picture in pictures), default=1)
    chunks = list(planning.chunks([item(row, picture) for row, picture in enumerate(pictures)], rows))
    places = [key for chunk in chunks for key in chunk.pictures()]
    assert len(places) == len(set(pictures))


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 7))
def test_windows_keep_the_order_and_their_size(sizes, rows):
    made = [
        Item(row, str(row), PictureSource(content=bytes(size * planning.WINDOW_BYTES // 4)), "?")
        for row, size in enumerate(sizes[:6])
    ]
    windows = list(planning.windows(made))
    assert [one.row for window in windows for one in window] == list(range(len(made)))
    assert all(len(window) == 1 or sum(one.size for one in window) <= planning.WINDOW_BYTES for window in windows)


def test_a_window_is_full_at_its_number_of_rows(monkeypatch):
    monkeypatch.setattr(planning, "WINDOW_ROWS", 5)
    windows = list(planning.windows(item(row, row) for row in range(12)))
    assert [len(window) for window in windows] == [5, 5, 2]
