"""Bad settings given to the real commands: exit code 2, one line with key and remedy, no traces.

In each case torch cannot be imported, as what is wrong must be found before that. What only the
data or the model can show is in `test_bad_data.py`.
"""

import os
import re

import pytest

from tests.faults.commands import Command

pytestmark = pytest.mark.slow

LONG = "x" * 100_000
LONGEST_LINE = 2100

# The command and its words, and what the line must say.
TRAIN = {
    # slips in keys, groups and options
    "seeed=1": r"seeed is no setting \(nearest: seed\)",
    "model.learnin_rate=1": r"model.learnin_rate is no setting \(nearest: learning_rate",
    "gpu=rtx306": r"gpu=rtx306: no such option \(nearest: rtx3060",
    "gpu=quantum": r"gpu=quantum: no such option; --help lists them",
    "tta=unknown": r"tta=unknown: no such option \(nearest: none\)",
    "+foo=1": r"foo is no setting",
    "~model": r"~model: a setting cannot be taken away; choose model=",
    "model=[resnet50,vit_base]": r"choose an option of model \(nearest: vit_base, resnet50\)",
    "data=digits data.test_count=5": r"data.test_count is no setting \(nearest: test_ratio\)",
    # numbers and types
    "image_size=0": r"image_size=0 is out of range: 16 to 4096",
    "image_size=1e9": r"image_size=1000000000.0 is neither auto nor a whole number",
    "image_size=1000000000": r"image_size=1000000000 is out of range: 16 to 4096",
    "micro_batch_size=-4": r"micro_batch_size=-4 is out of range: 1 to",
    "model.learning_rate=nan": r"model.learning_rate=nan is out of range: 1e-09 to 10",
    "model.learning_rate=-inf": r"model.learning_rate=-inf is out of range: 1e-09 to 10",
    "model.learning_rate=fast": r"model.learning_rate='fast' is not of type float",
    "seed=1.5": r"seed=1.5: Value '1.5' of type 'float' could not be converted to Integer",
    f"trainer.max_epochs=1{'0' * 40}": r"is out of range: 1 to 1e\+06",
    "data.augmentation.flip=2": r"data.augmentation.flip=2 is not of type bool",
    # what contradicts itself, or this machine
    "global_batch_size=100 micro_batch_size=16 accumulate_grad_batches=2": r"= 32: give two of",
    "folds=3 fold=3": r"fold=3 does not exist: folds=3 are counted from 0",
    "folds=1": r"folds=1 is out of range: 2 to 20",
    "trainer.devices=1000": r"global_batch_size=32 is smaller than trainer.devices=1000",
    "trainer.devices=1000 global_batch_size=4000 gpu=cpu": r"devices=1000: this machine has \d+",
    "precision=fp16 gpu=cpu": r"precision=fp16: .* give precision=fp32 or bf16",
    "callbacks.checkpoint.monitor=val/f2": r"val/f2 is not one of val/accuracy, val/f1, val/loss",
    "callbacks.checkpoint.monitor=val/loss": r"the worst val/loss for the best: give .*mode=min",
    # grammar
    "seed=[1": r"seed=\[1: settings are written key=value; quote special characters",
    "cache_dir='open": r"cache_dir='open: settings are written key=value; quote",
    "run=${": r"run=\$\{: settings are written key=value; quote",
    "=1": r"=1: settings are written key=value",
    "seed=1,2": r"several values are a sweep, which needs -m; else put them in quotes",
    "gpu=日本": r"gpu=日本: choose an option of gpu",
    # interpolations
    "cache_dir=${nowhere}": r"cache_dir: Interpolation key 'nowhere' not found",
    "seed=${oc.env:FAULTS_WORD}": r"seed: Value 'hostile' .*could not be converted to Integer",
    "global_batch_size=${micro_batch_size}": r"global_batch_size: Value .auto. .*could not be",
    "cache_dir=${oc.env:FAULTS_NONE}": r"cache_dir: .*'FAULTS_NONE' not found",
    # empty, endless and invisible words
    "run=": r"run= is empty: give a place, or leave it out",
    "cache_dir=''": r"cache_dir='' is empty: give a place",
    "model.name=''": r"model.name is empty: give a name",
    "run=a\nb": r"run=a\\nb: settings are written key=value",
    "seed=\x1b[2J": r"seed=\\x1b\[2J: settings are written key=value",
    f"seed={LONG}": r"seed=x+ \.\.\. x+' of type 'str' could not be converted to Integer",
    f"{LONG}=1": r"x+ \.\.\. x+ is no setting",
    f"gpu={LONG}": r"gpu=x+ \.\.\. x+: no such option",
    f"run={LONG}": r"run=x+ \.\.\. x+ cannot be made \(File name too long\): name another",
    f"data=image_folder data.root={LONG}": r"x+: File name too long: give a shorter one",
    # folders and files
    "run=mine": r"run=mine holds other files: name an empty or a new folder",
    "run=notes.txt/below": r"cannot be made \(Not a directory\): name another folder",
    "run=/proc/gpuopt": r"run=/proc/gpuopt cannot be made .*: name another folder",
    "hydra.run.dir=notes.txt/below": r"choose another folder with run=",
    "run=latest": r"run=latest names a run to go on with: add resume=true",
    "resume=true": r"resume=true: no run under outputs/train .* name a folder with resume=PATH",
    "resume=nowhere": r"nowhere is not a run folder: it holds no config.yaml; name the folder of",
    "resume=damaged": r"damaged/config.yaml cannot be read .*: restore it, or start a new run",
    "resume=a run=b": r"resume=a and run=b name two folders: give one of them",
    "cache_dir=notes.txt": r"cache_dir=notes.txt is a file: give a folder",
    "data=image_folder": r"data.root is not set: give the folder with one folder per class",
    "data=image_folder data.root=nowhere": r"no folder nowhere: set data.root to the folder",
    "data=image_folder data.root=notes.txt": r"data.root=notes.txt is a file: give the folder",
    "data=image_csv data.root=mine": r"no file mine/train.csv: set data.train_csv",
    "data=image_csv data.train_csv=notes.txt": r"no folder train: set data.train_dir",
    # what a configuration may not call
    "data._target_=os.system": r"data._target_=os.system is refused: only classes of gpuopt",
    # flags: of the seed guide, and Hydra's own
    "--batch-size=16 --lr 1": r"key=value here: micro_batch_size=16 model.learning_rate=1",
    "--config-dir": r"--config-dir/-cd: expected one argument; gpuopt train --hydra-help lists",
    "--config-name nowhere": r"there is no configuration nowhere",
}
OTHERS = {
    "predict": {
        "": r"there is no run under outputs/train: train one first, or name one with run=",
        "run=nowhere": r"run=nowhere does not exist: name a run folder or a checkpoint file",
        "run=mine": r"run=mine has no checkpoint: name the folder of a trained run",
        f"run={LONG}": r"x+: File name too long: give a shorter one",
        "run=notes.txt data=image_folder data.root=nowhere": r"no folder nowhere: set data.root",
        "output=notes.txt/p.csv": r"the folder notes.txt does not exist",
        "output=": r"output= is empty: give a place",
        "resume=true": r"resume=true: no prediction under .*outputs/predict was cut short; name",
        "resume=nowhere": r"nowhere/predictions.csv was not cut short: leave resume out to begin",
        "output=p.csv resume=true": r"p.csv was not cut short: leave resume out to begin",
        "folds_per_pass=0": r"folds_per_pass=0 is out of range: 1 to 20",
        "folds_per_pass=some": r"folds_per_pass=some is neither auto nor a whole number",
        "tta.views=[]": r"tta.views must be a list of at least one view",
        "trainer.max_epochs=1": r"trainer is no setting",
        "-m batch_size=1,2": r"only `gpuopt train` takes -m: predict once per setting",
    },
    "sweep": {
        "": r"no key has several values: give one, such as seed=1,2,3",
        "model.learning_rate=interval(1,0)": r"model.learning_rate=interval\(1,0\): ",
        "seed=choice(": r"seed=choice\(: settings are written key=value",
        "seed=glob(*)": r"seed=glob\(\*\): nothing to choose from, give values",
        "run=x seed=1,2": r"run= and resume= name one folder, a sweep makes one per job",
        "hydra.sweep.dir=notes.txt": r"notes.txt is a file: name a folder",
    },
    "config": {
        "sow": r"config has no verb 'sow' \(nearest: show\)",
        "show gpu=rtx306": r"gpu=rtx306: no such option \(nearest: rtx3060",
        "validate =1": r"=1: settings are written key=value",
        "validate precision=fp16 gpu=cpu": r"give precision=fp32 or bf16",
        "validate --config-dir nowhere": r"--config-dir nowhere: no such folder; name one",
        "copy mine": r"mine exists: move it away, or name another folder",
        "copy notes.txt/conf": r"cannot be written \(Not a directory\): name another folder",
        "copy a b": r"config copy takes one folder, not a b",
        f"copy {LONG}": r"x+: File name too long: give a shorter one",
    },
}
CASES = [("train", *case) for case in TRAIN.items()]
CASES += [(name, *case) for name, cases in OTHERS.items() for case in cases.items()]
# The first case of each command is a process of its own, as a user's is.
COLD = {command: (command, words) for command, words, _ in reversed(CASES)}.values()


