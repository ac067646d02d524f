"""The page, in the designs that it may have."""

from __future__ import annotations

import json

import pytest

from pipeline.core.errors import SourceError
from scrapers.sources.dalleblog.captions import Section, load_catalogue
from scrapers.sources.dalleblog.page import PageContent, read_page
from scrapers.sources.dalleblog.urls import base64_key

PAGE = "https://openai.com/blog/dall-e/"
CDN = "https://cdn.openai.com/dall-e/v2"
HEX = [f"{i:032x}" for i in range(1, 40)]


def read(html: str | bytes, url: str = PAGE) -> PageContent:
    body = html.encode() if isinstance(html, str) else html
    return read_page(body, base_url=url, catalogue=load_catalogue())


def one(content: PageContent, name: str) -> Section:
    (found,) = [s.section for s in content.sections if s.section.name == name]
    return found


def keys(content: PageContent, name: str) -> dict[str, str]:
    """Key by caption of a section."""
    return {
        given.caption: given.address.key
        for shown in content.sections
        if shown.section.name == name
        for given in shown.section.given
    }


def image(section: str, key: str, rank: int = 0, alt: str = "") -> str:
    return f'<img src="{CDN}/samples/{section}/{key}_{rank}.png" alt="{alt}">'


def select(*options: str, chosen: int | None = None, attributes: str = "") -> str:
    inner = "".join(
        f"<option{' selected' if i == chosen else ''} value={i}>{o}</option>"
        for i, o in enumerate(options)
    )
    return f"<select {attributes}>{inner}</select>"


# --- Design 1: a figure with a label, inline selects, pictures after ------------------------------


def test_selects_in_a_line_make_a_template_and_pictures_show_what_is_selected() -> None:
    content = read(
        f"""<html><body><h2>Combining unrelated concepts</h2><p>We find that it can…</p>
        <figure class="x1"><div>Text prompt</div>
        <p>an illustration of {select("a baby daikon radish", "an owl", chosen=1)}
        {select("in a tutu", "in a suit")} {select("walking a dog", "flying a kite", chosen=1)}</p>
        <div>AI-generated images</div>
        <div>{image("anthropomorphism", HEX[0])}{image("anthropomorphism", HEX[0], 1)}</div>
        <p>Edit prompt or view more images</p></figure></body></html>"""
    )
    section = one(content, "anthropomorphism")
    assert section.slots["attire"] == ("in a tutu", "in a suit")
    assert keys(content, "anthropomorphism") == {
        "an illustration of an owl in a tutu flying a kite": HEX[0]
    }
    assert section.given[0].ranks == (0, 1)
    assert content.cdn == CDN
    assert content.notes == ()


def test_an_unknown_section_is_read_from_its_line_and_its_address() -> None:
    key = base64_key("a tin owl on a chair")
    content = read(
        f"<p>A {select('tin', 'Gold')} owl on a {select('chair', 'mat')}</p>" + image("new", key)
    )
    section = one(content, "new")
    assert section.key == "base64"
    assert [forms[0] for forms in section.captions()] == [
        "a tin owl on a chair",
        "a tin owl on a mat",
        "a gold owl on a chair",
        "a gold owl on a mat",
    ]


@pytest.mark.parametrize(
    ("second", "captions"),
    [
        (select("cat", "dog", attributes="name=a"), 2),
        (select("cat", "dog", attributes="name=b"), 4),
        (select("cat", "dog"), 4),
        ("<span>cat</span>", 2),
    ],
)
def test_repeated_slots_of_unknown_templates_are_linked_by_name_or_by_text(
    second: str, captions: int
) -> None:
    first = select("cat", "dog", attributes="name=a" if "name" in second else "")
    html = f"<div>one {first} here. another {second} there.</div>"
    content = read(html + image("new", base64_key("one cat here. another cat there.")))
    assert one(content, "new").num_captions == captions


