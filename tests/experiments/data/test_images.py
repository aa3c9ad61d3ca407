import pytest
import torch
from PIL import Image

from reflow_lightning.experiments.data.images import (
    Preprocessing,
    TransformedView,
    check_calibration_transform,
    normalized,
    timm_preprocessing,
    torchvision_preprocessing,
)


def test_a_view_has_some_samples_in_their_order():
    raw = [(i, i % 2) for i in range(10)]
    view = TransformedView(raw, [7, 2], lambda image: torch.tensor(10 * image))
    assert [(int(image), label) for image, label in (view[0], view[1])] == [(70, 1), (20, 0)]
    assert len(view) == 2
    assert len(TransformedView(raw, None, torch.tensor)) == 10


def test_values_are_normalised_by_channel():
    image = Image.new("RGB", (4, 4), (255, 0, 51))
    tensor = normalized((0.5, 0.5, 0.2), (0.5, 0.25, 1.0))(image)
    assert tensor.dtype == torch.float32
    assert tensor[:, 0, 0].tolist() == pytest.approx([1.0, -2.0, 0.0], abs=1e-6)


def test_evaluation_crops_the_centre_of_the_resized_image():
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 10, 20))  # the left quarter, which the central square lacks
    tensor = Preprocessing(crop=8, resize=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert tensor.evaluation()(image).shape == (3, 8, 8)
    assert tensor.evaluation()(image).mean() > 0.9


def test_training_crops_and_flips_at_random():
    image = Image.linear_gradient("L").convert("RGB")
    transform = Preprocessing(crop=16).training()
    torch.manual_seed(0)
    crops = [transform(image) for _ in range(10)]
    assert {tuple(crop.shape) for crop in crops} == {(3, 16, 16)}
    assert len({float(crop.sum()) for crop in crops}) == 10


@pytest.mark.parametrize(
    ("weights", "resize", "crop"), [("IMAGENET1K_V1", 256, 224), ("IMAGENET1K_V2", 232, 224), ("DEFAULT", 232, 224)]
)
def test_torchvision_weights_name_their_preprocessing(weights, resize, crop):
    found = torchvision_preprocessing("resnet50", weights)
    assert (found.resize, found.crop, found.interpolation) == (resize, crop, "bilinear")
    assert found.mean == (0.485, 0.456, 0.406)


def test_so_do_bicubic_ones():
    found = torchvision_preprocessing("regnet_x_32gf", "IMAGENET1K_V2")
    assert found == Preprocessing(resize=232)
    assert torchvision_preprocessing("vit_b_16", "IMAGENET1K_SWAG_E2E_V1").interpolation == "bicubic"


def test_without_weights_the_usual_preprocessing():
    assert torchvision_preprocessing("resnet50") == Preprocessing() == Preprocessing(224, 256)


def test_unknown_weights_are_answered_with_the_known():
    with pytest.raises(
        ValueError, match="weights='V3' are none of 'resnet50': use one of IMAGENET1K_V1, IMAGENET1K_V2"
    ):
        torchvision_preprocessing("resnet50", "V3")


def test_timm_networks_name_their_preprocessing():
    found = timm_preprocessing("resnet50.a1_in1k")
    assert (found.crop, found.resize, found.interpolation) == (288, 288, "bicubic")  # larger in tests
    assert found.train_crop == 224
    assert timm_preprocessing("inception_v3.tf_in1k").mean == (0.5, 0.5, 0.5)
    found.evaluation(), found.training()


def test_an_unknown_timm_network_is_an_error():
    with pytest.raises(ValueError, match="name='resnet51' is no network of timm"):
        timm_preprocessing("resnet51")


def test_calibration_transforms_are_train_and_test():
    check_calibration_transform("train")
    check_calibration_transform("test")
    with pytest.raises(ValueError, match=r"calibration_transform='val' must be 'train'.*or 'test'"):
        check_calibration_transform("val")