def ident(value):
    return value if len(value) < 60 else f"{value[:30]}...{len(value)}"


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory):
    """A folder that makes importing torch fail."""
    folder = tmp_path_factory.mktemp("no_torch")
    (folder / "torch.py").write_text("raise RuntimeError('torch was imported')")
    return folder


@pytest.fixture
def desk(tmp_path):
    """A user's folder, with things that are none of gpuopt's."""
    (tmp_path / "notes.txt").write_text("milk, bread")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.yaml").write_text("a: [1, 2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("chapter 1")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("command", "words", "line"), CASES, ids=ident)
def test_it_is_refused_in_one_line_and_nothing_is_written(
    desk, no_torch, light, command, words, line
):
    before = contents(desk)
    paths = [str(no_torch), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = Command(
        f"gpuopt.{command}",
        *filter(None, words.split(" ")),
        cwd=desk,
        environment={"PYTHONPATH": os.pathsep.join(paths), "FAULTS_WORD": "hostile"},
        warm=None if (command, words) in COLD else light,
    ).end()
    assert done.code == 2, done.stderr[-2000:]
    assert done.stderr.count("\n") == 1, done.stderr[-2000:]
    speaker = "train" if command == "sweep" else command  # a sweep is `gpuopt train -m`
    assert done.stderr.startswith(f"gpuopt {speaker}: ")
    assert re.search(line, done.stderr), done.stderr[-2000:]
    assert len(done.stderr) < LONGEST_LINE
    assert done.stderr.rstrip("\n").isprintable()
    assert contents(desk) == before