def test_repeated_slots_without_names_are_linked_where_the_same_option_is_marked() -> None:
    first = select("cat", "dog", chosen=1)
    html = f"<div>one {first} here. another {first} there.</div>"
    content = read(html + image("new", base64_key("one dog here. another dog there.")))
    assert [f[0] for f in one(content, "new").captions()] == [
        "one cat here. another cat there.",
        "one dog here. another dog there.",
    ]


@pytest.mark.parametrize(("said", "linked"), [("ox", False), ("elk", True)])
def test_a_text_of_two_letters_repeats_no_option(said: str, linked: bool) -> None:
    html = f"<div>one {select(said, 'yak')} here. another <span>{said}</span> there.</div>"
    content = read(html + image("new", base64_key(f"one {said} here. another {said} there.")))
    again = "{slot1}" if linked else said
    assert one(content, "new").template == f"one {{slot1}} here. another {again} there."


def test_known_repeated_slots_are_linked_and_alike_ones_are_kept_apart() -> None:
    animals, things = select("cat", "pig"), select("harp", "tuba", "sled")
    colors = select("red", "blue")
    content = read(
        f"""<p>a {animals} made of {things}. a {animals} with the texture of a {things}.</p>
        <p>an emoji of a baby penguin wearing a {colors} hat, {colors} gloves, {colors} shirt, and
        {colors} pants</p>"""
    )
    assert one(content, "animal_concept_transfer").num_captions == 6
    assert one(content, "multiple_attributes").num_captions == 16


# --- Design 2: one block for each piece, lazy and resized images ----------------------------------


def test_a_caption_spread_over_blocks_is_put_together() -> None:
    key = base64_key("a professional high quality emoji of a cute owl")
    moods, subjects = select("happy", "cute", chosen=1), select("owl", "cup of boba")
    content = read(
        f"""<main><div><div>Prompt:</div><div>a professional high quality emoji of a</div>
        <div><label>mood</label>{moods}</div><div>{subjects}</div><div>Explore more</div>
        <img data-src="/_next/image?url=https%3A%2F%2Fcdn.openai.com%2Fdall-e%2Fv2%2Fsamples%2F
emojis%2F{key.replace("=", "%253D")}_3.png&amp;w=640&amp;q=75"></div></main>""".replace("\n", "")
    )
    content = read(
        f"""<main><div><div>Prompt:</div><div>a professional high quality emoji of a</div>
        <div>{moods}</div><div>{subjects}</div><div>Explore more</div>
        <img src="data:," srcset="/_next/image?url=https%3A%2F%2Fcdn.openai.com%2Fdall-e%2Fv2%2F\
samples%2Femojis%2F{key.replace("=", "%3D")}_3.png&amp;w=640 1x, /x.png 2x"></div></main>"""
    )
    section = one(content, "emojis")
    assert section.slots == {"mood": ("happy", "cute"), "subject": ("owl", "cup of boba")}
    assert section.given[0].ranks == (3,)


def test_an_unknown_caption_spread_over_blocks_is_put_together_by_its_key() -> None:
    key = base64_key("two tin owls on a mat")
    content = read(
        f"""<div><b>Text prompt</b><div>two </div><div>{select("gold", "tin", chosen=1)}</div>
        <div> owls on a </div><div>{select("mat", "hat")}</div><em>see more</em></div>
        <i style="background: url('{CDN}/samples/new/{key}_0.png')"></i>"""
    )
    assert one(content, "new").template == "two {slot1} owls on a {slot2}"


def test_a_caption_spread_over_blocks_may_end_with_its_choice_amid_a_line() -> None:
    key = base64_key("one tin owl with a cat")
    content = read(
        f"<div><span>one tin owl with a</span></div><div>{select('cat', 'dog')} in this world</div>"
        + image("new", key)
    )
    assert one(content, "new").template == "one tin owl with a {slot1}"
    assert keys(content, "new") == {"one tin owl with a cat": key}
    assert content.notes == ()


