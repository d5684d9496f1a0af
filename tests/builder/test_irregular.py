"""What is irregular in the owners' files, dataset by dataset: each case by hand, in the official form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crab_lightning.builder import Settings, import_dataset
from crab_lightning.builder.source import AnnotationError, read_bare, read_lines, read_table
from crab_lightning.media import cut_video, probe, read_audio, read_video
from tests.builder.media import put, put_mask
from tests.builder.trees import check_answers, fill, mixture, samples
from tests.media.test_cut import recording


def bring(tmp_path: Path, name: str, settings: Settings | None = None) -> Any:
    """Import ``tmp_path/owner`` into ``tmp_path/root``."""
    return import_dataset(name, [tmp_path / "owner"], tmp_path / "root", settings, workers=0)


def rows_of(tmp_path: Path, task: str, split: str = "train") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((tmp_path / f"root/AVUIE_2/{task}/{split}.json").read_text())
    return rows


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


@pytest.fixture
def owner(tmp_path: Path) -> Path:
    folder = tmp_path / "owner"
    folder.mkdir()
    return folder


def test_ave_split_files_may_carry_the_head_line_of_the_archive(owner: Path, tmp_path: Path) -> None:
    head = "Category&VideoID&Quality&StartTime&EndTime\r\n"
    write(owner / "trainSet.txt", head + "Rodents, rats, mice&-_a-b_c-d_e&good&0&4\r\n")
    write(owner / "testSet.txt", head)
    fill(owner, "ave")
    assert bring(tmp_path, "ave").splits[0].written == 1
    assert samples(tmp_path / "root", "ave")[0].fields["event"] == "Rodents, rats, mice"


UNAV = {
    "bHfesK3rBE4": (38, [(0.05589, 10.05589, "people eating"), (24.874, 37.91952, "people eating")], "train"),
    "twoClasses1": (20.5, [(10.25, 20.5, "wind noise"), (0, 20.5, "train horning")], "train"),
    "blinkOnly_1": (60, [(30, 31, "dog barking"), (0, 60, "sea waves")], "train"),
    "busy_clip_1": (10, [(i, i + 1, "auto racing") for i in range(0, 10, 2)], "train"),
    "validation1": (10, [(0, 5, "dog barking")], "validation"),
    "tested_once": (50, [(12.5, 30.04, "dog barking"), (49.9, 50, "sea waves")], "test"),
}


def test_unav_keeps_stable_clips_and_their_true_times(owner: Path, tmp_path: Path) -> None:
    database = {
        vid: {
            "duration": duration,
            "annotations": [{"segment": [s, e], "label": n, "label_id": 1} for s, e, n in events],
            "subset": subset,
        }
        for vid, (duration, events, subset) in UNAV.items()
    }
    text = json.dumps({"version": "unav100", "database": database})
    write(owner / "unav100_annotations.json", text)
    fill(owner, "unav", Settings(all_clips=True, val="train"))
    report = bring(tmp_path, "unav", Settings(most_changes=8))
    train = {row["vid"]: row for row in rows_of(tmp_path, "unav")}
    assert list(train) == ["bHfesK3rBE4", "twoClasses1"]
    # the one published example of the released file
    assert train["bHfesK3rBE4"]["original_label"] == "<event>people eating, (0 3)(7 10)</event>"
    told = "<event>train horning, (0 10)</event><event>wind noise, (5 10)</event>"
    assert train["twoClasses1"]["original_label"] == told
    assert train["twoClasses1"]["duration_s"] == 20.5
    assert train["twoClasses1"]["events_s"][0] == {"label": "wind noise", "start_s": 10.25, "end_s": 20.5}
    assert report.notes["training clips left out: an event lasts less than 1 tenths"] == 1
    assert report.notes["training clips left out: more than 8 changes inside"] == 1
    (tested,) = rows_of(tmp_path, "unav", "test")
    assert tested["events_s"][1] == {"label": "sea waves", "start_s": 49.9, "end_s": 50}
    assert "label_content" not in tested
    told = "<event>dog barking, (3 6)</event><event>sea waves, (9 10)</event>"
    assert tested["original_label"] == told
    check_answers(tmp_path / "root", "unav")
    (asked,) = samples(tmp_path / "root", "unav", "test")  # the real reader hands the true times on
    assert asked.fields["duration_s"] == 50
    tasks, specs = mixture()
    task = tasks[specs["unav"].task]
    spec = replace(specs["unav"], classes=["dog barking", "sea waves"])
    scores = task.metrics(spec)
    task.update(scores, task.parse("<event>dog barking, (2.5 6)</event>", asked, spec), asked, spec)
    # (3 6) tenths are seconds 15 to 30 of 12.5 to 30.04: an overlap of 15 / 17.54; the waves are not found
    found = scores.compute()
    assert (float(found["map_80"]), float(found["map_90"])) == (0.5, 0)

    bring(tmp_path, "unav", Settings(all_clips=True, val="train"))
    assert [row["vid"] for row in rows_of(tmp_path, "unav")] == [v for v in UNAV if v != "tested_once"]
    write(owner / "unav100_annotations.json", text[:-20])
    with pytest.raises(ValueError, match=r"unav100_annotations\.json is not JSON: .*incomplete"):
        bring(tmp_path, "unav")


_WEAK = "filename\tevent_labels\n"
LLP = {
    "AVVP_train.csv": _WEAK + "AP0061o0Nvk_101.8_111.8\tCello\n-_a_b_c_d_e_30_40\tSpeech,Dog\n",
    "AVVP_val_pd.csv": _WEAK + "CaC2xvdLC34_250_260\tSpeech,Cello\nno_times_id_0_10\tCat\n",
    "AVVP_test_pd.csv": _WEAK + "8DF2PxdT5tE_390_400\tSpeech,Cheering\nsilent_test_5_15\tDog\n",
    "AVVP_eval_audio.csv": "filename\tonset\toffset\tevent_labels\n"
    "CaC2xvdLC34_250_260\t0\t9\tCello\nCaC2xvdLC34_250_260\t9\t9\tSpeech\n"
    "8DF2PxdT5tE_390_400\t9\t0\tCheering\n8DF2PxdT5tE_390_400\t0\t2\tSpeech\n"
    "8DF2PxdT5tE_390_400\t0\t2\tSpeech\n8DF2PxdT5tE_390_400\t7\t10\tSpeech\n"
    "17iGUal2M_10_20\t0\t10\tDog\nBaby_cry_infant_cry\t0\t4\tSpeech\nKvIjsmANkxI_10_20`\t0\t10\tSpeech\n",
    "AVVP_eval_visual.csv": "filename\tonset\toffset\tevent_labels\nCaC2xvdLC34_250_260\t0\t10\tCello\n",
}


def test_llp_joins_what_the_official_scorer_counts(owner: Path, tmp_path: Path) -> None:
    for file, text in LLP.items():
        write(owner / file, text)
    fill(owner, "avvp")
    report = bring(tmp_path, "avvp")
    (train,) = rows_of(tmp_path, "avvp")
    assert train["filename"] == "CaC2xvdLC34_250_260"
    told = "<visual_event>Cello,(0 10)</visual_event><audio_event>Cello,(0 9)</audio_event>"
    assert train["event"] == train["label_content"] == told
    test = {row["filename"]: row["event"] for row in rows_of(tmp_path, "avvp", "test")}
    assert test == {
        "8DF2PxdT5tE_390_400": "<audio_event>Speech,(0 2),(7 10)</audio_event>",
        "silent_test_5_15": "",
    }
    weak = rows_of(tmp_path, "avvp", "weak")
    assert [(r["vid"], r["event"]) for r in weak] == [("AP0061o0Nvk", "Cello"), ("-_a_b_c_d_e", "Speech,Dog")]
    assert report.notes["AVVP_eval_audio.csv: lines that end before they start"] == 2
    assert report.notes["AVVP_eval_audio.csv: lines of a clip that no row names"] == 3
    assert report.notes["AVVP_eval_audio.csv: repeated lines"] == 1
    assert [one.name for one in report.lost] == ["no_times_id_0_10"]
    assert len(samples(tmp_path / "root", "avvp", "test")) == 2

    bring(tmp_path, "avvp", Settings(whole_clip=True, val="leave"))
    filled = rows_of(tmp_path, "avvp")
    assert [row["vid"] for row in filled] == ["AP0061o0Nvk", "-_a_b_c_d_e"]
    both = "<visual_event>Cello,(0 10)</visual_event><audio_event>Cello,(0 10)</audio_event>"
    assert filled[0]["label_content"] == both
    assert not (tmp_path / "root/AVUIE_2/avvp/weak.json").exists()


def music(**change: Any) -> dict[str, Any]:
    entry = {
        "video_id": "va00003871", "question_id": 7, "type": '["Visual", "Location"]', "question_deleted": 0,
        "question_content": "Where is the <LL> instrument?", "templ_values": '["loudest"]', "anser": "left",
    }  # fmt: skip
    return entry | change


def test_music_avqa_sets_aside_what_cannot_be_asked(owner: Path, tmp_path: Path) -> None:
    entries = [
        music(),
        music(question_id=8, question_deleted=1),
        music(question_id=9, templ_values="[]"),
        music(
            question_id=10,
            question_content="What is the <TH> instrument that comes in\uff1f ",
            templ_values='["first"]',
        ),
    ]
    write(owner / "avqa-train.json", json.dumps(entries))
    write(owner / "avqa-test.json", json.dumps([music()]))
    fill(owner, "avqa")
    report = bring(tmp_path, "avqa")
    asked = [row["question"] for row in rows_of(tmp_path, "avqa")]
    assert asked == ["Where is the loudest instrument?", "What is the first instrument that comes in?"]
    assert [one.reason.split(" ", 4)[-1] for one in report.lost] == [
        "as deleted",
        "instrument?' does not have as many placeholders as [] has values",
    ]
    write(owner / "avqa-test.json", json.dumps([{"video_id": 1}]))
    with pytest.raises(ValueError, match=r"avqa-test\.json, entry 0 .* has no question_id, type"):
        bring(tmp_path, "avqa")


def test_vgg_cm_keeps_recordings_and_near_synonyms_apart(owner: Path, tmp_path: Path) -> None:
    lines = [
        f'id{i:08d}_,{30 + i},"{("bee, wasp, etc. buzzing", "fly, housefly buzzing")[i % 2]}",train'
        for i in range(8)
    ]
    lines += [f"dog{i:08d},0,dog barking,train" for i in range(2)]
    lines += [
        "dog00000001,90,dog howling,test",
        "-tested_one,5,cat purring,test",
        "lost_clip_1,5,cat purring,test",
    ]
    write(owner / "vggsound.csv", "\n".join(lines) + "\n")
    for line in lines[:-1]:
        vid, start = line.split(",")[:2]
        put(owner / "clips" / f"{vid}_{int(start):06d}.mp4")
    write(owner / "alike.yaml", '- ["bee, wasp, etc. buzzing", "fly, housefly buzzing"]\n')
    settings = Settings(pairs=10, test_pairs=1, synonyms=owner / "alike.yaml", seed=3)
    report = bring(tmp_path, "vgg_cm", settings)
    assert report.notes["clips of vggsound.csv that are not in the source"] == 1
    assert report.notes["training clips left out: their recording is also in test"] == 1
    assert report.notes["train: 1 pairs instead of 10; there are no more clips"] == 1  # one dog is left
    (row,) = rows_of(tmp_path, "a2v")
    assert {row["video1_event"], row["video2_event"]} > {"dog barking"}
    first = {s.split: (s.task, s.written) for s in report.splits}
    again = bring(tmp_path, "vgg_cm", settings)
    assert {s.split: (s.task, s.written) for s in again.splits} == first
    assert rows_of(tmp_path, "a2v") == [row]
    write(owner / "vggsound.csv", "a,b,c\n")
    with pytest.raises(ValueError, match="line 1: 3 cells instead of 4"):
        bring(tmp_path, "vgg_cm")


def test_kinetics_tables_come_with_quotes_more_columns_and_another_name(owner: Path, tmp_path: Path) -> None:
    head = "label,youtube_id,time_start,time_end,split,is_cc\n"
    write(
        owner / "train.csv",
        head + '"playing piano",-aB3dE6fGhI,12,22,train,0\n"massaging person\'s head",x,1,2,train,0\n',
    )
    write(owner / "val.csv", head + "tickling,aB3_dE-6fGh,3,13,val,1\n")
    fill(owner, "ks")
    bring(tmp_path, "ks")
    (row,) = rows_of(tmp_path, "ks")
    assert (row["video_path"], row["action"]) == ("-aB3dE6fGhI_000012_000022.mp4", "playing piano")
    assert rows_of(tmp_path, "ks", "test")[0]["action"] == "tickling"
    write(owner / "val.csv", "tickling,aB3_dE-6fGh,3,13,val\n")
    with pytest.raises(ValueError, match=r"val\.csv: the header line is .*; it must name label, youtube_id"):
        bring(tmp_path, "ks")


def test_ucf_takes_the_class_from_the_folder_and_only_files_with_sound(owner: Path, tmp_path: Path) -> None:
    names = (
        "HandstandPushups/v_HandStandPushups_g08_c01",
        "Archery/v_Archery_g08_c01",
        "Archery/v_Archery_g08_c02",
    )
    write(
        owner / "trainlist01.txt",
        "".join(f"{n}.avi 37\r\n" for n in names) + "Basketball/v_Basketball_g08_c01.avi 8\r\n",
    )
    write(owner / "testlist01.txt", "\r\n")
    for name in names:
        put(owner / "UCF-101" / f"{name}.avi", sound="c02" not in name)
    report = bring(tmp_path, "ucf")
    assert [(r["label"], r["new_label"]) for r in rows_of(tmp_path, "ucf")] == [
        ("HandstandPushups", "<answer>handstandpushups</answer>"),
        ("Archery", "<answer>archery</answer>"),
    ]
    assert "has no audio track" in report.lost[0].reason


def test_cells_may_hold_what_python_takes_for_line_ends_and_open_quotes_are_told(owner: Path) -> None:
    table = owner / "train.csv"
    head = "label,youtube_id,time_start,time_end,split\r\n"
    lines = ["a,I\x85\u2028 m,1,2,train\r\n", '"b, c","two\nlines",3,4,train\r\n', "\r\n", 'd,e"f,5,6,train']
    write(table, head + "".join(lines))
    found = list(read_table(table, columns=("label", "youtube_id")))
    assert found == [
        (2, {"label": "a", "youtube_id": "I\x85\u2028 m"}),
        (4, {"label": "b, c", "youtube_id": "two\nlines"}),
        (6, {"label": "d", "youtube_id": 'e"f'}),
    ]
    assert list(read_lines(table))[1] == (2, lines[0][:-2])
    # Were it read on, everything behind the quote would be one cell of the last column, and no row be missed.
    rows = "".join(f"g,h{i},1,2,train\n" for i in range(20_000))
    for broken in ('a,b,1,2,"train\n' + rows, 'a,"b" c,1,2,train\n'):
        write(table, head + "x,y,1,2,train\n" + broken)
        with pytest.raises(AnnotationError, match=r"train\.csv, line 3: its quotes cannot be read"):
            list(read_table(table))
        with pytest.raises(AnnotationError, match=r"train\.csv, line 3: its quotes cannot be read"):
            list(read_bare(table, 5))


def test_meld_tells_equal_names_of_its_parts_apart(owner: Path, tmp_path: Path) -> None:
    head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode"
    head += ",StartTime,EndTime\r\n"
    line = '1,"“No,” she said – loudly",Joey,joy,positive,{},{},3,19,"00:14:38,127","0:14:40,378"\r\n'
    bad = [(125, 3), (0, 0)]
    write(owner / "train_sent_emo.csv", head + "".join(line.format(*ids) for ids in bad))
    write(owner / "dev_sent_emo.csv", head + line.format(0, 0) + line.format(110, 7))
    write(owner / "test_sent_emo.csv", head + line.format(0, 0) + line.format(38, 4))
    put(owner / "train/train_splits/dia0_utt0.mp4", 1)
    write(owner / "train/train_splits/dia125_utt3.mp4", "moov atom not found")
    put(owner / "dev/dev_splits_complete/dia0_utt0.mp4", 2)
    put(owner / "dev/dev_splits_complete/dia66_utt9.mp4", 1)  # a file without a row
    put(owner / "test/output_repeated_splits_test/dia0_utt0.mp4", 3)
    put(owner / "test/output_repeated_splits_test/dia38_utt4.mp4", 4)
    put(owner / "test/output_repeated_splits_test/final_videos_testdia0_utt0.mp4", 4)
    report = bring(tmp_path, "meld")
    assert [row["video_path"] for row in rows_of(tmp_path, "meld")] == [
        "train/dia0_utt0.mp4",
        "train/dev_dia0_utt0.mp4",
    ]
    videos = [s.videos[0] for split in ("train", "test") for s in samples(tmp_path / "root", "meld", split)]
    assert [round(probe(v).duration_s or 0) for v in videos] == [1, 2, 3, 4]
    assert [(one.kind, one.name) for one in report.lost] == [
        ("missing", "dev dia110_utt7"),
        ("unreadable", "train dia125_utt3"),
    ]
    assert report.notes["test/dia38_utt4 lasts 5 minutes as published"] == 1


def test_dfew_and_mafw_and_mer24(owner: Path, tmp_path: Path) -> None:
    write(owner / "train(single-labeled)/set_1.csv", "video_name,label\n12,4\n13,0\n")
    write(owner / "test(single-labeled)/set_1.csv", "video_name,label\n1,1\n")
    put(owner / "Clip/clip_224x224_avi/12.avi", sound=False)
    put(owner / "Clip/original/part_2/12.mp4")
    put(owner / "Clip/original/part_1/1.mp4")
    report = bring(tmp_path, "dfew")
    assert [row["label"] for row in rows_of(tmp_path, "dfew")] == ["<answer>anger</answer>."]
    assert report.lost[0].reason.startswith("label 0")

    write(owner / "single/no_caption/set_1/train.txt", "00151.mp4 happy\n00152.mp4 sadness\n")
    write(owner / "single/with_caption/set_1/train.txt", "99999.mp4 happy\n")
    write(owner / "single/no_caption/set_1/test.txt", "00153.mp4 sad\n")
    fill(owner, "mafw")
    bring(tmp_path, "mafw")
    assert [row["emotion"] for row in rows_of(tmp_path, "mafw")] == ["happiness", "sadness"]
    write(owner / "single/no_caption/set_1/test.txt", "00153.mp4 cheerful\n")
    with pytest.raises(ValueError, match=r"test\.txt, line 1: '00153.mp4 cheerful'; a file and one of anger"):
        bring(tmp_path, "mafw")

    write(owner / "label-disdim.csv", "name,discrete,valence\nsample_00000042,happy,1.5\n")
    write(owner / "mine.csv", "name,discrete\nsample_00000043,sad\n")
    settings = Settings(test_labels=owner / "mine.csv")
    fill(owner, "mer24", settings)
    assert "no test rows" in str(bring(tmp_path, "mer24").notes)
    bring(tmp_path, "mer24", settings)
    assert len(samples(tmp_path / "root", "mer24", "test")) == 1
    assert rows_of(tmp_path, "mer24", "test") == [
        {"video_path": "sample_00000043.mp4", "audio_path": "sample_00000043.wav", "discrete": "sad"}
    ]


def test_crema_d_takes_flash_videos_and_the_owners_sound(owner: Path, tmp_path: Path) -> None:
    write(owner / "train.csv", "\ufeff1001_IEO_NEU_XX,NEU\r\n1002_IEO_HAP_HI,SAD\r\n")
    write(owner / "test.csv", "1003_IEO_ANG_LO,ANG\r\n")
    for name in ("1001_IEO_NEU_XX", "1002_IEO_HAP_HI", "1003_IEO_ANG_LO"):
        flash(owner / "VideoFlash" / f"{name}.flv")
    put(owner / "AudioWAV/1001_IEO_NEU_XX.wav")
    report = bring(tmp_path, "cremad")
    assert report.notes == {"rows whose name states another emotion than their label": 1}
    first, second = samples(tmp_path / "root", "cremad")
    assert first.audios[0].samefile(owner / "AudioWAV/1001_IEO_NEU_XX.wav")
    assert len(read_audio(second.audios[0])) == pytest.approx(16_000, abs=1600)
    assert read_video(first.videos[0], 4).frames.shape[0] == 4  # as it is: the reader knows Flash
    write(owner / "test.csv", "1003_IEO_ANG_LO,MAD\n")
    with pytest.raises(ValueError, match="emotion 'MAD'; one of NEU, HAP"):
        bring(tmp_path, "cremad")


def flash(path: Path) -> None:
    """Write a Flash video of one second."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        video = out.add_stream("flv1", rate=10)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = out.add_stream("mp3", rate=44_100, layout="mono")
        for i in range(10):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 48, 3), 25 * i, np.uint8))))
        tone = (0.3 * np.sin(np.arange(44_100) / 20)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 44_100
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
        out.mux(video.encode(None))


AVS = """vid,uid,s_min,s_sec,a_obj,split,label
a,aB3_dE-6fGh_0_5000,0,0,emergency-car,train,v1s
b,tested_one1_0_5000,0,0,dog,test,v1s
c,several_ones_1,0,0,man_dulcimer,train,v1m
d,ten_seconds1_0_10000,0,0,dog,train,v2
e,validation1_0_5000,0,0,dog,val,v1s
"""


def test_avsbench_has_one_mask_in_training_and_five_elsewhere(owner: Path, tmp_path: Path) -> None:
    write(owner / "metadata.csv", AVS)
    for folder, masks in (
        ("v1s/aB3_dE-6fGh_0_5000", 1),
        ("v1s/tested_one1_0_5000", 5),
        ("v1m/several_ones_1", 5),
    ):
        put(owner / folder / "audio.wav", 5)
        for i in range(5):
            put(owner / folder / f"frames/{i}.jpg")
        for i in range(masks):
            kind = "labels_semantic" if "v1m" in folder else "labels_rgb"
            empty = folder == "v1m/several_ones_1" and i == 3
            put_mask(owner / folder / kind / f"{i}.png", None if empty else (8, 4, 30, 20))
    report = bring(tmp_path, "avs")
    assert [one.reason for one in report.lost] == ["its mask is empty: nothing sounds in this frame"]
    (single,) = rows_of(tmp_path, "s4")
    assert single["label_content"].startswith(
        "The object making the sound is the emergency-car. Its bounding box is [37,28,"
    )
    assert [row["frame_idx"] for row in rows_of(tmp_path, "s4", "test")] == [0, 1, 2, 3, 4]
    (several,) = rows_of(tmp_path, "ms3")
    assert (several["frame_idx"], several["a_obj"]) == (1, "man and dulcimer")
    assert samples(tmp_path / "root", "ms3")[0].fields["mask_candidates"][0].is_file()
    check_answers(tmp_path / "root", "ms3")

    boxes = bring(tmp_path, "arig", Settings(frames=2))
    assert [(one.kind, one.name) for one in boxes.lost] == [("missing", "aB3_dE-6fGh_0_5000 frame 1")]
    assert "<obj>(37,28)(144,146)</obj>" in rows_of(tmp_path, "arig")[0]["label_content"]
    tested = rows_of(tmp_path, "arig", "test")[4]
    assert (tested["top_left"], tested["bottom_right"], tested["frame_idx"]) == ([37, 28], [144, 146], 4)

    (owner / "metadata.csv").rename(owner / "s4_meta_data.csv")
    with pytest.raises(ValueError, match=r"AVSBench-object \(2022\).*AVSBench-semantic"):
        bring(tmp_path, "avs")
    write(owner / "metadata.csv", "vid,uid,split,fid,exp\n")
    with pytest.raises(ValueError, match="it must name a_obj, label"):
        bring(tmp_path, "avs")


REF = """vid,uid,split,fid,exp
a_b-c_d-e_f_0_10000,a_b-c_d-e_f_0_10000_hair-dryer_1,train,2,  The first object to make a sound
a_b-c_d-e_f_0_10000,a_b-c_d-e_f_0_10000_hair-dryer_1,train,2,  The first object to make a sound
G8YSz3L1R3M_75000_85000,G8YSz3L1R3M_75000_85000_boy_1,train,0,"[Error] 错误: 该内容仅包含:(1),(2)."
izh4_B0XmNA_35000_45000,izh4_B0XmNA_35000_45000_airplane_3,TODO,0,The object.
a_b-c_d-e_f_0_10000,null_m-a_b-c_d-e_f_0_10000_null_1,test_n,0,"The cat, if any"
"""


def test_ref_avs_folders_masks_and_damaged_rows(owner: Path, tmp_path: Path) -> None:
    write(owner / "metadata.csv", REF.replace("\n", "\r\n"))
    fill(owner, "ref_avs")
    put_mask(owner / "media/gt_mask/a_b-c_d-e_f_0_10000/fid_2/00002.png", None)  # not in sight in this frame
    report = bring(tmp_path, "ref_avs")
    assert report.notes["rows of the split TODO, which the owners' code does not use"] == 1
    assert report.notes["repeated rows, kept as published"] == 1
    assert [one.name for one in report.lost] == ["G8YSz3L1R3M_75000_85000_boy_1"]
    rows = rows_of(tmp_path, "ref_avs")
    assert [(row["idx"], row["vid"], row["description"]) for row in rows[:2]] == [
        (2, "a_b-c_d-e_f_0_10000", "The first object to make a sound"),
        (7, "a_b-c_d-e_f_0_10000", "The first object to make a sound"),
    ]
    assert rows[0]["output"] == "<answer>false</answer> The object is absent."
    assert rows[1]["output"].startswith(
        "<answer>true</answer>. The object is the hair-dryer. Its bounding box is"
    )
    absent = samples(tmp_path / "root", "ref_avs", "test")
    assert len(absent) == 10
    assert "/null_m-a_b-c_d-e_f_0_10000/" in str(absent[0].images[0])
    made = Image.open(absent[0].fields["mask_candidates"][0])
    assert (made.size, made.getextrema()) == ((48, 32), (0, 0))


def test_pieces_are_cut_out_of_whole_videos(owner: Path, tmp_path: Path) -> None:
    """Seconds 3 to 9 of a recording of 12 s, by its id alone; a trimmed file of the same name stays whole."""
    entries = [
        {"video_id": "_a-b_c_d_e_f_3.000_9.000", "desc": "It hums."},
        {"video_id": "trimmed_one_30.000_36.000", "desc": "It hums too."},
        {"video_id": "too_short_1_40.000_46.000", "desc": "It ends early."},
        {"video_id": "no_text_id_1_0.000_6.000", "desc": " "},
        {"video_id": "without_times", "desc": "Never."},
    ]
    write(owner / "desc_train.json", json.dumps(entries))
    write(
        owner / "desc_test.json", json.dumps([{"video_id": "trimmed_one_30.000_36.000", "desc": "It hums."}])
    )
    whole = recording(owner / "_a-b_c_d_e_f.mp4")
    recording(owner / "too_short_1.mp4")
    cut_video(whole, owner / "trimmed_one.mp4", 2, 8)
    report = bring(tmp_path, "avcap")
    assert {one.name: one.kind for one in report.lost} == {
        "no_text_id_1_0.000_6.000": "unusable",
        "without_times": "unusable",
        "too_short_1_40.000_46.000": "unreadable",
    }
    assert "too long for the piece of 6 s, too short to contain 40 to 46 s" in report.lost[-1].reason
    assert report.media == {"cut": 1, "linked": 1, "extracted": 2, "unreadable": 2}
    cut, trimmed = samples(tmp_path / "root", "avcap")
    assert samples(tmp_path / "root", "avcap", "test")[0].target == "It hums."
    assert trimmed.videos[0].samefile(owner / "trimmed_one.mp4")
    assert probe(cut.videos[0]).duration_s == pytest.approx(6, abs=0.3)
    greys = read_video(cut.videos[0], 6).frames.float().mean((1, 2, 3))
    assert greys.tolist() == pytest.approx([60, 80, 100, 120, 140, 160], abs=8)
    sound = read_audio(cut.audios[0]).numpy()
    spectrum = np.abs(np.fft.rfft(sound[4_000:12_000]))
    assert np.argmax(spectrum) * 2 == pytest.approx(500, abs=6)  # second 3 of the recording
    again = bring(tmp_path, "avcap")
    assert again.media == {"kept": 4, "unreadable": 2}
