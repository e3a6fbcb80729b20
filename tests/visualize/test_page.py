"""The page holds what was recorded, whatever the text is, and in a browser it shows that."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baby_mamba import Mamba, MambaConfig
from baby_mamba.data import CharTokenizer
from baby_mamba.errors import DataError
from baby_mamba.visualize import LayerRecord, Recording, record, write_page

TEXT = (
    'A wrapper.\n\tIf x < 3 & y > "4": </script><b>{{data}} <!-- \u200b na\u00efve \u65e5 \U0001f642 ends here\n'
    + 60 * "ab "
)
TITLE = "What <runs> & {{data}} reads"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def recorded(**keys: Any) -> Recording:
    """A small model whose step sizes differ from token to token."""
    tokenizer = CharTokenizer(TEXT)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": tokenizer.vocab_size,
        "n_layer": 3,
        "d_model": 6,
        "d_state": 3,
        "a_init": "random",
        "backend": "parallel",
    }
    model = Mamba(MambaConfig(**{**sizes, **keys})).eval()
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.in_proj.weight.mul_(5)
            if hasattr(layer.mixer, "x_proj"):
                layer.mixer.x_proj.weight.mul_(5)
    return record(model, TEXT, tokenizer, layers=[0, 2])


@pytest.fixture(scope="module")
def recording() -> Recording:
    return recorded()


@pytest.fixture(scope="module")
def path(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(recording, path, title=TITLE)
    return path


def data_of(path: Path) -> dict[str, Any]:
    """What the page's own script would read."""
    (found,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL
    )
    return json.loads(found)


def unpacked(packed: dict[str, Any], shape: torch.Size) -> Tensor:
    numbers = base64.b64decode(packed["data"])
    if "step" in packed:
        values = np.exp(packed["low"] + packed["step"] * np.frombuffer(numbers, "<u2").astype(np.float64))
    else:
        values = packed["scale"] * np.frombuffer(numbers, "<i2").astype(np.float64)
    return torch.from_numpy(values).float().reshape(shape)