def test_an_aria_listbox_is_a_select() -> None:
    content = read(
        """<p>a cross-section view of a <span role="listbox"><span role="option">walnut</span>
        <span role="option" aria-selected="true">brain</span></span></p>"""
        + image("cross_sections", base64_key("a cross-section view of a brain"), 4)
    )
    assert one(content, "cross_sections").slots == {"object": ("walnut", "brain")}


# --- Design 3: a slot spread out over a row or a column ---------------------------------------------


def test_pictures_of_an_axis_take_the_label_beside_them() -> None:
    eras = ("1900", "20s", "30s")
    cells = "".join(
        f"<td><small>{era}</small>{image('timelines', str(1000 + i))}</td>"
        for i, era in enumerate(eras)
    )
    objects = select("phone", "camera", chosen=1)
    content = read(f"<p>a photo of a {objects} from the …</p><table><tr>{cells}</tr></table>")
    assert keys(content, "timelines") == {
        f"a photo of a camera from the {era}": str(1000 + i) for i, era in enumerate(eras)
    }


def test_a_row_of_labels_over_a_row_of_pictures_is_paired() -> None:
    html = (
        f"<p>a photo of a {select('phone')} from the</p><table><tr><th>1900<th>20s</tr>"
        f"<tr><td>{image('timelines', '71')}<td>{image('timelines', '72')}</tr></table>"
    )
    assert keys(read(html), "timelines") == {
        "a photo of a phone from the 1900": "71",
        "a photo of a phone from the 20s": "72",
    }


def test_pictures_of_an_axis_without_labels_are_left_out_and_reported() -> None:
    html = f"<p>a photo of a {select('phone')} from the …</p>{image('timelines', '71')}"
    content = read(html)
    assert keys(content, "timelines") == {}
    assert content.notes == ("Section 'timelines': 1 images have no caption: left out.",)


# --- Design 4: cards, plain captions ------------------------------------------------------------------


@pytest.mark.parametrize("order", ["caption first", "picture first", "figcaption"])
def test_a_card_keeps_its_key_and_its_caption_together(order: str) -> None:
    html = ""
    for key, country in zip(HEX, ("china", "peru", "mali"), strict=False):
        caption, picture = (
            f"<p>a photo of the food of {country}</p>",
            image("countries", str(int(key, 16))),
        )
        if order == "figcaption":
            html += f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"
        else:
            html += (
                f"<div>{caption + picture if order == 'caption first' else picture + caption}</div>"
            )
    expected = {
        f"a photo of the food of {c}": str(i) for i, c in enumerate(("china", "peru", "mali"), 1)
    }
    assert keys(read(html), "countries") == expected


@pytest.mark.parametrize(
    "html",
    [
        "".join(
            image("countries", str(i)) + f"<p>a photo of the food of {country}</p>"
            for i, country in enumerate(("china", "peru", "mali"), 5)
        ),
        f"<p>a tin owl on a mat</p>{image('new', HEX[0])}<p>a gold owl on a mat</p>{image('new', HEX[1])}",
    ],
    ids=["images before their captions", "captions of no known section"],
)
def test_flat_texts_between_images_belong_to_none_of_them(html: str) -> None:
    content = read(html + "<p>a cross-section view of a walnut</p>")
    assert keys(content, "countries") | keys(content, "new") == {}
    assert "images have no caption: left out." in content.notes[-1]


def test_flat_captions_of_the_section_that_take_turns_with_their_images_are_tied() -> None:
    html = "".join(
        f"<p>a photo of the food of {country}</p>{image('countries', str(i))}"
        for i, country in enumerate(("china", "peru", "mali"), 5)
    )
    assert keys(read(html), "countries")["a photo of the food of peru"] == "6"


def test_captions_that_take_turns_are_tied_to_the_images_of_their_section_only() -> None:
    html = (
        f"<div><p>one {select('tin', 'gold')} owl on a mat</p>{image('new', HEX[0])}"
        f"<p>two {select('red', 'blue')} cats on a chair</p>{image('countries', '7')}</div>"
    )
    content = read(html + "<p>a cross-section view of a walnut</p>")
    assert keys(content, "new") == {"one tin owl on a mat": HEX[0]}
    assert keys(content, "countries") == {}


