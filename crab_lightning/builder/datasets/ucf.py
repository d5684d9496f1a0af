"""Import UCF51 (task ``ucf``): the classes of UCF101 whose files have sound, first split."""

from __future__ import annotations

from crab_lightning.builder.rows import Imported, Importer, Settings, answer
from crab_lightning.builder.source import AnnotationError, Source, read_lines, stem_of

_NAMES = """
ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BasketballDunk BlowDryHair
BlowingCandles BodyWeightSquats Bowling BoxingPunchingBag BoxingSpeedBag BrushingTeeth CliffDiving
CricketBowling CricketShot CuttingInKitchen FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl
Haircut Hammering HammerThrow HandstandPushups HandstandWalking HeadMassage IceDancing Knitting LongJump
MoppingFloor ParallelBars PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingSitar Rafting
ShavingBeard Shotput SkyDiving SoccerPenalty StillRings SumoWrestling Surfing TableTennisShot Typing
UnevenBars WallPushups WritingOnBoard
"""
CLASSES = frozenset(_NAMES.split())


def read(source: Source, settings: Settings) -> Imported:
    """Read the lists of the first split; the class is the folder, since some file names differ from it."""
    found = Imported()
    classes = CLASSES
    if settings.classes is not None:
        classes = frozenset(line.strip() for _, line in read_lines(settings.classes))
    for split, name in (("train", "trainlist01.txt"), ("test", "testlist01.txt")):
        path = source.annotation(name)
        for line, text in read_lines(path):
            place = text.split()[0]
            label, slash, _ = place.partition("/")
            if not slash or not place.endswith(".avi"):
                raise AnnotationError(f"{path}, line {line}: {text!r}; <Class>/<file>.avi is expected")
            if label not in classes:
                continue
            clip = stem_of(place)
            values, taught = {"label": label}, {"new_label": answer(label.lower(), "")}
            file = source.media(clip)
            found.add_clip(
                "ucf", split, clip, file, clip, values, taught, video=".avi", audio=".wav", wanted=place
            )
    return found


IMPORTER = Importer(
    title="UCF51, from UCF101",
    tasks=("ucf",),
    read=read,
    expected={("ucf", "train"): 4901, ("ucf", "test"): 1944},
    paper_k=4.5,
    access="open (crcv.ucf.edu); no licence was found",
    files="trainlist01.txt, testlist01.txt; UCF-101/<Class>/<file>.avi",
    options=("classes",),
)
