"""The column layouts of the 19 AV-UIE v2 task files, and the one list of bridged field names.

A layout's name is the released task id; it outlives the code, so it never changes. Two columns may read one
key.

==================  =========================================================================================
field               meaning
==================  =========================================================================================
``class_name``      class of a closed-set recognition (ks, ucf in lower case, the five emotion sets)
``match``           which candidate fits, 1 or 2 (a2v, v2a); ``match_text`` is the manifest's own form of it
``query_event``     what the query clip holds (a2v, v2a; train only)
``candidate_events``  what the two candidates hold, in order (a2v, v2a; train only)
``question``        question text (avqa, avqa_thu)
``answer``          answer of the manifest (avqa: text; avqa_thu: option text, or an int: zero-based index)
``modality``        modality asked about (avqa)
``question_type``   type of the question (avqa, avqa_thu)
``question_relation``  modality relation (avqa_thu)
``question_id``     id of the question as text (avqa, avqa_thu)
``options``         candidate answers, in order (avqa_thu); ``options_text`` is how the prompt prints them
``event``           event class (ave)
``start_s`` ``end_s``  half-open span of ``event`` in seconds (ave)
``annotation``      events in tags: ``<event>`` (unav), ``<visual>`` and ``<audio>`` (avvp)
``object``          sounding object (s4, ms3, arig)
``expression``      referring expression, as in the manifest (ref_avs)
``object_id``       id of the referred object (ref_avs)
``subset``          ``test_s``, ``test_u`` or ``test_n`` (ref_avs; test only)
``frame``           zero-based frame number (s4: 0 in train; ms3, ref_avs, arig)
``box_xyxy_px``     corners of the object in the 224-pixel frame (arig; test only)
``mask_candidates``  where the mask may lie, first match wins (s4, ms3, ref_avs)
``mask_colours``  which colours of a mask are the object, where the dataset's row says so
``uid`` ``video_id``  names that the source dataset uses
==================  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crab_lightning.data.manifests.layout import Columns, Fields, Layout
from crab_lightning.data.manifests.layout_columns import (
    Column,
    annotation,
    anything,
    choice,
    corner,
    integer,
    options,
    options_text,
    question_kind,
    required,
    seconds,
    text,
    word,
)
from crab_lightning.data.manifests.layout_paths import (
    arig_frame,
    avs_masks,
    image_clip,
    ref_avs_masks,
    stem_clip,
    ucf_recording,
)


def _clip(split_columns: tuple[Column, ...], target: str | None = None, **more: Any) -> Columns:
    """Return columns of a task with one video and one audio file."""
    return Columns(split_columns, videos=("video_path",), audios=("audio_path",), target=target, **more)


def _frame(
    image_key: str, split_columns: tuple[Column, ...], target: str | None = None, **more: Any
) -> Columns:
    """Return columns of a task with one image and one audio file."""
    return Columns(split_columns, images=(image_key,), audios=("audio_path",), target=target, **more)


def _recognition(
    name: str,
    key: str,
    stop: str,
    *,
    target: str = "label",
    has_test: bool = True,
    read: Callable[[Any], str] = text,
    clip: Callable[[str], str] = stem_clip,
) -> Layout:
    """Return a layout whose answer is one class name inside answer tags, followed by ``stop``."""
    columns = (Column(key, read, "class_name"),)
    return Layout(
        name,
        train=_clip(columns, target),
        test=_clip(columns) if has_test else None,
        source=name,
        clip=clip,
        # Without a test reader the released code keeps no reference string either.
        reference=(lambda f: f"<answer>{f['class_name']}</answer>{stop}") if has_test else (lambda _: ""),
        class_field="class_name",
    )


def _lower_text(value: Any) -> str:
    """Accept a class name and lower its case, as the released test target does."""
    return text(value).lower()


def _matching(name: str, media: dict[str, Any], query: str, correct: str, events: tuple[str, ...]) -> Layout:
    """Return a layout of the two-clip matching tasks."""
    columns = (Column(correct, choice, "match"), Column(correct, word, "match_text"))
    kept = tuple(
        Column(k, anything, f) for k, f in zip(events, ("query_event", "_first", "_second"), strict=True)
    )
    return Layout(
        name,
        train=Columns((*columns, *kept), target="label", **media),
        test=Columns(columns, **media),
        source="vgg_cm",  # a2v and v2a draw on the same VGGSound recordings
        query=query,
        reference=lambda f: f"<answer>{f['match_text']}</answer>.",
        finish=_pair_candidates,
    )


def _pair_candidates(fields: Fields, image: str, place: Callable[[str], Any]) -> None:
    if "_first" in fields:
        fields["candidate_events"] = (fields.pop("_first"), fields.pop("_second"))


def _split_kind(fields: Fields, image: str, place: Callable[[str], Any]) -> None:
    fields["modality"], fields["question_type"] = fields.pop("_kind")


def _box(fields: Fields, image: str, place: Callable[[str], Any]) -> None:
    if "_top_left" in fields:
        fields["box_xyxy_px"] = (*fields.pop("_top_left"), *fields.pop("_bottom_right"))
    else:
        fields["frame"] = arig_frame(image)


_AVE = (
    Column("event", text, "event"),
    Column("vid", word, "video_id"),
    Column("start_time", seconds, "start_s"),
    Column("end_time", seconds, "end_s"),
)
_AVVP = (Column("filename", word, "video_id"), *required("vid"), Column("event", annotation, "annotation"))
_MUSIC_AVQA = (
    *required("video_id"),
    Column("question_id", word, "question_id"),
    Column("type", question_kind, "_kind"),
    Column("question", text, "question"),
    Column("answer", word, "answer"),
)


def _option_answer(value: Any) -> str | int:
    """Accept the answer of a multiple choice: an int is a zero-based index, anything else is text."""
    return value if isinstance(value, int) and not isinstance(value, bool) else word(value)


_AVQA = (
    Column("id", word, "question_id"),
    *required("video_name", "video_id"),
    Column("question_relation", anything, "question_relation"),
    Column("question_type", word, "question_type"),
    Column("multi_choice", options, "options"),
    Column("multi_choice", options_text, "options_text"),
    Column("question_text", text, "question"),
    Column("answer", _option_answer, "answer"),
)
_AVS = (Column("vid", word, "video_id"), Column("uid", word, "uid"), Column("a_obj", text, "object"))
_AVS_FRAME = (*_AVS, Column("frame_idx", integer, "frame"))


def _sounding_object(fields: Fields) -> str:
    return f"The object making the sound in the video is {fields['object']}."


def _arig_reference(fields: Fields) -> str:
    if "box_xyxy_px" not in fields:
        return ""
    x1, y1, x2, y2 = fields["box_xyxy_px"]
    return (
        f"The sounding object is {fields['object']}. Its coordinates are <obj>({x1},{y1})({x2},{y2})</obj>."
    )


_IMAGE: dict[str, Any] = {"media_folders": False, "clip": image_clip}

LAYOUTS: dict[str, Layout] = {
    "a2v": _matching(
        "a2v",
        {"videos": ("video1_path", "video2_path"), "audios": ("audio_path",)},
        "audio_path",
        "correct_video",
        ("audio_event", "video1_event", "video2_event"),
    ),
    "v2a": _matching(
        "v2a",
        {"videos": ("video_path",), "audios": ("audio1_path", "audio2_path")},
        "video_path",
        "correct_audio",
        ("video_event", "audio1_event", "audio2_event"),
    ),
    "ks": _recognition("ks", "action", ""),
    # ucf keeps its class name where other layouts keep their target text
    "ucf": _recognition("ucf", "label", "", target="new_label", read=_lower_text, clip=ucf_recording),
    "meld": _recognition("meld", "Emotion", "."),
    "mer24": _recognition("mer24", "discrete", ".", has_test=False),
    "cremad": _recognition("cremad", "emotion", "."),
    "mafw": _recognition("mafw", "emotion", "."),
    "dfew": _recognition("dfew", "emotion", "."),
    "avqa": Layout(
        "avqa",
        train=_clip(_MUSIC_AVQA, "label"),
        test=_clip(_MUSIC_AVQA),
        source="music_avqa",
        key=("question_id",),
        reference=lambda f: str(f["answer"]),
        finish=_split_kind,
    ),
    "avqa_thu": Layout(
        "avqa_thu",
        train=_clip(_AVQA, "label"),
        test=_clip(_AVQA),
        source="avqa",
        key=("question_id",),
        reference=lambda f: str(f["answer"]),
    ),
    "ave": Layout(
        "ave",
        train=_clip(_AVE, "label_content"),
        test=_clip(_AVE),
        source="ave",
        reference=lambda f: f"event:{f['event']} start_time:{f['start_s']} end_time:{f['end_s']}",
        class_field="event",
    ),
    "unav": Layout(
        "unav",
        train=_clip(
            (Column("vid", word, "video_id"), Column("label_content", text, "annotation")),
            "label_content",
            # overrides the text where the release kept the bare tags beside it
            optional=(Column("original_label", text, "annotation"),),
        ),
        test=None,
        source="unav",
    ),
    "avvp": Layout(
        "avvp",
        train=_clip(_AVVP, "label_content"),
        test=_clip(_AVVP),
        source="llp",
        reference=lambda f: str(f["annotation"]),
    ),
    "ms3": Layout(
        "ms3",
        train=_frame("image_path", _AVS_FRAME, "label_content"),
        test=_frame("visual_path", _AVS_FRAME),
        reference=_sounding_object,
        finish=avs_masks,
        one_unit=True,
        **_IMAGE,
    ),
    "s4": Layout(
        "s4",
        train=_frame("image_path", _AVS, "label_content", constants={"frame": 0}),
        test=_frame("visual_path", _AVS_FRAME),
        reference=_sounding_object,
        finish=avs_masks,
        one_unit=True,
        **_IMAGE,
    ),
    "ref_avs": Layout(
        "ref_avs",
        train=_frame(
            "image_path",
            (
                Column("vid", word, "video_id"),
                Column("fid", integer, "object_id"),
                Column("uid", word, "uid"),
                Column("idx", integer, "frame"),
                Column("description", text, "expression"),
            ),
            "output",
        ),
        test=_frame(
            "visual_path",
            (
                Column("object", text, "expression"),
                Column("split", text, "subset"),
                Column("vid", word, "video_id"),
                Column("uid", word, "uid"),
                Column("fid", integer, "object_id"),
                Column("frame_idx", integer, "frame"),
            ),
        ),
        reference=lambda f: str(f["expression"]),
        finish=ref_avs_masks,
        one_unit=True,
        media_folders=False,
        clip=image_clip,
        key=("object_id",),
    ),
    "arig": Layout(
        "arig",
        train=_frame("image_path", (Column("a_obj", text, "object"),), "label_content"),
        test=_frame(
            "visual_path",
            (
                Column("top_left", corner, "_top_left"),
                Column("bottom_right", corner, "_bottom_right"),
                Column("a_obj", text, "object"),
                Column("frame_idx", integer, "frame"),
            ),
        ),
        reference=_arig_reference,
        finish=_box,
        **_IMAGE,
    ),
    "avcap": Layout(
        "avcap",
        train=_clip((Column("video_id", word, "video_id"),), "label_content"),
        test=None,
        source="valor",
    ),
}


def has_test(layout: str) -> bool:
    """Say whether a test manifest was released for a layout.

    Raises:
        ValueError: If there is no such layout.
    """
    return get_layout(layout).test is not None


def get_layout(name: str) -> Layout:
    """Return a layout by its stable name.

    Raises:
        ValueError: If there is no such layout; the message lists the known names.
    """
    try:
        return LAYOUTS[name]
    except KeyError:
        raise ValueError(f"layout is {name!r}; known layouts: {', '.join(LAYOUTS)}") from None