def test_the_alternative_text_wins_over_what_is_selected() -> None:
    html = (
        f"<p>a cross-section view of a {select('walnut', 'brain')}</p>"
        f"<p>a photo of the {select('food of', 'flag of')} {select('china', 'peru')}</p>"
        + image("countries", "77", alt="A photo of the flag of Peru")
        + image("countries", "78")
    )
    assert keys(read(html), "countries") == {
        "a photo of the flag of peru": "77",
        "a photo of the food of china": "78",
    }


def test_a_caption_behind_an_image_is_not_its_own_where_another_image_may_be_meant() -> None:
    html = (
        image("countries", "78")
        + f"<p>a photo of the {select('food of')} {select('china', 'peru')}</p>"
        + image("countries", "77", alt="A photo of the flag of Peru")
    )
    assert keys(read(html), "countries") == {"a photo of the flag of peru": "77"}


def test_a_key_is_never_tied_to_the_caption_of_another_section() -> None:
    html = f"<p>a photo of the {select('food of')} {select('china')}</p>{image('landmarks', '99')}"
    content = read(html)
    assert keys(content, "landmarks") == {}
    assert content.notes == ("Section 'landmarks': 1 images have no caption: left out.",)


def test_a_template_that_the_catalogue_does_not_know_is_taken_in_a_known_section() -> None:
    line = f"<p>an emoji of {select('wa0', 'wa1', 'wa2')} with {select('vb0', 'vb1', 'vb2')}</p>"
    key = base64_key("an emoji of wa0 with vb1")
    content = read(line + "<p>a line between the two</p>" + image("emojis", key))
    section = one(content, "emojis")
    assert section.template == "an emoji of {slot1} with {slot2}"
    assert section.num_captions == 9
    assert keys(content, "emojis") == {"an emoji of wa0 with vb1": key}
    assert content.notes == ()


def test_a_template_that_cannot_spell_the_key_is_not_taken_in_a_known_section() -> None:
    line = f"<p>an emoji of {select('wa0', 'wa1')}</p>"
    content = read(line + image("emojis", base64_key("another caption altogether")))
    assert one(content, "emojis").num_captions == 0
    assert "shows no image and fits no known template" in content.notes[0]


def test_prose_is_no_caption() -> None:
    html = f"<p>edit the prompt or view more images</p>{image('landmarks', '99')}"
    with pytest.raises(SourceError, match="'landmarks': 1 images have no caption"):
        read(html)


def test_a_key_that_stands_with_two_captions_is_left_out() -> None:
    html = "".join(
        f"<div><p>a photo of the food of {c}</p>{image('countries', '5')}</div>"
        for c in ("china", "peru")
    )
    content = read(html)
    assert keys(content, "countries") == {}
    assert "countries/5" in content.notes[0]


def test_a_headline_over_many_keys_is_no_caption() -> None:
    pictures = "".join(image("new", key) for key in HEX)
    with pytest.raises(SourceError, match="'some of our favorite pictures' is shown with keys"):
        read(f"<p>some of our favorite pictures</p>{pictures}")


def test_typographic_quotes_are_kept_as_the_page_has_them() -> None:
    words = select("openai", "gpt")
    store = select("store front")
    template = f"a {store} that has the word ‘{words}’ written on it."
    html = f"<p>{template} {template} {template} ‘{words}’ {store}.</p>{image('text_rendering', HEX[3])}"
    section = one(read(html), "text_rendering")
    assert section.num_captions == 2
    assert section.given[0].caption.endswith("‘openai’ store front.")
    assert "‘{word}’" in section.template


def test_a_left_over_slot_is_read_and_never_asked_for() -> None:
    content = read(
        f"<p>a {{}} in a {select('hat', 'cap')}</p>{image('new', base64_key('a {} in a hat'))}"
    )
    assert sum(1 for _ in one(content, "new").captions()) == 0