@pytest.mark.parametrize("selective", ["delta B C", "delta C", "none"])
def test_the_numbers_survive_packing(selective: str, tmp_path: Path) -> None:
    recording = recorded(selective=selective)
    write_page(recording, tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    assert data["tokens"] == list(TEXT)
    assert [layer["number"] for layer in data["layers"]] == [0, 2]
    for packed, layer in zip(data["layers"], recording.layers.values(), strict=True):
        torch.testing.assert_close(unpacked(packed["delta"], layer.delta.shape), layer.delta, rtol=1e-3, atol=0)
        torch.testing.assert_close(unpacked(packed["A"], layer.A.shape), -layer.A, rtol=1e-3, atol=0)
        for name in ("B", "C"):
            M = getattr(layer, name)
            assert packed[name]["constant"] == (name not in selective.split())
            M = M[0] if packed[name]["constant"] else M[:, 0]
            got = unpacked(packed[name], M.shape)
            torch.testing.assert_close(got, M, rtol=0, atol=1e-4 * M.abs().max().item())
        assert [channel for channel, _ in packed["channels"]] == layer.most_selective(12)


def test_time_scales_are_counted_and_summed_up(recording: Recording, path: Path) -> None:
    scales = data_of(path)["time_scales"]
    for row, layer in zip(scales["layers"], recording.layers.values(), strict=True):
        expected = layer.time_scales().flatten()
        inside = (expected >= 10 ** scales["low"]) & (expected <= 10 ** scales["high"])
        assert sum(row["counts"]) == inside.sum()
        assert inside.float().mean() > 0.9
        shares = torch.tensor([0.05, 0.5, 0.95])
        assert row["quantiles"] == pytest.approx((10 ** expected.log10().quantile(shares)).tolist(), rel=1e-4)


HOSTILE = ("</script><img/src=x/onerror=alert(1)>", "<!-- <script>", "&lt;b&gt;", "{{title}}")


@pytest.fixture
def hostile(recording: Recording, tmp_path: Path) -> Path:
    """A page whose tokens are pieces of a page."""
    path = tmp_path / "hostile.html"
    write_page(replace(recording, tokens=HOSTILE + recording.tokens[len(HOSTILE) :]), path, title=TITLE)
    return path


def test_no_text_escapes_from_its_place(hostile: Path) -> None:
    assert tuple(data_of(hostile)["tokens"][: len(HOSTILE)]) == HOSTILE
    page = hostile.read_text(encoding="utf-8")
    assert page.count("</script>") == 2
    assert page.count("<!--") == page.count("<img") == 0
    assert "<h1>What &lt;runs&gt; &amp; {{data}} reads</h1>" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")  # nothing is fetched


def test_bounds(recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    long = replace(recording, tokens=1001 * ("a",))
    with pytest.raises(DataError, match="1,001 tokens; expected at most 1,000"):
        write_page(long, page)
    monkeypatch.setattr("baby_mamba.visualize.page.MAX_BYTES", 40_000)
    with pytest.raises(DataError, match="shorter text or fewer layers"):
        write_page(recording, page)
    assert not page.exists()


def changed(recording: Recording, delta: Tensor) -> Recording:
    layer = LayerRecord(**{**vars(recording.layers[0]), "delta": delta})
    return replace(recording, layers={0: layer})


def test_numbers_that_cannot_be_shown(recording: Recording, tmp_path: Path) -> None:
    delta = recording.layers[0].delta
    with pytest.raises(DataError, match="NaN or infinity"):
        write_page(changed(recording, delta * torch.nan), tmp_path / "page.html")
    with pytest.raises(DataError, match="cannot be written"):
        write_page(recording, tmp_path / "no folder" / "page.html")


def test_step_sizes_that_are_all_the_same_or_zero(recording: Recording, tmp_path: Path) -> None:
    delta = torch.full_like(recording.layers[0].delta, 0.25)
    write_page(changed(recording, delta), tmp_path / "page.html")
    packed = data_of(tmp_path / "page.html")["layers"][0]["delta"]
    torch.testing.assert_close(unpacked(packed, delta.shape), delta)
    delta[3] = 0  # softplus of a large negative number
    write_page(changed(recording, delta), tmp_path / "page.html")
    packed = data_of(tmp_path / "page.html")["layers"][0]["delta"]
    torch.testing.assert_close(unpacked(packed, delta.shape), delta, rtol=1e-3, atol=1e-30)


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(params=["light"])
def page(browser: Any, path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, open, without complaints and without a look at the network."""
    page = browser.new_page(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert complaints == []
    assert requests == [path.as_uri()]


def tip(page: Any, t: int) -> dict[str, str]:
    """What is said about a token under the pointer."""
    page.hover(f'#text [data-t="{t}"]')
    first, delta, *rest = page.inner_text("#tip").split("\n")
    return {"token": first.partition(": ")[2], "delta": delta, "share": rest[0] if rest else ""}


def number(text: str) -> float:
    """The first number in a text."""
    return float(re.search(r"[-\u2212]?[\d.]+(e[-\u2212]?\d+)?", text)[0].replace("\u2212", "-"))


def shares(page: Any, count: int) -> list[float]:
    labels = page.eval_on_selector_all("#text .t", "spans => spans.map(span => span.getAttribute('aria-label'))")
    assert all(label.endswith("comes later") for label in labels[count:])
    return [number(label.rpartition("share ")[2]) / 100 for label in labels[:count]]


def test_shows_the_text_as_it_is(page: Any) -> None:
    spans = page.eval_on_selector_all("#text .t", "spans => spans.map(span => span.textContent)")
    signs = {"\n": "\u21b5\n", "\t": "\u2192\t", " ": "\u00b7", "\u200b": "\u2039U+200B\u203a"}
    assert spans == [signs.get(token, token) for token in TEXT]
    assert page.inner_text("h1") == TITLE
    assert page.title() == TITLE


def test_a_text_that_looks_like_a_page_is_a_text(browser: Any, hostile: Path) -> None:
    page = browser.new_page()
    page.goto(hostile.as_uri())
    for t, token in enumerate(HOSTILE):
        assert page.inner_text(f'#text [data-t="{t}"]') == token.replace(" ", "\u00b7")
        page.click(f'#text [data-t="{t}"]')
        page.hover(f'#text [data-t="{t}"]')
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    page.close()


def test_shows_delta_of_the_layer_and_channel(page: Any, recording: Recording) -> None:
    for index, (number_of_layer, layer) in enumerate(recording.layers.items()):
        page.select_option("#layer", str(index))
        assert page.inner_text("#layer option:checked") == f"layer {number_of_layer}"
        for t in (0, 5, 40):
            assert number(tip(page, t)["delta"]) == pytest.approx(layer.delta[t].mean().item(), rel=0.01)
        for channel in (0, 7):
            page.select_option("#channel", str(channel))
            got = tip(page, 5)["delta"]
            assert number(got) == pytest.approx(layer.delta[5, channel].item(), rel=0.01)
            times = layer.relative_delta()[5, channel].item()
            assert number(got.partition(", ")[2]) == pytest.approx(times, rel=0.02)
    assert tip(page, 1)["token"] == "\u00b7"


def test_colour_follows_delta(page: Any, recording: Recording) -> None:
    channel = recording.layers[0].most_selective(1)[0]
    page.select_option("#channel", index=1)
    assert page.input_value("#channel") == str(channel)
    delta = recording.layers[0].delta[:, channel]
    alphas = torch.tensor(
        page.eval_on_selector_all(
            "#text .t",
            "spans => spans.map(s => Number(s.style.backgroundColor.match(/[/,] *([\\d.]+)\\)$/)?.[1] ?? 1))",
        )
    )
    low, high = delta.log().aminmax()
    torch.testing.assert_close(alphas, (delta.log() - low) / (high - low), rtol=0, atol=5e-3)
    ticks = [number(text) for text in page.inner_text("#legend .ticks").split()]
    assert ticks[0] == pytest.approx(delta.min().item(), rel=0.05)
    assert ticks[-1] == pytest.approx(delta.max().item(), rel=0.05)
    assert ticks == sorted(ticks)


@pytest.mark.parametrize("selective", ["delta B C", "delta C", "none"])
def test_a_clicked_token_shows_what_it_reads(selective: str, browser: Any, tmp_path: Path) -> None:
    recording = recorded(selective=selective)
    write_page(recording, tmp_path / "page.html")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    t, layer = 70, recording.layers[2]
    page.select_option("#layer", "1")
    page.click(f'#text [data-t="{t}"]')
    row = layer.mean_attention()[t, : t + 1]
    torch.testing.assert_close(torch.tensor(shares(page, t + 1)), row / row.sum(), rtol=0.05, atol=1e-3)
    page.select_option("#channel", "3")
    row = layer.channel(3).attention()[t, : t + 1]
    expected = row / row.abs().sum()
    torch.testing.assert_close(torch.tensor(shares(page, t + 1)), expected, rtol=0.05, atol=1e-3)
    listed = page.eval_on_selector_all("#reads li", "items => items.map(item => Number(item.dataset.t))")
    sizes = expected.abs()[listed]
    assert len(listed) == 10
    assert sizes.min() >= expected.abs().sort().values[-10] * 0.98
    underlined = page.eval_on_selector_all("#text .minus", "spans => spans.map(span => Number(span.dataset.t))")
    much = 0.012 * expected.abs().max()
    assert {s for s in range(t + 1) if expected[s] < -much} <= set(underlined)
    assert all(expected[s] < 0 for s in underlined)
    page.close()


def test_a_click_moves_nothing(page: Any) -> None:
    """Else the pointer would be on another token after it."""
    before = page.locator('#text [data-t="20"]').bounding_box()
    page.click('#text [data-t="20"]')
    assert page.locator('#text [data-t="20"]').bounding_box() == before
    assert tip(page, 20)["share"].startswith("share")


def test_by_keyboard_alone(page: Any) -> None:
    focused = "document.activeElement.dataset.t"
    for _ in range(3):  # layer, channel, text
        page.keyboard.press("Tab")
    assert page.evaluate(focused) == "0"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "2"
    assert "token 2" in page.inner_text("#tip")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == str(TEXT.index("\t")), (
        "the sign of the tab is nearer to below the 'w' than what comes after it"
    )
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    assert page.evaluate(focused) == str(len(TEXT) - 1)
    page.keyboard.press("Enter")
    assert page.get_attribute(f'#text [data-t="{len(TEXT) - 1}"]', "aria-selected") == "true"
    assert page.inner_text("#said").startswith(f"Token {len(TEXT) - 1}, \u00b7, reads most from: ")
    page.keyboard.press("Home")
    assert page.evaluate(focused) == "0"
    page.keyboard.press("Escape")
    assert page.locator('[aria-selected="true"]').count() == 0
    assert page.inner_text("#said") == ""
    assert page.locator('#text [tabindex="0"]').count() == 1


CONTRAST = """
() => {
  const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
  const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]);
  const light = colour => {
    const [r, g, b] = colour.map(x => x / 255).map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const card = rgba(getComputedStyle(document.querySelector(".card")).backgroundColor);
  return [...document.querySelectorAll("#text .t, p.soft, dt, dd, #reads code, #reads mark, .ticks span")].map(node => {
    const style = getComputedStyle(node), ink = light(rgba(style.color));
    const back = light(over(rgba(style.backgroundColor), card));
    return (Math.max(back, ink) + .05) / (Math.min(back, ink) + .05);
  });
}
"""


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_legible_in_light_and_dark(page: Any) -> None:
    assert min(page.evaluate(CONTRAST)) >= 4.5
    page.click('#text [data-t="40"]')
    assert min(page.evaluate(CONTRAST)) >= 4.5
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    card = page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", card))) < 60) == dark


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_cut_off(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.click('#text [data-t="40"]')
    assert page.evaluate("document.documentElement.scrollWidth") <= width
