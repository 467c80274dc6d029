from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import pytest

from base.errors import UsageError
from training.augment.augment import Augmentation
from training.errors import RecipeError
from training.recipes.recipe_files import load_recipe, recipe_names, save_recipe

if TYPE_CHECKING:
    from pathlib import Path


def test_the_recipes_of_the_project_are_those_of_its_pages() -> None:
    assert recipe_names() == [
        "adapt",
        "cifar10",
        "cifar10-resnet18",
        "grey-cpu",
        "imagenet",
        "imagenet-v2",
        "small-cpu",
    ]
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert type(recipe).from_dict(recipe.to_dict()) == recipe


def test_the_papers_numbers() -> None:
    imagenet = load_recipe("imagenet")
    assert imagenet.augmentation == Augmentation()  # the defaults are the paper's
    assert imagenet.loss.temperature == 0.1
    assert (imagenet.optimizer.name, imagenet.optimizer.weight_decay) == ("lars", 1e-6)
    assert imagenet.steps(1_281_167) == 100 * 312
    rates = imagenet.learning_rates(1_281_167)
    assert rates.argmax() == 10 * 312
    assert rates.max() == pytest.approx(4.8)
    assert imagenet.data.evaluation.resize_to == 256
    cifar = load_recipe("cifar10")
    assert cifar.augmentation.blur == 0
    assert (cifar.augmentation.brightness, cifar.augmentation.hue) == (0.4, 0.1)
    assert cifar.learning_rates(50_000).max() == pytest.approx(4.0)  # 1.0 x 1024 / 256
    assert cifar.encoder.stem == "small"
    small = load_recipe("cifar10-resnet18")
    assert (small.encoder.name, small.optimizer.weight_decay) == ("resnet18", 1e-4)
    assert small.learning_rates(50_000).max() == pytest.approx(2.0)  # 1.0 x 512 / 256
    second = load_recipe("imagenet-v2")
    assert second.learning_rates(1_281_167).max() == pytest.approx(6.4)  # 0.1 x sqrt(4096)
    assert second.learning_rates(1_281_167).argmax() == pytest.approx(0.05 * 800 * 312)
    assert (second.encoder.selective_kernels, second.head.kind) == (True, "v2")