# --- Design 5: data in scripts -------------------------------------------------------------------------


def test_next_data_with_captions_and_addresses_is_read() -> None:
    data = {
        "props": {
            "visuals": [
                {
                    "caption": "a photo of the food of china",
                    "images": [
                        {"src": f"{CDN}/samples/countries/752777209_{r}.png"} for r in (0, 1)
                    ],
                },
                {
                    "prompt": "a {mood} emoji {thing}",
                    "slots": {
                        "mood": ["sad", "evil"],
                        "thing": [{"label": "owl"}, {"label": "fox"}],
                    },
                    "image": f"/dall-e/v2/samples/new/{base64_key('a sad emoji owl')}_0.png",
                },
            ]
        }
    }
    html = f'<script id="__NEXT_DATA__" type="application/json">{json.dumps(data)}</script>'
    content = read(html, "http://127.0.0.1:81/blog/dall-e/")
    assert keys(content, "countries") == {"a photo of the food of china": "752777209"}
    assert one(content, "new").num_captions == 4


def test_a_table_of_keys_by_caption_is_read() -> None:
    data = {
        "landmarks": {"a photo of san francisco’s city hall": 4000000000},
        "shape": [
            {
                "caption": "a pentagonal green clock. a green clock in the shape of a pentagon.",
                "key": HEX[9],
                "width": 256,
            }
        ],
    }
    content = read(f"<script>window.__DATA__ = {json.dumps(data)};</script>")
    assert keys(content, "landmarks") == {"a photo of san francisco’s city hall": "4000000000"}
    assert list(keys(content, "shape").values()) == [HEX[9]]


def test_a_caption_as_a_list_of_pieces_is_read() -> None:
    data = {
        "section": "cross_sections",
        "pieces": ["a cross-section view of a", {"name": "object", "options": ["walnut", "brain"]}],
    }
    html = f'<script type="application/json">{json.dumps(data)}</script>'
    assert one(read(html), "cross_sections").slots == {"object": ("walnut", "brain")}


def test_keys_in_a_script_without_captions_are_counted_and_left_out() -> None:
    data = {"images": [f"{CDN}/samples/countries/{i}_0.png" for i in (1, 2)]}
    content = read(
        f'<script type="application/json">{json.dumps(data)}</script><p>a cross-section view of a walnut</p>'
    )
    assert keys(content, "countries") == {}
    assert content.notes == ("Section 'countries': 2 images have no caption: left out.",)


# --- Bad input -----------------------------------------------------------------------------------------


def test_malformed_html_is_read_as_a_browser_would() -> None:
    html = (
        "<div><p>a photo of the <select><option>food of<option selected>flag of</select> "
        "<select><option>China</option><option>Peru</select><b><div>"
        "<img src='https://cdn.openai.com/dall-e/v2/samples/countries/77_0.png'></p></i>"
    )
    assert keys(read(html), "countries") == {"a photo of the flag of china": "77"}


def test_relative_addresses_and_the_image_prompt_are_made_whole() -> None:
    html = (
        '<base href="/mirror/"><img src="v2/image_prompts/bedroom_design.png">'
        "<p>a cross-section view of a walnut</p><img src='v2/samples/cross_sections/"
        f"{base64_key('a cross-section view of a walnut')}_0.png'>"
    )
    content = read(html, "http://127.0.0.1:8000/blog/")
    assert content.cdn == "http://127.0.0.1:8000/mirror/v2"
    assert content.image_prompts == {
        "bedroom_design": "http://127.0.0.1:8000/mirror/v2/image_prompts/bedroom_design.png"
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"\0\0",
        b"<html><p>Hello there</p>",
        b"\x89PNG\r\n\x1a\n\xff\xff",
        b"[1, 2]",
        b"<" * 1000,
    ],
)
def test_a_page_with_nothing_in_it_is_an_error_that_names_what_was_looked_for(body: bytes) -> None:
    with pytest.raises(SourceError, match=r"<select>|HTML"):
        read(body)


def test_broken_addresses_are_passed_over() -> None:
    html = f"""<p>a cross-section view of a {select("walnut")}</p>
        <img src="http://[x/samples/a/b_0.png"><img src="javascript:/samples/rpm/a_0.png">
        <img src="/samples/../../x_0.png"><img src="/samples/rpm/{"y" * 10_000}_0.png">
        <script type="application/json">{{"a": {"[" * 5000}</script>"""
    content = read(html)
    assert [s.section.name for s in content.sections] == ["cross_sections"]


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    deep = "<div>" * 5_000 + f"a cross-section view of a {select('walnut')}" + "</div>" * 5_000
    content = read("<p>a cross-section view of a brain</p>" + deep)
    assert {s.section.slots["object"] for s in content.sections} >= {("brain",)}


def test_a_select_left_open_ends_where_no_option_can_stand() -> None:
    html = f"<p>a cross-section view of a <select><option>walnut<option>brain<div>{image('countries', '7')}"
    html += "<p>a photo of the food of china</p></div>"
    content = read(html)
    assert one(content, "cross_sections").slots == {"object": ("walnut", "brain")}
    assert keys(content, "countries") == {"a photo of the food of china": "7"}


def test_the_meta_elements_of_a_page_are_handed_on() -> None:
    content = read(
        '<meta name="TDM-Reservation" content="1"><meta name=robots content="noai, noimageai">'
        '<meta charset=utf-8><meta property="og:image" content="x"><p>a cross-section view of a walnut</p>'
    )
    assert content.meta == (("tdm-reservation", "1"), ("robots", "noai, noimageai"))


# --- Figures and texts --------------------------------------------------------------------------------


def test_a_figcaption_over_more_keys_than_a_caption_has_is_a_headline() -> None:
    pictures = [image("new", key) for key in HEX[:9]]
    figcaption = "<figcaption>Our favourites</figcaption>"
    assert len(read(f"<figure>{''.join(pictures[:8])}{figcaption}</figure>").sections) == 1
    with pytest.raises(SourceError, match="'our favourites' is shown with keys"):
        read(f"<figure>{''.join(pictures)}{figcaption}</figure>")


def test_a_caption_of_another_key_is_no_second_keys() -> None:
    html = f"<p>a photo of the food of {select('china')}</p>" + image(
        "countries", "77", alt="a photo of the food of china"
    )
    assert keys(read(html + image("countries", "78")), "countries") == {
        "a photo of the food of china": "77"
    }


def test_hand_made_names_with_numbers_are_images_of_their_own() -> None:
    content = read(
        "".join(
            f"<figure>{image('new', 'set', rank)}<figcaption>image of {word}</figcaption></figure>"
            for rank, word in enumerate(("owls", "cats"))
        )
    )
    assert [(g.caption, g.ranks) for s in content.sections for g in s.section.given] == [
        ("image of owls", (0,)),
        ("image of cats", (1,)),
    ]


# --- Saved pages --------------------------------------------------------------------------------------


def test_images_that_a_browser_renamed_are_found_by_their_captions() -> None:
    folder, spelt = "./DALL·E_files", base64_key("a cross-section view of a walnut")
    content = read(
        f"""<div><p>a photo of the food of china</p><img src="{folder}/752777209_3.png"></div>
        <img src="{folder}/{spelt}_0.png"><img src="{folder}/{HEX[0]}_0.png"><img src="{folder}/x.png">
        <img src="{folder}/{base64_key("a cross-section vi")}_0.png">"""
    )
    assert keys(content, "countries") == {"a photo of the food of china": "752777209"}
    assert keys(content, "cross_sections") == {"a cross-section view of a walnut": spelt}
    assert content.notes == (
        "2 images were renamed when the page was saved, so their URLs are unknown: left out. "
        "Save it as HTML only or as .mhtml instead.",
    )