def test_a_recipe_is_frozen_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        load_recipe("small-cpu").loss.temperature = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.batchsize=3",
            r"unknown key 'batchsize' in \[training\]; did you mean 'batch_size'",
        ),
        ("trainin.seed=3", r"unknown table \[trainin\]; did you mean 'training'"),
        ("training.batch_size=many", "training.batch_size = 'many': must be of type int"),
        ("training.batch_size=1.5", "training.batch_size = 1.5: must be of type int"),
        ("training.batch_size=1", "training.batch_size = 1: must be at least 2"),
        ("training.seed=true", "training.seed = True: must be of type int"),
        ("training.seed=-1", "training.seed = -1"),
        ("training.samples=0", "training length 0"),
        (
            "training.precision=fp16",
            "training.precision = 'fp16': not one of its values; did you mean 'bf16'",
        ),
        ("encoder.name=resnet19", "encoder.name = 'resnet19'; did you mean 'resnet1"),
        ("encoder.width=0.3", "encoder.width = 0.3"),
        ("head.kind=v3", "head.kind = 'v3'"),
        ("loss.temperature=0", "loss.temperature = 0.0: must be above 0"),
        ("loss.temperature=nan", "loss.temperature = nan: must be a finite number"),
        ("optimizer.name=adam", "optimizer.name = 'adam'.*did you mean 'adamw'"),
        ("optimizer.momentum=1.0", "optimizer.momentum = 1.0"),
        ("schedule.learning_rate=0", "schedule.learning_rate = 0.0"),
        ("data.std=[1, 2]", r"data.std = \[1.0, 2.0\]: must be 3 numbers, one a channel"),
        ("data.std=[1, 1, 0]", "data.std"),
        ("data.image_size=4", "data.image_size = 4"),
        ("data.stored_size=32", "data.stored_size = 32: must not be below image_size = 64"),
        ("training.seed=100000000000000000000", "training.seed = 10{20}: must lie between .* 2.63"),
        (
            "training.samples=9223372036854775808",
            "training.samples = 9223372036854775808: must lie",
        ),
        ("training.seed=1e20", "training.seed = 1e.20: must be of type int"),
        ("data=3", "write table.key=value"),
        ("data.size", "write table.key=value"),
        ("encoder.weights_sha256=0", "encoder.weights_sha256 = 0: must be of type str"),
        ('encoder.weights_sha256="0"', "weights_sha256 without encoder.weights"),
        ("training.accumulate=4", "training.micro_batch gives the whole batch's gradient"),
        ("training.gradient_accumulation_steps=4", "compare a picture with those of its own part"),
        ("training.progressive=[]", r"training.progressive = \[\]: must be a list"),
        ("training.progressive=[[0.0]]", "must be a list of 2 values"),
        ("training.progressive=[[0.5, 64]]", r"begins its stages at \[0.5\]"),
        ("training.progressive=[[0, 32], [0.5, 48], [0.2, 64]]", "must rise from 0 to below 1"),
        ("training.progressive=[[0, 4], [0.5, 64]]", "at least 8"),
        ("training.progressive=[[0, 32]]", "must end at data.image_size = 64"),
        ("training.progressive=[[0, 128], [0.5, 64]]", "data.stored_size is 96"),
    ],
)
def test_a_bad_setting_names_key_value_and_remedy(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("small-cpu", [override])


@pytest.mark.parametrize("override", ["augmentation.flip=2", "augmentation.crop_area=[0.5, 0.1]"])
def test_augmentation_is_checked_too(override: str) -> None:
    with pytest.raises(UsageError, match="augmentation"):
        load_recipe("small-cpu", [override])


def test_stretching_and_cropping_exclude_each_other() -> None:
    assert load_recipe("small-cpu", ["data.resize=stretch"]).data.evaluation.resize == "stretch"
    with pytest.raises(RecipeError, match="stretching crops nothing"):
        load_recipe("imagenet", ["data.resize=stretch"])


def test_overrides_take_toml_values_and_bare_words() -> None:
    recipe = load_recipe(
        "small-cpu",
        ["optimizer.name=sgd", 'head.kind="v2"', "data.mean=[0.5, 0.5, 0]", "loss.temperature = 1"],
    )
    assert (recipe.optimizer.name, recipe.head.kind) == ("sgd", "v2")
    assert recipe.data.mean == (0.5, 0.5, 0.0)
    assert recipe.loss.temperature == 1.0


def test_one_kind_of_length_replaces_the_other() -> None:
    epochs = load_recipe("small-cpu", ["training.epochs=3", "training.batch_size=100"])
    assert (epochs.training.epochs, epochs.training.samples) == (3.0, None)
    assert epochs.steps(250) == 6
    samples = load_recipe("cifar10", ["training.samples=2050", "schedule.warmup_fraction=0.5"])
    assert (samples.training.samples, samples.schedule.warmup_epochs) == (2050, None)
    assert samples.steps(50_000) == 2


def test_a_file_needs_one_length(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = "[data]\nimage_size = 32\n[schedule]\nlearning_rate = 1\n[training]\nbatch_size = 8\n"
    path.write_text(text)
    with pytest.raises(RecipeError, match="either epochs or samples"):
        load_recipe(path)
    path.write_text(text + "epochs = 2\nsamples = 3\n")
    with pytest.raises(RecipeError, match="either epochs or samples"):
        load_recipe(path)
    path.write_text(text + "epochs = 2\n")
    assert load_recipe(path).name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "cannot read recipe"),
        (
            "[training]\nbatch_size = 8\nepochs = 1\n[data]\nimage_size = 32\n",
            "lacks the key 'learning_rate'",
        ),
        ("data = 3\n", "'data' must be a table"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "marked.toml"
    save_recipe(path, load_recipe("small-cpu"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_recipe(path) == load_recipe("small-cpu")


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'cifar100'; did you mean 'cifar10'"):
        load_recipe("cifar100")
    with pytest.raises(RecipeError, match=r"no recipe file there\.toml"):
        load_recipe("there.toml")


def test_a_saved_recipe_is_read_back_whole(tmp_path: Path) -> None:
    recipe = load_recipe("cifar10", ["training.seed=7", 'encoder.stem="small-stride2"'])
    path = tmp_path / "recipe.toml"
    save_recipe(path, recipe)
    assert load_recipe(path) == recipe
    assert load_recipe(path).digest == recipe.digest


def test_the_digest_is_of_the_values_not_of_the_name(tmp_path: Path) -> None:
    recipe = load_recipe("small-cpu")
    same = load_recipe("small-cpu", [f"loss.temperature={recipe.loss.temperature}"])
    assert same.digest == recipe.digest
    assert load_recipe("small-cpu", ["training.seed=1"]).digest != recipe.digest
    path = tmp_path / "renamed.toml"
    save_recipe(path, recipe)
    path.write_text(path.read_text().replace('name = "small-cpu"', 'name = "mine"'))
    assert load_recipe(path).digest == recipe.digest


def test_a_run_shorter_than_its_warm_up_still_has_a_peak() -> None:
    recipe = load_recipe("imagenet", ["training.epochs=2", "training.batch_size=10"])
    rates = recipe.learning_rates(100)
    assert len(rates) == 20
    assert rates.argmax() == 10


def test_views_grow_by_stages(tmp_path: Path) -> None:
    stages = "training.progressive=[[0.0, 32], [0.5, 48], [0.75, 64]]"
    recipe = load_recipe("small-cpu", [stages, "training.batch_size=10", "training.samples=80"])
    assert recipe.view_sizes(100).tolist() == [32] * 4 + [48] * 2 + [64] * 2
    assert load_recipe("small-cpu", ["training.samples=512"]).view_sizes(300).tolist() == [64] * 2
    save_recipe(tmp_path / "recipe.toml", recipe)
    assert load_recipe(tmp_path / "recipe.toml") == recipe
